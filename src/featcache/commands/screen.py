"""The only place of the package that prints."""

import json
import sys
from collections.abc import Sequence


def show(lines: Sequence[str]) -> None:
    """Print lines of text."""
    for line in lines:
        print(line)  # noqa: T201 - this is the command line


def show_json(record: object) -> None:
    """Print one JSON value."""
    show([json.dumps(record, indent=2)])


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"featcache: error: {message}", file=sys.stderr)  # noqa: T201 - this is the command line


class Notices:
    """A `featcache.progress.Progress` for commands: a line on standard error when long work begins, and notices."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Say what begins."""
        print(f"{what}: {total:,} {unit} ...", file=sys.stderr)  # noqa: T201 - this is the command line

    def advance(self, count: int, status: str = "") -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""

    def notice(self, message: str) -> None:
        """Print it."""
        print(f"NOTICE: {message}", file=sys.stderr)  # noqa: T201 - this is the command line


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal, which fits itself to its width; plain aligned text for everything else."""
    from featcache.describe import aligned

    if not sys.stdout.isatty():
        show(aligned([columns, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
