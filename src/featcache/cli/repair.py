"""`featcache repair`: compute the damaged blocks of feature caches again."""

import argparse
from pathlib import Path

from featcache.cli.command import Command, argument
from featcache.cli.output import print_result, progress


def _repair(arguments: argparse.Namespace) -> int:
    from featcache.stages import exit_code, repair_lines, repair_records

    records = repair_records(arguments.paths, arguments.overrides, progress(arguments))
    return print_result(arguments, records, repair_lines, exit_code(records))


COMMAND = Command(
    "repair",
    "compute the damaged blocks of feature caches again",
    "Verify, and compute the damaged blocks of feature caches again; sound rows are copied.",
    _repair,
    [argument("paths", type=Path, nargs="+", metavar="PATH", help="a feature cache, or a folder with some")],
    project=True,
)
