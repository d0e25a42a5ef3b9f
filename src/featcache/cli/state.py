"""`featcache status` and `featcache plan`: what is complete, what would run, and what that would cost."""

import argparse

from featcache.cli import output
from featcache.cli.command import OK, PROBLEM, Command, argument, project_of


def _status(arguments: argparse.Namespace) -> int:
    from featcache.inspection import status_lines, status_record, would_run

    record = status_record(project_of(arguments))
    code = PROBLEM if arguments.check and would_run(record) else OK
    return output.print_result(arguments, record, status_lines, code)


def _plan(arguments: argparse.Namespace) -> int:
    from featcache.inspection import plan_lines, plan_record

    notices = output.progress(arguments)
    record = plan_record(project_of(arguments), notices, measure=arguments.measure)
    return output.print_result(arguments, record, plan_lines)


STATUS = Command(
    "status",
    "what is complete, and what would make it run",
    "Show every stage of luigi.cfg's project: complete or not, size, age, and what would make it run.",
    _status,
    [argument("--check", action="store_true", help="exit with 1 when `Submit` would run anything")],
    project=True,
)
PLAN = Command(
    "plan",
    "rows, disk, memory and hours of a run, before it",
    "Say what extracting the features would cost: rows, disk, memory, and hours on this machine.",
    _plan,
    [argument("--measure", action="store_true", help="measure the speed now, for some seconds; starts TensorFlow")],
    project=True,
)
