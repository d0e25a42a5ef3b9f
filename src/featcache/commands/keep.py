"""`featcache verify` and `featcache repair`: whether artifacts are sound, and making caches whole."""

import argparse
from pathlib import Path

from featcache.commands import USAGE, screen
from featcache.commands.state import add_settings


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache verify`."""
    parser = commands.add_parser(
        "verify",
        help="whether caches and other artifacts are sound",
        description="Check artifacts: every fault, and whether it is the disk's, the file's or the settings'.",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a cache, another artifact, or a folder")
    parser.add_argument("--deep", action="store_true", help="also read every image of the source again")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long reading may show no progress; default: 60",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(command=_verify, error_code=USAGE)


def _verify(arguments: argparse.Namespace) -> int:
    from featcache.verify import report

    records = report.verify_records(
        arguments.paths, arguments.overrides, deep=arguments.deep, seconds=arguments.timeout
    )
    if arguments.json:
        screen.show_json(records)
    else:
        screen.show(report.verify_lines(records))
    return report.exit_code(records)


def add_repair(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache repair`."""
    parser = commands.add_parser(
        "repair",
        help="compute the damaged blocks of feature caches anew",
        description="Verify, and compute the damaged blocks of feature caches anew; sound rows are copied.",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a feature cache, or a folder with some")
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(command=_repair)


def _repair(arguments: argparse.Namespace) -> int:
    from featcache import repair

    records = repair.repair_records(arguments.paths, arguments.overrides, screen.Notices())
    if arguments.json:
        screen.show_json(records)
    else:
        screen.show(repair.repair_lines(records))
    return repair.exit_code(records)
