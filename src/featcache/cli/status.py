"""`featcache status`: which stages are complete, and what would make the others run."""

import argparse

from featcache.cli.command import OK, PROBLEM, Command, argument, project_of
from featcache.cli.output import print_result


def _status(arguments: argparse.Namespace) -> int:
    from featcache.inspection import status_lines, status_record, would_run

    record = status_record(project_of(arguments))
    code = PROBLEM if arguments.check and would_run(record) else OK
    return print_result(arguments, record, status_lines, code)


COMMAND = Command(
    "status",
    "what is complete, and what would make it run",
    "Show every stage of luigi.cfg's project: complete or not, size, age, and what would make it run.",
    _status,
    [argument("--check", action="store_true", help="exit with 1 when `Submit` would run anything")],
    project=True,
)
