"""`featcache gc`: remove what the current settings don't use."""

import argparse
import re
import time

from featcache.cli.command import Command, argument, project_of
from featcache.cli.output import print_result, progress

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _gc(arguments: argparse.Namespace) -> int:
    from featcache.inspection import removal_lines, removal_record

    record = removal_record(
        project_of(arguments),
        time.time(),
        progress(arguments).notice,
        remove=arguments.yes,
        keep_bytes=arguments.keep_bytes,
    )
    return print_result(arguments, record, removal_lines)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give bytes, e.g. 5000000 or 20GB")
    return int(float(match[1]) * _UNITS[match[2]])


COMMAND = Command(
    "gc",
    "remove what the current settings don't use",
    "List what the current settings don't use, oldest first; with --yes, remove it.",
    _gc,
    [
        argument("--yes", action="store_true", help="really remove; without it nothing is changed"),
        argument(
            "--keep-bytes",
            type=_bytes,
            default=0,
            metavar="N",
            help="keep the newest of it up to this size, e.g. 5000000 or 20GB; default: 0",
        ),
    ],
    project=True,
)
