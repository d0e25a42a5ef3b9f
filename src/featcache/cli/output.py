"""What commands print: the result on standard output, everything else on standard error."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from featcache.cli.command import OK
from featcache.core import console
from featcache.core.formatting import Lines, printable
from featcache.core.progress_bar import ProgressBar

Record = TypeVar("Record")


def print_result(
    arguments: argparse.Namespace, record: Record, lines: Callable[[Record], Lines], code: int = OK
) -> int:
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


def log_to_screen() -> None:
    """Print what the package logs, for ``--verbose``."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")


def progress(arguments: argparse.Namespace) -> ProgressBar:
    """Return a `featcache.core.progress.Progress` on standard error; with ``--quiet``, for notices alone."""
    return ProgressBar(shown=not arguments.quiet)
