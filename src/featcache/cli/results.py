"""`featcache leaderboard`: what came out."""

import argparse

from featcache.cli import output
from featcache.cli.command import Command, project_of


def _leaderboard(arguments: argparse.Namespace) -> int:
    from featcache.inspection import leaderboard_lines, leaderboard_record

    record = leaderboard_record(project_of(arguments))
    return output.print_result(arguments, record, leaderboard_lines)


LEADERBOARD = Command(
    "leaderboard",
    "members and ensemble, best first",
    "Show the ensemble and every member: scores out of fold with 95 % intervals, on test rows, time.",
    _leaderboard,
    project=True,
)
