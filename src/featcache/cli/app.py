"""`featcache ...`: a shell over the library. It parses, calls, prints; it starts without TensorFlow."""

import argparse
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress

from featcache._version import __version__
from featcache.cli import completion, copies, explore, health, keep, look, output, results, room, serve, state
from featcache.cli.command import OK, PROBLEM, USAGE
from featcache.core import console, streams
from featcache.errors import FeatcacheError, StorageError

# In the order of the help, under what one is about to do.
GROUPS = {
    "look into caches": (look.SHOW, look.LS, explore.STATS, explore.PCA, explore.NEIGHBOURS),
    "look after the project": (state.STATUS, keep.VERIFY, keep.REPAIR, room.DU, room.GC),
    "take caches elsewhere": (copies.EXPORT,),
    "before and after a run": (state.PLAN, results.LEADERBOARD),
    "use what was trained": (serve.PREDICT, serve.EXPORT_MODEL),
    "this machine": (health.DOCTOR, completion.COMPLETION),
}
_INTERRUPTED = 130  # as shells have it for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 ok, 1 a problem (one line on stderr says which), 2 a command line that can't be understood, 130 Ctrl-C; what
        else a command's exit status says stands in docs/cli.md.
    """
    code = OK
    with streams.guarded():
        try:
            code = _run(argv)
        except BrokenPipeError:  # `featcache ls | head`: who read has seen enough
            pass
        except StorageError as error:
            output.print_error(str(error))
            code = PROBLEM
        except KeyboardInterrupt:
            console.say("featcache: interrupted", error=True)
            code = _INTERRUPTED
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its usage or help, and minds no error of it
        sys.stdout.flush()
        return int(stop.code or OK)
    if "command" not in arguments:
        parser.print_help(sys.stderr)
        return USAGE
    if arguments.verbose:
        output.log_to_screen()
    try:
        code = int(arguments.command(arguments))
        with suppress(BrokenPipeError):
            sys.stdout.flush()
    except FeatcacheError as error:
        if arguments.verbose:
            traceback.print_exc()
        output.print_error(str(error))
        return int(arguments.error_code)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="featcache",
        description="Look into, check and look after what `luigi --module pipeline Submit` makes.",
        epilog=_help(),
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"featcache {__version__}")
    parser.set_defaults(parser=parser)  # for `featcache completion`
    commands = parser.add_subparsers(metavar="COMMAND", help="`featcache COMMAND --help` lists its arguments")
    for group in GROUPS.values():
        for command in group:
            command.register(commands)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of commands to the epilog, where they stand in groups."""

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        del action
        yield from ()


def _help() -> str:
    """The commands group by group."""
    width = max(len(command.name) for group in GROUPS.values() for command in group)
    lines = []
    for title, group in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {command.name:<{width}}  {command.help}" for command in group)]
    return "\n".join(lines[1:])
