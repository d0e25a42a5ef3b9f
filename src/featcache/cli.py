"""`featcache ...`: a shell over the library. It parses, calls, prints; it starts without TensorFlow."""

import argparse
import os
import sys
from collections.abc import Sequence

from featcache._version import __version__
from featcache.commands import OK, PROBLEM, copies, explore, keep, look, results, room, screen, serve, state
from featcache.errors import FeatcacheError

_COMMANDS = (
    look.add_show,
    look.add_ls,
    explore.add_stats,
    explore.add_pca,
    explore.add_neighbours,
    state.add_status,
    keep.add_verify,
    keep.add_repair,
    room.add_du,
    room.add_gc,
    copies.add_export,
    copies.add_pack,
    copies.add_unpack,
    state.add_plan,
    results.add_leaderboard,
    serve.add_predict,
    serve.add_export_model,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 ok, 1 a problem (one line on stderr says which), 2 a command line that can't be understood; what else a
        command's exit status says stands in docs/cli.md.
    """
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its usage or help
        return int(stop.code or OK)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except FeatcacheError as error:
        screen.complain(str(error))
        return int(getattr(arguments, "error_code", PROBLEM))
    except BrokenPipeError:  # `featcache ls | head`; what Python would flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="featcache", description="Look inside, check and look after cached backbone features."
    )
    parser.add_argument("--version", action="version", version=f"featcache {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
