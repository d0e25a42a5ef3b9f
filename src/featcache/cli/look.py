"""`featcache show` and `featcache ls`: what cache files hold."""

import argparse
import time
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import OK, PROBLEM, Command, argument
from featcache.core.formatting import Table, printable


def _show(arguments: argparse.Namespace) -> int:
    from featcache.inspection import cache_lines, cache_record

    return output.print_result(arguments, cache_record(arguments.file, stats=arguments.stats), cache_lines)


def _ls(arguments: argparse.Namespace) -> int:
    from featcache.inspection import LISTING_COLUMNS, listing, listing_cells

    records = listing(arguments.folders, time.time())
    damaged = [record["error"] for record in records if record["error"]]
    places = ", ".join(map(str, arguments.folders))
    nothing = printable(f"no feature caches in {places}; `luigi --module pipeline Submit` makes some")
    table = Table([listing_cells(record) for record in records], LISTING_COLUMNS, paths=True)
    output.print_result(arguments, records, lambda records: [table] if records else [nothing])
    for error in damaged:
        output.print_error(printable(error))
    return PROBLEM if damaged else OK


SHOW = Command(
    "show",
    "what one cache file holds",
    "Show what one cache file holds.",
    _show,
    [
        argument("file", type=Path, metavar="FILE", help="a feature cache, *.h5, finished or not"),
        argument("--stats", action="store_true", help="also statistics of each tap; reads all features"),
    ],
)
LS = Command(
    "ls",
    "the cache files in folders",
    "List the cache files in and below folders.",
    _ls,
    [
        argument(
            "folders", type=Path, nargs="*", default=[Path("artifacts")], metavar="FOLDER", help="default: artifacts"
        )
    ],
)
