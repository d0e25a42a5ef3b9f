"""What people read: styled and fitted to its width on a terminal, plain text everywhere else.

rich decides what a terminal is and what it can, by ``NO_COLOR``, ``FORCE_COLOR``, ``TERM=dumb`` and ``COLUMNS``; it is
imported only where there may be one. A notebook's ``!luigi`` pretends to be a terminal, and asks for colour, but can't move
a cursor: it gets plain text.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from featcache.core.formatting import Table, plain, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_GAP = 2  # between columns
_FORCING = ("FORCE_COLOR", "TTY_COMPATIBLE")
_NOTEBOOK = "JPY_PARENT_PID"  # in the environment of every kernel of Jupyter, and so of what a cell starts
# Cells that consist of one of these words.
_STYLES = {
    "PASS": "green", "WARN": "yellow", "FAIL": "bold red",
    "complete": "green", "runs": "yellow", "unused": "yellow", "unreadable": "bold red",
}  # fmt: skip


def console(stream: TextIO | None) -> "Console | None":
    """Return a console that writes to `stream`; None for plain text: a pipe, a file, a notebook, a dumb terminal, nothing."""
    forced = any(os.environ.get(name) for name in _FORCING)
    if stream is None or _NOTEBOOK in os.environ or not (stream.isatty() or forced):
        return None
    from rich.console import Console

    found = Console(file=stream, markup=False, highlight=False, emoji=False)
    return found if found.is_terminal and not found.is_dumb_terminal else None


def say(text: str, style: str | None = None, *, error: bool = False) -> None:
    """Print one line on standard output or standard error; long paths and numbers stay in one piece."""
    stream = sys.stderr if error else sys.stdout
    fancy = console(stream) if style else None
    if fancy is None:
        print(text, file=stream, flush=True)
    else:
        fancy.print(text, style=style, soft_wrap=True)


def show(parts: Iterable[str | Table]) -> None:
    """Print lines and tables on standard output; on a terminal a table fits itself to its width."""
    for part in parts:
        fancy = console(sys.stdout) if isinstance(part, Table) else None
        if isinstance(part, Table) and fancy is not None:
            if part.paths and max(map(len, part.lines()), default=0) > fancy.width:
                _show_row_by_row(part, fancy)
            else:
                _show_fitting(part, fancy)
        else:
            for line in plain([part]):
                say(line)


def _show_row_by_row(table: Table, fancy: "Console") -> None:
    from rich.padding import Padding

    for *cells, path in table.rows:
        fancy.print(printable(path), style="bold", soft_wrap=True)
        named = zip(table.columns[:-1] or [""] * len(cells), cells, strict=True)
        line = " · ".join(f"{name} {cell}".strip() for name, cell in named)
        fancy.print(Padding(printable(line), (0, 0, 0, 2)))


def _show_fitting(table: Table, fancy: "Console") -> None:
    """Print it without as many of its optional columns as it takes to break no word, and which these are."""
    dropped = []
    for name in table.optional:
        if _needed(table.least_widths()) > fancy.width and name in table.columns:
            table = table.without(name)
            dropped.append(name)
    widths = table.least_widths()
    fancy.print(_drawn(table, widths if _needed(widths) <= fancy.width else [1] * len(widths)))
    if dropped:
        fancy.print(f"without {', '.join(dropped)}: {fancy.width} columns are too few", style="dim")


def _needed(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _drawn(table: Table, least_widths: Sequence[int]) -> "RichTable":
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, header_style="bold", pad_edge=False, show_header=bool(table.columns))
    for place, least in enumerate(least_widths):
        name = table.columns[place] if table.columns else ""
        style = "bold" if not table.columns and place == 0 else ""
        drawn.add_column(name, overflow="fold", style=style, min_width=least)
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    return drawn
