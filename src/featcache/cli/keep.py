"""`featcache verify` and `featcache repair`: whether artifacts are sound, and repair of feature caches."""

import argparse
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import USAGE, Command, argument


def _verify(arguments: argparse.Namespace) -> int:
    from featcache.inspection import exit_code, verify_lines, verify_records

    records = verify_records(arguments.paths, seconds=arguments.timeout)
    return output.print_result(arguments, records, verify_lines, exit_code(records))


def _repair(arguments: argparse.Namespace) -> int:
    from featcache.stages import exit_code, repair_lines, repair_records

    records = repair_records(arguments.paths, arguments.overrides, output.StderrProgress(arguments))
    return output.print_result(arguments, records, repair_lines, exit_code(records))


VERIFY = Command(
    "verify",
    "whether caches and other artifacts are sound",
    "Check artifacts, and report every fault with its cause: disk, file or settings.",
    _verify,
    [
        argument("paths", type=Path, nargs="+", metavar="PATH", help="a cache, another artifact, or a folder"),
        argument(
            "--timeout",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="how long a file may take, beside 1 s for each 10 MB; default: 60",
        ),
    ],
    error_code=USAGE,
)
REPAIR = Command(
    "repair",
    "compute the damaged blocks of feature caches again",
    "Verify, and compute the damaged blocks of feature caches again; sound rows are copied.",
    _repair,
    [argument("paths", type=Path, nargs="+", metavar="PATH", help="a feature cache, or a folder with some")],
    project=True,
)
