"""`featcache show` and `featcache ls`: what cache files hold."""

import argparse
import time
from pathlib import Path

from featcache.commands import OK, PROBLEM, screen


def add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache show`."""
    parser = commands.add_parser(
        "show", help="what one cache file holds", description="Show what one cache file holds."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a feature cache, *.h5, finished or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> int:
    from featcache import describe

    record = describe.cache_record(arguments.file)
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(describe.cache_lines(record))
    return OK


def add_ls(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache ls`."""
    parser = commands.add_parser(
        "ls", help="the cache files in folders", description="List the cache files in and below folders."
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", default=[Path("artifacts")], metavar="FOLDER", help="default: artifacts"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(command=_ls)


def _ls(arguments: argparse.Namespace) -> int:
    from featcache import describe

    records = describe.listing(arguments.folders, time.time())
    damaged = [record["error"] for record in records if record["error"]]
    if arguments.json:
        screen.show_json(records)
    elif records:
        screen.show_table(describe.LISTING_COLUMNS, [describe.listing_cells(record) for record in records])
    else:
        places = ", ".join(map(str, arguments.folders))
        screen.show([f"no feature caches in {places}; `luigi --module pipeline Submit` makes some"])
    for error in damaged:
        screen.complain(describe.printable(error))
    return PROBLEM if damaged else OK
