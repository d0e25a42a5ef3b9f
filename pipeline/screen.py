"""What people see while stages run: a line per stage, a progress bar on a terminal, and the same on luigid's page."""

import os
import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import luigi
from luigi.cmdline_parser import CmdlineParser

from featcache.summary import summary_lines
from pipeline.config import current_project

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_SCHEDULER_SECONDS = 1.0  # with luigid every status is a request over the network
_NAME_WIDTH = 16
_WIDE = 120  # columns in which everything about a stage fits beside its bar


def say(text: str, style: str | None = None, *, error: bool = False) -> None:
    """Print one line; long paths and numbers stay as they are."""
    stream = sys.stderr if error else sys.stdout
    if not (style and stream.isatty()):
        print(text, file=stream, flush=True)  # what rich would print, without its import
        return
    from rich.console import Console

    Console(file=stream, highlight=False, soft_wrap=True).print(text, style=style, markup=False)


class Watch:
    """A `featcache.progress.Progress` for one running stage."""

    def __init__(self, task: Any) -> None:
        """Watch `task`, which is inside its `run()`."""
        self.task = task
        self.begun = time.perf_counter()
        self.bar: Progress | None = None
        self.bar_task: TaskID | None = None
        self.total = self.count = 0
        self.unit = ""
        self.reported = 0.0

    def __enter__(self) -> "Watch":
        """Begin to measure."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, whatever happened."""
        self.finish()

    def start(self, what: str, total: int, unit: str) -> None:
        """Show a bar on a terminal, one line elsewhere."""
        self.finish()
        self.total, self.count, self.unit, self.started = total, 0, unit, time.perf_counter()
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            say(f"{self.task.task_family:<{_NAME_WIDTH}} {what}: {total:,} {unit} ...")
            return
        self.bar = _bar()
        self.bar_task = self.bar.add_task(what, total=total, speed="", status="", short="")
        self.bar.start()

    def advance(self, count: int, status: str = "") -> None:
        """Move the bar, and once a second tell Luigi's scheduler."""
        self.count += count
        now = time.perf_counter()
        rate = self.count / max(now - self.started, 1e-9)
        speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"
        if self.bar is not None and self.bar_task is not None:
            short = re.split(" · |, ", status, maxsplit=1)[0]
            self.bar.update(self.bar_task, advance=count, speed=speed, status=status, short=short)
        if now - self.reported >= _SCHEDULER_SECONDS and self.task.set_status_message:
            self.reported = now
            self.task.set_progress_percentage(round(100 * self.count / max(self.total, 1)))
            self.task.set_status_message(f"{self.count:,} of {self.total:,} {self.unit}, {speed} {status}".rstrip())

    def finish(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def notice(self, message: str) -> None:
        """Print what nobody may miss."""
        say(f"NOTICE: {message}", "bold yellow")

    def result(self, line: str) -> None:
        """Print the stage's one line with its time, and leave it on luigid's page."""
        self.finish()
        seconds = time.perf_counter() - self.begun
        say(f"{self.task.task_family:<{_NAME_WIDTH}} {line}  ({seconds:.1f} s)")
        if self.task.set_status_message:
            self.task.set_progress_percentage(100)
            self.task.set_status_message(line)


def _bar(console: "Console | None" = None) -> "Progress":
    """What is done, how fast, what is left and what takes the time; in a narrow terminal the first of these alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    wide = console.width >= _WIDE
    columns = (
        TextColumn("{task.description}"), BarColumn(40 if wide else 5), MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"), TimeRemainingColumn(compact=True), TextColumn("left"),
        TextColumn("[dim]{task.fields[status]}" if wide else "[dim]{task.fields[short]}"),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=True)


def show_summary() -> None:
    """Print what a person wants to know at the end."""
    for line in summary_lines(current_project()):
        say(line)


@luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def show_complete(task: luigi.Task) -> None:
    """Say that what was asked for on the command line needn't run."""
    parser = CmdlineParser.get_instance()
    if parser is not None and parser.known_args.root_task == task.task_family:
        say(f"{task.task_family:<{_NAME_WIDTH}} complete; nothing to do (--rerun runs it again)")
        if task.task_family == "Submit":
            show_summary()
