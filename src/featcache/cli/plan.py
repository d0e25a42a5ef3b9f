"""`featcache plan`: what a run would cost."""

from featcache.cli.command import Arguments, command, print_result, project_of


@command("rows, disk, memory and hours of a run, before it", project=True)
def run(arguments: Arguments) -> int:
    """Estimate what extracting the features would cost: rows, disk, memory, and hours on this machine."""
    from featcache.inspection import plan_lines, plan_record

    return print_result(arguments, plan_record(project_of(arguments)), plan_lines)
