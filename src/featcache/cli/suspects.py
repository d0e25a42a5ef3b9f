"""`featcache suspects`: labels that are likely wrong."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress, project_of


@command(
    "labels that are likely wrong",
    argument(
        "--csv", type=Path, metavar="FILE", help="write all of them to FILE, which [Dataset] corrections can name"
    ),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show training images whose labels are likely wrong, by the ensemble out of fold, the most likely first."""
    from featcache.report import suspects_lines, suspects_record, write_suspects

    record = suspects_record(project_of(arguments))
    if arguments.csv is not None:
        progress(arguments).notice(write_suspects(arguments.csv, record))
    return print_result(arguments, record, suspects_lines)
