"""`featcache completion`: completion of commands, arguments, settings and files in a shell."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result


@command(
    "complete commands, arguments and settings in a shell",
    argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish"),
)
def run(arguments: Arguments) -> int:
    """Print the script that lets a shell complete featcache's commands, arguments, settings and files."""
    import shtab

    from featcache.settings import SECTIONS

    for action in _actions(arguments.parser):  # argparse doesn't know which are files or settings
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own addition
        elif action.dest == "overrides":
            action.choices = [f"{section}.{key}=" for section, keys in SECTIONS.items() for key in keys]
    record = {"shell": arguments.shell, "script": shtab.complete(arguments.parser, shell=arguments.shell)}
    return print_result(arguments, record, lambda record: [record["script"]])


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action
