"""`featcache stats`, `featcache pca` and `featcache neighbours`: what lies in the features."""

import argparse
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import Command, argument, project_of

_METRICS = ("cosine", "euclidean")
_FILE_AND_TAP = (
    argument("file", type=Path, metavar="FILE", help="a finished feature cache, *.h5"),
    argument("--tap", metavar="NAME", help="one of its taps, where it has several"),
)


def _use_workers(arguments: argparse.Namespace) -> None:
    """Let dask compute on the workers of [Cluster], where the settings in force name some."""
    from featcache.stages import connect

    connect(project_of(arguments))


def _stats(arguments: argparse.Namespace) -> int:
    from featcache.inspection import (
        stats_lines,
        stats_record,
    )

    _use_workers(arguments)
    return output.print_result(arguments, stats_record(arguments.file, arguments.tap), stats_lines)


def _pca(arguments: argparse.Namespace) -> int:
    from featcache.inspection import (
        pca_lines,
        pca_record,
    )

    _use_workers(arguments)
    record = pca_record(arguments.file, arguments.tap, arguments.components, arguments.csv)
    return output.print_result(arguments, record, pca_lines)


def _neighbours(arguments: argparse.Namespace) -> int:
    from featcache.inspection import (
        neighbours_lines,
        neighbours_record,
    )

    _use_workers(arguments)
    record = neighbours_record(
        arguments.file, arguments.ids, arguments.among, arguments.tap, arguments.count, arguments.metric
    )
    return output.print_result(arguments, record, neighbours_lines)


STATS = Command(
    "stats",
    "statistics of a cache's features",
    "Show how the features of a cache are distributed: means, deviations, shares of zeros.",
    _stats,
    _FILE_AND_TAP,
    project=True,
)
PCA = Command(
    "pca",
    "principal components of a cache's features",
    "Show the directions in which the rows of a cache differ most, and how much of all variance they hold.",
    _pca,
    [
        *_FILE_AND_TAP,
        argument("--components", type=int, default=10, metavar="K", help="how many at most; default: 10"),
        argument("--csv", type=Path, metavar="FILE", help="write where each row lies along them to FILE, a CSV"),
    ],
    project=True,
)
NEIGHBOURS = Command(
    "neighbours",
    "the rows nearest to given ones",
    "Show which rows of a cache are nearest to given ones; every row is compared.",
    _neighbours,
    [
        *_FILE_AND_TAP,
        argument("ids", nargs="+", metavar="ID", help="ids of rows of FILE"),
        argument("--among", type=Path, metavar="CACHE", help="the cache that is searched; default: FILE"),
        argument("--count", type=int, default=5, metavar="K", help="how many of each; default: 5"),
        argument("--metric", choices=_METRICS, default="cosine", help="the distance; default: cosine"),
    ],
    project=True,
)
