"""Numbers, names and tables as text; `featcache.core.console` fits it to a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SHORT = 24  # characters of a cell that stays in one line
_AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class Table:
    """Rows of texts, with or without a header.

    Attributes:
        rows: each of as many texts as there are columns.
        columns: the header; () for none.
        paths: the last column is of paths, which stay in one piece: in a terminal that is too narrow, each row is its
            path, and its other cells below.
        optional: columns that such a terminal can do without, the first one first.
    """

    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    paths: bool = False
    optional: Sequence[str] = ()

    def without(self, name: str) -> "Table":
        """Return it without the columns of this name."""
        kept = [place for place, column in enumerate(self.columns) if column != name]
        rows = [[row[place] for place in kept] for row in self.rows]
        return replace(self, rows=rows, columns=[self.columns[place] for place in kept])

    def least_widths(self) -> list[int]:
        """Return the width of each column in which no word is broken, and no short cell, such as an interval."""
        lines = [*([self.columns] if self.columns else []), *self.rows]
        return [max(map(_least_width, column), default=0) for column in zip(*lines, strict=True)]

    def lines(self) -> list[str]:
        """Return it as lines with aligned columns."""
        return [printable(line) for line in aligned([*([self.columns] if self.columns else []), *self.rows])]


# The output of commands and of a run: lines of text, and tables between them.
Lines = Sequence[str | Table]


def plain(parts: Lines) -> list[str]:
    """Return lines and tables as lines alone."""
    return [line for part in parts for line in (part.lines() if isinstance(part, Table) else [part])]


def _least_width(cell: str) -> int:
    return len(cell) if len(cell) <= _SHORT else max(map(len, cell.split()), default=0)


def pluralize(number: int, noun: str) -> str:
    """Return ``1 image`` or ``1,438 images``; the noun's plural is its singular and an s."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as lines with aligned columns."""
    if not table:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def printable(text: str) -> str:
    """Return text that any terminal can take: control characters and bytes that aren't UTF-8 become escapes."""
    if text.isprintable():  # nearly always, and an image inside the report's page has a hundred thousand characters
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in readable_name(text)
    )


def readable_name(name: str) -> str:
    """Return a file name as text that can be written anywhere: bytes that aren't UTF-8 become backslash escapes."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def size_text(count: float) -> str:
    """Return bytes in decimal units, e.g. ``5.1 GB``."""
    unit, name = next((each for each in _UNITS if count >= each[0]), (1.0, "B"))
    return f"{count / unit:.{0 if name == 'B' else 1}f} {name}"


def age_text(seconds: float) -> str:
    """Return a duration in its largest unit, e.g. ``3 h``."""
    unit, name = next((each for each in _AGES if seconds >= each[0]), (1.0, "s"))
    return f"{max(0.0, seconds) / unit:.0f} {name}"
