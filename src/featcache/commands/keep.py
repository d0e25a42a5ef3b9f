"""`featcache verify`: whether artifacts are sound."""

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
