"""`featcache pca`: the principal components of a cache's features."""

from pathlib import Path

from featcache.cli.command import FILE_AND_TAP, Arguments, argument, command, print_result, use_workers


@command(
    "principal components of a cache's features",
    *FILE_AND_TAP,
    argument("--components", type=int, default=10, metavar="K", help="how many at most; default: 10"),
    argument("--csv", type=Path, metavar="FILE", help="write each row's coordinates to FILE, a CSV"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show the principal components of a cache's rows, and how much of the variance each explains."""
    from featcache.inspection import pca_lines, pca_record

    use_workers(arguments)
    record = pca_record(arguments.file, arguments.tap, arguments.components, arguments.csv)
    return print_result(arguments, record, pca_lines)
