"""`featcache plan`: what a run would cost."""

import argparse

from featcache.cli.command import Command, argument, project_of
from featcache.cli.output import print_result, progress


def _plan(arguments: argparse.Namespace) -> int:
    from featcache.inspection import plan_lines, plan_record

    record = plan_record(project_of(arguments), progress(arguments), measure=arguments.measure)
    return print_result(arguments, record, plan_lines)


COMMAND = Command(
    "plan",
    "rows, disk, memory and hours of a run, before it",
    "Estimate what extracting the features would cost: rows, disk, memory, and hours on this machine.",
    _plan,
    [argument("--measure", action="store_true", help="measure the speed now, for some seconds; starts TensorFlow")],
    project=True,
)
