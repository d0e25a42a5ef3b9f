"""`featcache du`: what the project's folder holds, and how large it is."""

import time

from featcache.cli.command import Arguments, command, print_result, project_of


@command("what the project's folder holds", project=True)
def run(arguments: Arguments) -> int:
    """Show what the project's folder holds, largest first."""
    from featcache.inspection import usage_lines, usage_record

    return print_result(arguments, usage_record(project_of(arguments), time.time()), usage_lines)
