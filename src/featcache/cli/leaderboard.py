"""`featcache leaderboard`: the scores of ensemble and members."""

import argparse

from featcache.cli.command import Command, project_of
from featcache.cli.output import print_result


def _leaderboard(arguments: argparse.Namespace) -> int:
    from featcache.inspection import leaderboard_lines, leaderboard_record

    return print_result(arguments, leaderboard_record(project_of(arguments)), leaderboard_lines)


COMMAND = Command(
    "leaderboard",
    "members and ensemble, best first",
    "Show the ensemble and every member: out-of-fold scores with 95 % intervals, scores on test rows, time.",
    _leaderboard,
    project=True,
)
