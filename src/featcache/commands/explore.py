"""`featcache stats`, `featcache pca` and `featcache neighbours`: what lies in the features."""

import argparse
from pathlib import Path

from featcache.commands import OK, screen

_METRICS = ("cosine", "euclidean")


def add_stats(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache stats`."""
    parser = commands.add_parser(
        "stats",
        help="statistics of a cache's features",
        description="Show how the features of a cache are distributed: means, deviations, shares of zeros.",
    )
    _add_file(parser)
    parser.set_defaults(command=_stats)


def _stats(arguments: argparse.Namespace) -> int:
    from featcache import explore

    record = explore.stats_record(arguments.file, arguments.tap)
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(explore.stats_lines(record))
    return OK


def add_pca(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache pca`."""
    parser = commands.add_parser(
        "pca",
        help="principal components of a cache's features",
        description="Show the directions in which the rows of a cache differ most, and how much of all variance they hold.",
    )
    _add_file(parser)
    parser.add_argument("--components", type=int, default=10, metavar="K", help="how many at most; default: 10")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write where each row lies along them to FILE, a CSV")
    parser.set_defaults(command=_pca)


def _pca(arguments: argparse.Namespace) -> int:
    from featcache import explore

    record = explore.pca_record(arguments.file, arguments.tap, arguments.components, arguments.csv)
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(explore.pca_lines(record))
    return OK


def add_neighbours(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache neighbours`."""
    parser = commands.add_parser(
        "neighbours",
        help="the rows nearest to given ones",
        description="Show which rows of a cache are nearest to given ones; every row is compared.",
    )
    _add_file(parser)
    parser.add_argument("ids", nargs="+", metavar="ID", help="ids of rows of FILE")
    parser.add_argument("--among", type=Path, metavar="CACHE", help="the cache that is searched; default: FILE")
    parser.add_argument("--count", type=int, default=5, metavar="K", help="how many of each; default: 5")
    parser.add_argument("--metric", choices=_METRICS, default="cosine", help="the distance; default: cosine")
    parser.set_defaults(command=_neighbours)


def _neighbours(arguments: argparse.Namespace) -> int:
    from featcache import explore

    record = explore.neighbours_record(
        arguments.file, arguments.ids, arguments.among, arguments.tap, arguments.count, arguments.metric
    )
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(explore.neighbours_lines(record))
    return OK


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a finished feature cache, *.h5")
    parser.add_argument("--tap", metavar="NAME", help="one of its taps, where it has several")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
