"""`featcache doctor`: whether machine, installation and settings can run the main job."""

import argparse

from featcache.cli.command import OK, PROBLEM, Command
from featcache.cli.output import print_result, progress


def _doctor(arguments: argparse.Namespace) -> int:
    from featcache.inspection import doctor_lines, doctor_record, failed

    record = doctor_record(arguments.overrides, progress(arguments))
    return print_result(arguments, record, doctor_lines, PROBLEM if failed(record) else OK)


COMMAND = Command(
    "doctor",
    "whether machine, installation and settings are sound",
    "Check versions, TensorFlow and its device, disk, luigi.cfg and weights: PASS, WARN or FAIL, and the fix.",
    _doctor,
    project=True,
)
