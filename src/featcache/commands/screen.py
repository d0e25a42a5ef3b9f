"""The only place of the package that prints."""

import json
import sys
import time
from collections.abc import Iterable, Sequence

_TELL_SECONDS = 30.0


def show(lines: Iterable[str]) -> None:
    """Print lines of text."""
    for line in lines:
        print(line)  # noqa: T201 - this is the command line


def show_json(record: object) -> None:
    """Print one JSON value."""
    show([json.dumps(record, indent=2)])


def show_json_array(records: Iterable[object]) -> None:
    """Print one JSON array, a record a line, each as soon as it is there."""
    begun = False
    for record in records:
        show([f"{',' if begun else '['}{json.dumps(record)}"])
        begun = True
    show(["]" if begun else "[]"])


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"featcache: error: {message}", file=sys.stderr)  # noqa: T201 - this is the command line


class Notices:
    """A `featcache.progress.Progress` for commands: a line on standard error when long work begins, now and then, and notices."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Say what begins."""
        self._what, self._total, self._unit, self._count = what, total, unit, 0
        self._begun = self._told = time.perf_counter()
        print(f"{what}: {total:,} {unit} ...", file=sys.stderr)  # noqa: T201 - this is the command line

    def advance(self, count: int, status: str = "") -> None:
        """Say how far it is, every half minute."""
        self._count += count
        now = time.perf_counter()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            speed = f"{self._count / (now - self._begun):,.0f} {self._unit}/s"
            line = f"{self._what}: {self._count:,} of {self._total:,} {self._unit}, {speed}"
            print(line, file=sys.stderr)  # noqa: T201 - this is the command line

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
