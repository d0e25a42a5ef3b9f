"""`featcache runs`: list and compare remembered runs, take up the settings of one, or forget it."""

import time

from featcache.cli.command import USAGE, Arguments, argument, command, print_error, print_result, project_of


@command(
    "list and compare remembered runs; go back to one",
    argument("runs", nargs="*", metavar="RUN", help="one or two runs to compare, by the beginning of their names"),
    argument("--use", metavar="NAME", help="write this run's settings to luigi.cfg"),
    argument("--forget", metavar="NAME", help="forget this run; gc may then remove what only it needs"),
    project=True,
)
def run(arguments: Arguments) -> int:
    """List the finished runs of this project, the newest first, and compare two of them on the rows that both have."""
    from featcache.inspection import forget_run, runs_lines, runs_record, use_lines, use_run

    if len(arguments.runs) > 2 or bool(arguments.runs) + bool(arguments.use) + bool(arguments.forget) > 1:
        print_error("runs compares one or two runs, or takes one of --use and --forget")
        return USAGE
    project = project_of(arguments)
    if arguments.use:
        return print_result(arguments, use_run(project, arguments.use), use_lines)
    if arguments.forget:
        forgotten = forget_run(project, arguments.forget)
        return print_result(arguments, forgotten, lambda record: [f"run {record['run']} is forgotten"])
    return print_result(arguments, runs_record(project, arguments.runs, time.time()), runs_lines)
