"""`featcache leaderboard`: what came out."""

import argparse

from featcache.commands import OK, screen
from featcache.commands.state import add_settings


def add_leaderboard(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache leaderboard`."""
    parser = commands.add_parser(
        "leaderboard",
        help="members and ensemble, best first",
        description="Show the ensemble and every member: scores out of fold with 95 % intervals, on test rows, time.",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_leaderboard)


def _leaderboard(arguments: argparse.Namespace) -> int:
    from featcache import leaderboard
    from featcache.configuration import configured_project

    record = leaderboard.leaderboard_record(configured_project(arguments.overrides))
    if arguments.json:
        screen.show_json(record)
    else:
        screen.show(leaderboard.leaderboard_lines(record))
    return OK
