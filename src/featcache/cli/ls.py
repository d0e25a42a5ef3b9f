"""`featcache ls`: the cache files in folders."""

import time
from pathlib import Path

from featcache.cli.command import OK, PROBLEM, Arguments, argument, command, print_error, print_result


@command(
    "the cache files in folders",
    argument("folders", type=Path, nargs="*", default=[Path("artifacts")], metavar="FOLDER", help="default: artifacts"),
)
def run(arguments: Arguments) -> int:
    """List the cache files in and below folders."""
    from featcache.inspection import listing, listing_lines

    records = listing(arguments.folders, time.time())
    print_result(arguments, records, lambda records: listing_lines(records, arguments.folders))
    damaged = [record["error"] for record in records if record["error"]]
    for error in damaged:
        print_error(error)
    return PROBLEM if damaged else OK
