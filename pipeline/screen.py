"""What people see while stages run: a line per stage, a progress bar on a terminal, and the same on luigid's page."""

import sys
import time
from types import TracebackType
from typing import Any

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.worker import TaskException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from featcache.errors import FeatcacheError
from featcache.project import LOG_NAME
from featcache.summary import summary_lines
from pipeline.config import current_project

_SCHEDULER_SECONDS = 1.0  # with luigid every status is a request over the network
_NAME_WIDTH = 16


def say(text: str, style: str | None = None, *, error: bool = False) -> None:
    """Print one line; long paths and numbers stay as they are."""
    Console(stderr=error, highlight=False, soft_wrap=True).print(text, style=style, markup=False)


class Watch:
    """A `featcache.progress.Progress` for one running stage."""

    def __init__(self, task: Any) -> None:
        """Watch `task`, which is inside its `run()`."""
        self.task = task
        self.begun = time.perf_counter()
        self.bar: Progress | None = None
        self.bar_task = TaskID(0)
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
        console = Console(stderr=True)
        if not console.is_terminal:
            say(f"{self.task.task_family:<{_NAME_WIDTH}} {what}: {total:,} {unit} ...")
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(), TextColumn("[dim]{task.fields[status]}"),
        )  # fmt: skip
        self.bar = Progress(*columns, console=console, transient=True)
        self.bar_task = self.bar.add_task(what, total=total, speed="", status="")
        self.bar.start()

    def advance(self, count: int, status: str = "") -> None:
        """Move the bar, and once a second tell Luigi's scheduler."""
        self.count += count
        now = time.perf_counter()
        speed = f"{self.count / max(now - self.started, 1e-9):,.0f} {self.unit}/s"
        if self.bar is not None:
            self.bar.update(self.bar_task, advance=count, speed=speed, status=status)
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


@luigi.Task.event_handler(luigi.Event.FAILURE)
@luigi.Task.event_handler(luigi.Event.BROKEN_TASK)
def show_failure(task: luigi.Task, error: BaseException) -> None:
    """Print one line; the traceback is in the log file."""
    say(f"featcache: {task.task_family}: {_in_one_line(error)}", "bold red", error=True)
    sys.stderr.flush()


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, FeatcacheError):
        return str(error)
    unfulfilled = isinstance(error, RuntimeError) and str(error).startswith("Unfulfilled")
    if unfulfilled or isinstance(error, TaskException):  # Luigi's words for "what it made isn't what is needed now"
        return "images, weights or settings changed while it ran; run the same command again, it goes on from there"
    log = current_project().folder / LOG_NAME
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; {log} says where"
