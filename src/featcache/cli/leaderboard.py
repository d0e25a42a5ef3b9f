"""`featcache leaderboard`: the scores of ensemble and members."""

from featcache.cli.command import Arguments, command, print_result, project_of


@command("members and ensemble, best first", project=True)
def run(arguments: Arguments) -> int:
    """Show the ensemble and every member: out-of-fold scores with 95 % intervals, scores on test rows, time."""
    from featcache.inspection import leaderboard_lines, leaderboard_record

    return print_result(arguments, leaderboard_record(project_of(arguments)), leaderboard_lines)
