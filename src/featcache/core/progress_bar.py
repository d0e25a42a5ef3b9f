"""How far one long piece of work is: a bar on a terminal, elsewhere a line when it begins and now and then."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TextIO, cast

from featcache.core import console
from featcache.core.progress import Progress
from featcache.core.streams import Stream

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as RichBar

_LINE_SECONDS = 30.0
_WIDE = 120  # columns in which everything about the work fits beside its bar


class ProgressBar(Progress):
    """Shows the progress on standard error.

    Attributes:
        count, total: units that are done, and all.
        facts: what is done, how far, how fast and what takes the time, as far as each is known.
    """

    def __init__(self, print_line: Callable[[str], None] | None = None, *, shown: bool = True) -> None:
        """Give lines to `print_line` where no bar can be drawn; with `shown` False print notices alone."""
        self._print_line, self._shown = print_line or partial(console.say, error=True), shown
        self._bar: RichBar | None = None
        self._what = self._unit = self._title = ""
        self.facts: list[str] = []
        self.count = self.total = 0

    @property
    def percentage(self) -> int:
        """How much is done, 0 to 100."""
        return min(100, round(100 * self.count / max(self.total, 1)))

    @property
    def line(self) -> str:
        """E.g. ``train: vgg16: 512 of 1,438 images, 318 images/s, forward 98 %``."""
        return f"{self.facts[0]}: {', '.join(self.facts[1:])}"

    def begin(self, title: str) -> None:
        """Show on a terminal a bar that only moves, until it is known how much there is to do; `title` stays above it."""
        self._title = title
        if self._shown and (screen := _screen()):
            self._bar = bar(screen, title, known=False)
            self._bar.add_task("", total=None)
            self._bar.start()

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin: a bar, or one line."""
        self.finish()
        self._what, self._unit, self.total, self.count = what, unit, total, 0
        self._begun = self._printed = time.perf_counter()
        self.facts = [what, f"{total:,} {unit}"]
        if not self._shown:
            return
        screen = _screen()
        if screen is None:
            self._print_line(f"{self.line} ...")
            return
        self._bar = bar(screen, self._title)
        self._bar.add_task(what, total=total, speed="", status="", short="")
        self._bar.start()

    def advance(self, count: int, status: str = "") -> None:
        """Move the bar; where there is none, print every half minute how far it is."""
        self.count += count
        now = time.perf_counter()
        rate = self.count / max(now - self._begun, 1e-9)
        speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
        done = f"{self.count:,} of {self.total:,} {self._unit}"
        self.facts = [self._what, done, speed, *([status] if status else [])]
        if self._bar is not None:
            short = re.split(" · |, ", status, maxsplit=1)[0]
            self._bar.update(self._bar.task_ids[0], advance=count, speed=speed, status=status, short=short)
        elif self._shown and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            self._print_line(self.line)

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar.console.file.close()
            self._bar = None

    def notice(self, message: str) -> None:
        """Print what nobody may miss."""
        console.say(f"NOTICE: {message}", "bold yellow", error=True)


def _screen() -> "Console | None":
    """The terminal behind standard error, if there is one, by a file of its own.

    While a framework is imported, what is written on standard error goes into the log.
    """
    if not (sys.stderr and sys.stderr.isatty()):
        return None
    own = open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    screen = console.console(cast("TextIO", Stream(own)))
    if screen is None:
        own.close()
    return screen


def bar(screen: "Console", title: str = "", *, known: bool = True) -> "RichBar":
    """Return a bar with count, speed, time left and status; in a narrow terminal the status' first part alone.

    A `title` is in a line of its own above it. Where it isn't `known` how much there is to do, it only moves.
    """
    from rich import progress
    from rich.text import Text

    class TitledBar(progress.Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from [Text(title, style="dim")] if title else []
            yield from super().get_renderables()

    wide = screen.width >= _WIDE
    if not known:
        return TitledBar(progress.BarColumn(40), progress.TimeElapsedColumn(), console=screen, transient=True)
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(40 if wide else 5),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
        progress.TextColumn("{task.fields[status]}" if wide else "{task.fields[short]}", style="dim", markup=False),
    )
    return TitledBar(*columns, console=screen, transient=True)
