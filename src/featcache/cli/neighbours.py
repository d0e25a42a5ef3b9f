"""`featcache neighbours`: the rows of a cache that are nearest to given ones."""

from pathlib import Path

from featcache.cli.command import FILE_AND_TAP, Arguments, argument, command, print_result, use_workers


@command(
    "the rows nearest to given ones",
    *FILE_AND_TAP,
    argument("ids", nargs="+", metavar="ID", help="ids of rows of FILE"),
    argument("--among", type=Path, metavar="CACHE", help="the cache that is searched; default: FILE"),
    argument("--count", type=int, default=5, metavar="K", help="how many of each; default: 5"),
    argument("--metric", choices=("cosine", "euclidean"), default="cosine", help="the distance; default: cosine"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show which rows of a cache are nearest to given ones; every row is compared."""
    from featcache.inspection import neighbours_lines, neighbours_record

    use_workers(arguments)
    record = neighbours_record(
        arguments.file, arguments.ids, arguments.among, arguments.tap, arguments.count, arguments.metric
    )
    return print_result(arguments, record, neighbours_lines)
