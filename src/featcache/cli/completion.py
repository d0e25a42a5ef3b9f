"""`featcache completion`: what a shell needs to complete commands, arguments, settings and files."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import Command, argument

_SHELLS = ("bash", "zsh", "fish")


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    _mark(arguments.parser)
    record = {"shell": arguments.shell, "script": shtab.complete(arguments.parser, shell=arguments.shell)}
    return output.print_result(arguments, record, lambda record: [record["script"]])


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say what argparse doesn't: which arguments are files, and what settings there are."""
    import shtab

    from featcache.settings import SECTIONS

    settings = [f"{section}.{key}=" for section, keys in SECTIONS.items() for key in keys]
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own addition
        elif action.dest == "overrides":
            action.choices = settings


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action


COMPLETION = Command(
    "completion",
    "complete commands, arguments and settings in a shell",
    "Print the script that makes a shell complete featcache's commands, arguments, settings and files.",
    _completion,
    [argument("shell", choices=_SHELLS, metavar="SHELL", help="bash, zsh or fish")],
)
