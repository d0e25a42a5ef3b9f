"""`featcache duplicates`: images that are the same or nearly so."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of


@command(
    "images that are nearly the same",
    argument("--csv", type=Path, metavar="FILE", help="write all of them to FILE, an image a line"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show images that are the same or nearly so, in all splits: test images with a twin in training first."""
    from featcache.inspection import duplicates_lines, duplicates_record, write_duplicates

    record = duplicates_record(project_of(arguments))
    if arguments.csv is not None:
        progress(arguments).notice(write_duplicates(arguments.csv, record))
    return print_result(arguments, record, duplicates_lines)
