"""What a command is, the arguments that several share, and how a result is printed.

Results go to standard output, everything else to standard error.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featcache.core import console
from featcache.core.formatting import Lines, printable
from featcache.core.progress_bar import ProgressBar

if TYPE_CHECKING:
    from featcache.project import Project

# Exit codes of every command.
OK, PROBLEM, USAGE = 0, 1, 2

Record = TypeVar("Record")
Arguments = argparse.Namespace
Argument = Callable[[argparse.ArgumentParser], object]


@dataclass(frozen=True)
class Command:
    """One command of `featcache`.

    `run` takes the parsed arguments and returns the exit code; its docstring is the description in the command's help.
    `project`: whether it works on luigi.cfg's project, and so takes further settings. `error_code` is that of an error.
    """

    run: Callable[[Arguments], int]
    help: str
    arguments: Sequence[Argument]
    project: bool
    error_code: int

    def register(self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str) -> None:
        """Add it to a command line."""
        parser = commands.add_parser(name, help=self.help, description=self.run.__doc__)
        for add in (*self.arguments, *([_SETTINGS] if self.project else [])):
            add(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON value, for programs")
        loudness = parser.add_mutually_exclusive_group()
        loudness.add_argument("-q", "--quiet", action="store_true", help="print no progress")
        loudness.add_argument("-v", "--verbose", action="store_true", help="print the log, and tracebacks of errors")
        parser.set_defaults(command=self.run, error_code=self.error_code)


def command(
    help_text: str, *arguments: Argument, project: bool = False, error_code: int = PROBLEM
) -> Callable[[Callable[[Arguments], int]], Command]:
    """Make the decorated function a `Command`."""
    return lambda run: Command(run, help_text, arguments, project, error_code)


def argument(*names: str, **options: Any) -> Argument:
    """Return what adds an argument to a parser, by `argparse.ArgumentParser.add_argument`."""
    return lambda parser: parser.add_argument(*names, **options)


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


def project_of(arguments: Arguments) -> "Project":
    """Return luigi.cfg's project, with the settings of the command line in place of luigi.cfg's.

    Raises:
        SettingsError: a setting is misspelt or impossible.
    """
    from featcache.project import configured_project

    return configured_project(arguments.overrides)


def use_workers(arguments: Arguments) -> None:
    """Let dask compute on the workers of [Cluster], if the settings name some."""
    from featcache.stages import connect

    connect(project_of(arguments))


def print_result(arguments: Arguments, record: Record, lines: Callable[[Record], Lines], code: int = OK) -> int:
    """Print a record as one JSON value or as the text that `lines` makes of it; return `code`."""
    with suppress(BrokenPipeError):  # `featcache status --check | head`: the exit code is that of the work
        if arguments.json:
            console.say(json.dumps(record, indent=2))
        else:
            console.show(lines(record))
    return code


def print_json_array(records: Iterable[object]) -> None:
    """Print one JSON array, a record a line, each as soon as it is computed."""
    begun = False
    for record in records:
        console.say(f"{',' if begun else '['}{json.dumps(record)}")
        begun = True
    console.say("]" if begun else "[]")


def print_error(message: str) -> None:
    """Print one line on standard error."""
    console.say(f"featcache: error: {printable(message)}", "bold red", error=True)


def progress(arguments: Arguments) -> ProgressBar:
    """Return a `featcache.core.progress.Progress` on standard error; with ``--quiet``, for notices alone."""
    return ProgressBar(shown=not arguments.quiet)
