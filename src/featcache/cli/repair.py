"""`featcache repair`: compute the damaged blocks of feature caches again."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result, progress


@command(
    "compute the damaged blocks of feature caches again",
    argument("paths", type=Path, nargs="+", metavar="PATH", help="a feature cache, or a folder with some"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Verify, and compute the damaged blocks of feature caches again; sound rows are copied."""
    from featcache.stages import exit_code, repair_lines, repair_records

    records = repair_records(arguments.paths, arguments.overrides, progress(arguments))
    return print_result(arguments, records, repair_lines, exit_code(records))
