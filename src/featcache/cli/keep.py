"""`featcache verify` and `featcache repair`: whether artifacts are sound, and making caches whole."""

import argparse
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import USAGE, Command, argument


def _verify(arguments: argparse.Namespace) -> int:
    from featcache.inspection import exit_code, verify_lines, verify_records

    records = verify_records(arguments.paths, arguments.overrides, deep=arguments.deep, seconds=arguments.timeout)
    return output.print_result(arguments, records, verify_lines, exit_code(records))


def _repair(arguments: argparse.Namespace) -> int:
    from featcache.stages import exit_code, repair_lines, repair_records

    records = repair_records(arguments.paths, arguments.overrides, output.progress(arguments))
    return output.print_result(arguments, records, repair_lines, exit_code(records))


VERIFY = Command(
    "verify",
    "whether caches and other artifacts are sound",
    "Check artifacts: every fault, and whether it is the disk's, the file's or the settings'.",
    _verify,
    [
        argument("paths", type=Path, nargs="+", metavar="PATH", help="a cache, another artifact, or a folder"),
        argument("--deep", action="store_true", help="also read every image of the source again"),
        argument(
            "--timeout",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="how long reading may show no progress; default: 60",
        ),
    ],
    project=True,
    error_code=USAGE,
)
REPAIR = Command(
    "repair",
    "compute the damaged blocks of feature caches anew",
    "Verify, and compute the damaged blocks of feature caches anew; sound rows are copied.",
    _repair,
    [argument("paths", type=Path, nargs="+", metavar="PATH", help="a feature cache, or a folder with some")],
    project=True,
)
