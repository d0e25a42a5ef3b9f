"""`featcache show`: one cache file."""

import argparse
from pathlib import Path

from featcache.cli.command import Command, argument
from featcache.cli.output import print_result


def _show(arguments: argparse.Namespace) -> int:
    from featcache.inspection import cache_lines, cache_record

    return print_result(arguments, cache_record(arguments.file, stats=arguments.stats), cache_lines)


COMMAND = Command(
    "show",
    "what one cache file holds",
    "Show what one cache file holds.",
    _show,
    [
        argument("file", type=Path, metavar="FILE", help="a feature cache, *.h5, finished or not"),
        argument("--stats", action="store_true", help="also statistics of each tap; reads all features"),
    ],
)
