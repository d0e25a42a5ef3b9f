"""What a command is, and the arguments that several share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.project import Project

# Exit codes of every command.
OK, PROBLEM, USAGE = 0, 1, 2

Argument = Callable[[argparse.ArgumentParser], object]


def argument(*names: str, **options: Any) -> Argument:
    """Return what adds an argument to a parser, by `argparse.ArgumentParser.add_argument`."""
    return lambda parser: parser.add_argument(*names, **options)


@dataclass(frozen=True)
class Command:
    """One command of `featcache`.

    Attributes:
        name: as it is typed.
        help: a few words, for the list of commands.
        description: a sentence, for its own help.
        run: takes the parsed arguments, returns the exit code.
        arguments: its own, in the order of the help.
        project: whether it works on luigi.cfg's project, and so takes further settings.
        error_code: the exit code of an error.
    """

    name: str
    help: str
    description: str
    run: Callable[[argparse.Namespace], int]
    arguments: Sequence[Argument] = ()
    project: bool = False
    error_code: int = PROBLEM

    def register(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add it to a command line."""
        parser = commands.add_parser(self.name, help=self.help, description=self.description)
        for add in self.arguments:
            add(parser)
        if self.project:
            _SETTINGS(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON value, for programs")
        loudness = parser.add_mutually_exclusive_group()
        loudness.add_argument("-q", "--quiet", action="store_true", help="print no progress")
        loudness.add_argument("-v", "--verbose", action="store_true", help="print the log, and tracebacks of errors")
        parser.set_defaults(command=self.run, error_code=self.error_code)


_SETTINGS = argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="SECTION.KEY=VALUE",
    help="a setting in place of luigi.cfg's, e.g. Features.image_size=96; may be repeated",
)
FILE_AND_TAP = (
    argument("file", type=Path, metavar="FILE", help="a finished feature cache, *.h5"),
    argument("--tap", metavar="NAME", help="one of its taps, if it has several"),
)


def project_of(arguments: argparse.Namespace) -> "Project":
    """Return luigi.cfg's project, with the settings of the command line in place of luigi.cfg's.

    Raises:
        SettingsError: a setting is misspelt or impossible.
    """
    from featcache.project import configured_project

    return configured_project(arguments.overrides)


def use_workers(arguments: argparse.Namespace) -> None:
    """Let dask compute on the workers of [Cluster], if the settings name some."""
    from featcache.stages import connect

    connect(project_of(arguments))
