"""`featcache ...`: a shell over the library. It parses, calls, prints; it starts without TensorFlow."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from featcache._version import __version__
from featcache.commands import OK, completion, copies, explore, health, keep, look, results, room, screen, serve, state
from featcache.errors import FeatcacheError

COMMANDS = (
    look.SHOW,
    look.LS,
    explore.STATS,
    explore.PCA,
    explore.NEIGHBOURS,
    state.STATUS,
    keep.VERIFY,
    keep.REPAIR,
    room.DU,
    room.GC,
    copies.EXPORT,
    copies.PACK,
    copies.UNPACK,
    state.PLAN,
    results.LEADERBOARD,
    serve.PREDICT,
    serve.EXPORT_MODEL,
    health.DOCTOR,
    completion.COMPLETION,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 ok, 1 a problem (one line on stderr says which), 2 a command line that can't be understood; what else a
        command's exit status says stands in docs/cli.md.
    """
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its usage or help
        return int(stop.code or OK)
    if arguments.verbose:
        screen.log_to_screen()
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except FeatcacheError as error:
        if arguments.verbose:
            traceback.print_exc()
        screen.complain(str(error))
        return int(arguments.error_code)
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
    parser.set_defaults(parser=parser)  # for `featcache completion`
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
