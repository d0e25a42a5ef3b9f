"""`featcache du` and `featcache gc`: what lies there, and removing what nothing needs."""

import argparse
import re
import time

from featcache.cli import output
from featcache.cli.command import Command, argument, project_of

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _du(arguments: argparse.Namespace) -> int:
    from featcache.inspection import usage_lines, usage_record

    record = usage_record(project_of(arguments), time.time())
    return output.print_result(arguments, record, usage_lines)


def _gc(arguments: argparse.Namespace) -> int:
    from featcache.inspection import removal_lines, removal_record

    record = removal_record(
        project_of(arguments),
        time.time(),
        output.progress(arguments).notice,
        remove=arguments.yes,
        keep_bytes=arguments.keep_bytes,
    )
    return output.print_result(arguments, record, removal_lines)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?B?)", text.strip(), re.IGNORECASE)
    unit = match[2].upper() if match else ""
    unit = f"{unit}B" if unit in "KMGT" and unit else unit
    if match is None or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected bytes, e.g. 5000000 or 20GB; got {text!r}")
    return int(float(match[1]) * _UNITS[unit])


DU = Command(
    "du",
    "what lies in the project's folder",
    "Show what lies in the project's folder, largest first.",
    _du,
    project=True,
)
GC = Command(
    "gc",
    "remove what no settings in force reach",
    "Say what no settings in force reach, oldest first; with --yes, remove it.",
    _gc,
    [
        argument("--yes", action="store_true", help="really remove; without it nothing is changed"),
        argument(
            "--keep-bytes",
            type=_bytes,
            default=0,
            metavar="N",
            help="keep the newest unreached things up to this size, e.g. 5000000 or 20GB; default: 0",
        ),
    ],
    project=True,
)
