"""What a command is: its place in the help, what it takes, what it does; and what every one takes, defined once."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.project import Project

# Exit codes of every command.
OK, PROBLEM, USAGE = 0, 1, 2

Argument = Callable[[argparse.ArgumentParser], object]


def argument(*names: str, **options: Any) -> Argument:
    """What `argparse.ArgumentParser.add_argument` takes, for a parser that comes later."""
    return lambda parser: parser.add_argument(*names, **options)


@dataclass(frozen=True)
class Command:
    """One command of `featcache`.

    Attributes:
        name: as it is typed.
        help: in the list of commands; a few words.
        description: at the head of its own help; a sentence.
        run: does it; takes the parsed arguments, returns the exit code.
        arguments: its own, in the order of the help.
        project: whether it works on luigi.cfg's project, and so takes settings beside that.
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
        loudness.add_argument("-q", "--quiet", action="store_true", help="no progress: answer, notices and errors only")
        loudness.add_argument(
            "-v", "--verbose", action="store_true", help="also what is logged meanwhile, and where an error arose"
        )
        parser.set_defaults(command=self.run, error_code=self.error_code)


_SETTINGS = argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="SECTION.KEY=VALUE",
    help="a setting beside luigi.cfg's, e.g. Features.image_size=96; may be repeated",
)


def project_of(arguments: argparse.Namespace) -> "Project":
    """luigi.cfg's project, with the settings that the command line names beside it.

    Raises:
        SettingsError: a setting is misspelt or can't be.
    """
    from featcache.project import configured_project

    return configured_project(arguments.overrides)
