"""`featcache ...`: a shell over the library. It parses, calls, prints; it starts without TensorFlow."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from featcache._version import __version__
from featcache.errors import FeatcacheError

OK, PROBLEM, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 ok, 1 a problem (one line on stderr says which), 2 a command line that can't be understood.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its usage or help
        return int(stop.code or OK)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except FeatcacheError as error:
        print(f"featcache: error: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return PROBLEM
    except BrokenPipeError:  # `featcache ls | head`; what Python would flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="featcache", description="Look inside cached backbone features.")
    parser.add_argument("--version", action="version", version=f"featcache {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_show(commands)
    _add_ls(commands)
    return parser


# Each command: its arguments, then what it does.


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "show", help="what one cache file holds", description="Show what one cache file holds."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a feature cache, *.h5, finished or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> int:
    from featcache import describe

    record = describe.cache_record(arguments.file)
    _print([json.dumps(record, indent=2)] if arguments.json else describe.cache_lines(record))
    return OK


def _add_ls(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "ls", help="the cache files in folders", description="List the cache files in and below folders."
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", default=[Path("artifacts")], metavar="FOLDER", help="default: artifacts"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.set_defaults(command=_ls)


def _ls(arguments: argparse.Namespace) -> int:
    from featcache import describe

    records = describe.listing(arguments.folders, time.time())
    damaged = [record["error"] for record in records if record["error"]]
    if arguments.json:
        _print([json.dumps(records, indent=2)])
    elif records:
        _print_table(describe.LISTING_COLUMNS, [describe.listing_cells(record) for record in records])
    else:
        _print(
            [
                f"no feature caches in {', '.join(map(str, arguments.folders))}; `luigi --module pipeline Submit` makes some"
            ]
        )
    for error in damaged:
        print(f"featcache: error: {describe.printable(error)}", file=sys.stderr)  # noqa: T201
    return PROBLEM if damaged else OK


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201 - this is the command line


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal, which fits itself to its width; plain aligned text for everything else."""
    from featcache.describe import aligned

    if not sys.stdout.isatty():
        _print(aligned([columns, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
