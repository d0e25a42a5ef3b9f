"""`featcache leaderboard`: what came out."""

import argparse

from featcache.commands import screen
from featcache.commands.command import Command, project_of


def _leaderboard(arguments: argparse.Namespace) -> int:
    from featcache import leaderboard

    record = leaderboard.leaderboard_record(project_of(arguments))
    return screen.print_result(arguments, record, leaderboard.leaderboard_lines)


LEADERBOARD = Command(
    "leaderboard",
    "members and ensemble, best first",
    "Show the ensemble and every member: scores out of fold with 95 % intervals, on test rows, time.",
    _leaderboard,
    project=True,
)
