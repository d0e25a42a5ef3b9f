"""`featcache plan`: what a run would cost."""

import argparse

from featcache.cli.command import Command, project_of
from featcache.cli.output import print_result


def _plan(arguments: argparse.Namespace) -> int:
    from featcache.inspection import plan_lines, plan_record

    return print_result(arguments, plan_record(project_of(arguments)), plan_lines)


COMMAND = Command(
    "plan",
    "rows, disk, memory and hours of a run, before it",
    "Estimate what extracting the features would cost: rows, disk, memory, and hours on this machine.",
    _plan,
    project=True,
)
