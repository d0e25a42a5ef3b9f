"""`featcache du`: what the project's folder holds, and how large it is."""

import argparse
import time

from featcache.cli.command import Command, project_of
from featcache.cli.output import print_result


def _du(arguments: argparse.Namespace) -> int:
    from featcache.inspection import usage_lines, usage_record

    return print_result(arguments, usage_record(project_of(arguments), time.time()), usage_lines)


COMMAND = Command(
    "du",
    "what the project's folder holds",
    "Show what the project's folder holds, largest first.",
    _du,
    project=True,
)
