"""`featcache du` and `featcache gc`: what lies there, and removing what nothing needs."""

import argparse
import re
import time

from featcache.commands import OK, screen
from featcache.commands.state import add_settings

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def add_du(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache du`."""
    parser = commands.add_parser(
        "du",
        help="what lies in the project's folder",
        description="Show what lies in the project's folder, largest first.",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_du)


def _du(arguments: argparse.Namespace) -> int:
    from featcache import space
    from featcache.configuration import configured_project

    record = space.usage_record(configured_project(arguments.overrides), time.time())
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(space.usage_lines(record))
    return OK


def add_gc(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache gc`."""
    parser = commands.add_parser(
        "gc",
        help="remove what no settings in force reach",
        description="Say what no settings in force reach, oldest first; with --yes, remove it.",
    )
    parser.add_argument("--yes", action="store_true", help="really remove; without it nothing is changed")
    parser.add_argument(
        "--keep-bytes",
        type=_bytes,
        default=0,
        metavar="N",
        help="keep the newest unreached things up to this size, e.g. 5000000 or 20GB; default: 0",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    from featcache import space
    from featcache.configuration import configured_project

    record = space.removal_record(
        configured_project(arguments.overrides),
        time.time(),
        screen.Notices().notice,
        remove=arguments.yes,
        keep_bytes=arguments.keep_bytes,
    )
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(space.removal_lines(record))
    return OK


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?B?)", text.strip(), re.IGNORECASE)
    unit = match[2].upper() if match else ""
    unit = f"{unit}B" if unit in "KMGT" and unit else unit
    if match is None or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected bytes, e.g. 5000000 or 20GB; got {text!r}")
    return int(float(match[1]) * _UNITS[unit])
