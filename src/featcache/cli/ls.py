"""`featcache ls`: the cache files in folders."""

import argparse
import time
from pathlib import Path

from featcache.cli.command import OK, PROBLEM, Command, argument
from featcache.cli.output import print_error, print_result
from featcache.core.formatting import Table, printable


def _ls(arguments: argparse.Namespace) -> int:
    from featcache.inspection import LISTING_COLUMNS, listing, listing_cells

    records = listing(arguments.folders, time.time())
    damaged = [record["error"] for record in records if record["error"]]
    places = ", ".join(map(str, arguments.folders))
    nothing = printable(f"no feature caches in {places}; `luigi --module pipeline Submit` makes some")
    table = Table([listing_cells(record) for record in records], LISTING_COLUMNS, paths=True)
    print_result(arguments, records, lambda records: [table] if records else [nothing])
    for error in damaged:
        print_error(printable(error))
    return PROBLEM if damaged else OK


_FOLDERS = argument(
    "folders", type=Path, nargs="*", default=[Path("artifacts")], metavar="FOLDER", help="default: artifacts"
)
COMMAND = Command(
    "ls",
    "the cache files in folders",
    "List the cache files in and below folders.",
    _ls,
    [_FOLDERS],
)
