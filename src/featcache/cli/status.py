"""`featcache status`: which stages are complete, and what would make the others run."""

from featcache.cli.command import OK, PROBLEM, Arguments, argument, command, print_result, project_of


@command(
    "what is complete, and what would make it run",
    argument("--check", action="store_true", help="exit with 1 when `Submit` would run anything"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show every stage of luigi.cfg's project: complete or not, size, age, and what would make it run."""
    from featcache.inspection import status_lines, status_record, would_run

    record = status_record(project_of(arguments))
    code = PROBLEM if arguments.check and would_run(record) else OK
    return print_result(arguments, record, status_lines, code)
