"""`featcache stats`: how the features of a cache are distributed."""

import argparse

from featcache.cli.command import FILE_AND_TAP, Command, use_workers
from featcache.cli.output import print_result


def _stats(arguments: argparse.Namespace) -> int:
    from featcache.inspection import stats_lines, stats_record

    use_workers(arguments)
    return print_result(arguments, stats_record(arguments.file, arguments.tap), stats_lines)


COMMAND = Command(
    "stats",
    "statistics of a cache's features",
    "Show how the features of a cache are distributed: means, deviations, shares of zeros.",
    _stats,
    FILE_AND_TAP,
    project=True,
)
