"""`featcache doctor`: whether machine, installation and settings can run the main job."""

from featcache.cli.command import OK, PROBLEM, Arguments, command, print_result, progress


@command("whether machine, installation and settings are sound", project=True)
def run(arguments: Arguments) -> int:
    """Check versions, TensorFlow and its device, disk, luigi.cfg and weights: PASS, WARN or FAIL, and the fix."""
    from featcache.inspection import doctor_lines, doctor_record, failed

    record = doctor_record(arguments.overrides, progress(arguments))
    return print_result(arguments, record, doctor_lines, PROBLEM if failed(record) else OK)
