"""`featcache gc`: remove what neither the current settings nor remembered runs use."""

import argparse
import re
import time

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give bytes, e.g. 5000000 or 20GB")
    return int(float(match[1]) * _UNITS[match[2]])


@command(
    "remove what neither these settings nor remembered runs use",
    argument("--yes", action="store_true", help="really remove; without it nothing is changed"),
    argument(
        "--keep-bytes",
        type=_bytes,
        default=0,
        metavar="N",
        help="keep the newest of it up to this size, e.g. 5000000 or 20GB; default: 0",
    ),
    project=True,
)
def run(arguments: Arguments) -> int:
    """List what neither the current settings nor remembered runs use, oldest first; with --yes, remove it."""
    from featcache.inspection import removal_lines, removal_record

    project, notice = project_of(arguments), progress(arguments).notice
    record = removal_record(project, time.time(), notice, remove=arguments.yes, keep_bytes=arguments.keep_bytes)
    return print_result(arguments, record, removal_lines)
