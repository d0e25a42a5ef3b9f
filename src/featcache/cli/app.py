"""`featcache ...`: a shell over the library. It parses, calls, prints; it starts without TensorFlow."""

import argparse
import logging
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import chain

from featcache._version import __version__
from featcache.cli.command import OK, PROBLEM, USAGE, Command, print_error
from featcache.core import console, streams
from featcache.core.keras_import import own_process
from featcache.errors import FeatcacheError, StorageError

# In the order of the help, by what one is about to do; each is the module of its name.
GROUPS = {
    "begin": ("init", "run"),
    "look into caches": ("show", "ls", "stats", "pca", "neighbours"),
    "look after the project": ("status", "verify", "repair", "du", "gc"),
    "take caches elsewhere": ("export",),
    "before and after a run": ("plan", "leaderboard", "runs", "suspects", "duplicates"),
    "use what was trained": ("predict", "explain", "export-model", "bundle"),
    "this machine": ("doctor", "completion"),
}
_INTERRUPTED = 130  # as shells have it for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 ok, 1 a problem (with one line on standard error), 2 a wrong command line, 130 Ctrl-C; docs/cli.md lists the
        other meanings that single commands give these.
    """
    own_process()
    with streams.guarded():
        try:
            return _run(argv)
        except BrokenPipeError:  # `featcache ls | head` has read enough
            return OK
        except StorageError as error:
            print_error(str(error))
            return PROBLEM
        except KeyboardInterrupt:
            console.say("featcache: interrupted", error=True)
            return _INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    try:
        arguments, others = parser.parse_known_args(argv)
        if others and getattr(arguments, "stage_arguments", None) is None:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
    except SystemExit as stop:  # argparse has printed its usage or help, and ignores errors of that
        sys.stdout.flush()
        return int(stop.code or OK)
    if others:
        arguments.stage_arguments = others
    if "command" not in arguments:
        parser.print_help(sys.stderr)
        return USAGE
    if arguments.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        code = int(arguments.command(arguments))
        with suppress(BrokenPipeError):
            sys.stdout.flush()
    except FeatcacheError as error:
        if arguments.verbose:
            traceback.print_exc()
        print_error(str(error))
        return int(arguments.error_code)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    width = max(len(name) for names in GROUPS.values() for name in names)
    groups = [
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {_command(name).help}" for name in names)])
        for title, names in GROUPS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="featcache",
        description="Inspect, check and maintain the results of `luigi --module pipeline Submit`.",
        epilog="\n\n".join(groups),
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"featcache {__version__}")
    parser.set_defaults(parser=parser)  # for `featcache completion`
    commands = parser.add_subparsers(metavar="COMMAND", help="`featcache COMMAND --help` lists its arguments")
    for name in chain.from_iterable(GROUPS.values()):
        _command(name).register(commands, name)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of commands to the epilog, which groups them."""

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        del action
        yield from ()


def _command(name: str) -> Command:
    command: Command = import_module(f"featcache.cli.{name.replace('-', '_')}").run
    return command
