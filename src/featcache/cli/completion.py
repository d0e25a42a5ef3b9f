"""`featcache completion`: completion of commands, arguments, settings and files in a shell."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from featcache.cli.command import Command, argument
from featcache.cli.output import print_result


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    _mark(arguments.parser)
    record = {"shell": arguments.shell, "script": shtab.complete(arguments.parser, shell=arguments.shell)}
    return print_result(arguments, record, lambda record: [record["script"]])


def _mark(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that are files or settings, which argparse doesn't know."""
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


COMMAND = Command(
    "completion",
    "complete commands, arguments and settings in a shell",
    "Print the script that lets a shell complete featcache's commands, arguments, settings and files.",
    _completion,
    [argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")],
)
