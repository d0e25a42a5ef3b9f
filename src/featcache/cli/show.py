"""`featcache show`: one cache file."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result


@command(
    "what one cache file holds",
    argument("file", type=Path, metavar="FILE", help="a feature cache, *.h5, finished or not"),
    argument("--stats", action="store_true", help="also statistics of each tap; reads all features"),
)
def run(arguments: Arguments) -> int:
    """Show what one cache file holds."""
    from featcache.inspection import cache_lines, cache_record

    return print_result(arguments, cache_record(arguments.file, stats=arguments.stats), cache_lines)
