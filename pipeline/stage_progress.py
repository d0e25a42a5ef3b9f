"""What people see while stages run: a line per stage, a progress bar on a terminal, and the same on luigid's page."""

import contextlib
import time
from types import TracebackType
from typing import Any

import luigi
from luigi.cmdline_parser import CmdlineParser

from featcache.core.console import say, show
from featcache.core.formatting import Table
from featcache.core.progress_bar import Meter
from featcache.inspection import summary_parts
from pipeline.config import current_project, output

_SCHEDULER_SECONDS = 1.0  # with luigid every status is a request over the network
_NAME_WIDTH = 15
LOSSY = contextlib.suppress(OSError, ValueError)  # a full or closed screen costs lines, and never the work


class Watch:
    """A `featcache.core.progress.Progress` for one running stage."""

    def __init__(self, task: Any) -> None:
        """Watch `task`, which is inside its `run()`."""
        self.task = task
        self.begun = time.perf_counter()
        self.reported = 0.0
        self.meter = Meter(lambda line: _tell(task, line), shown=not output().quiet)

    def __enter__(self) -> "Watch":
        """Begin to measure."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away, whatever happened."""
        self.finish()

    def start(self, what: str, total: int, unit: str) -> None:
        """Show a bar on a terminal, one line elsewhere, and tell Luigi's scheduler what begins."""
        self.meter.start(what, total, unit)
        self._report(0, "\n".join(self.meter.told))

    def advance(self, count: int, status: str = "") -> None:
        """Move the bar, and once a second tell Luigi's scheduler."""
        self.meter.advance(count, status)
        if time.perf_counter() - self.reported >= _SCHEDULER_SECONDS:
            self._report(self.meter.percentage, "\n".join(self.meter.told))

    def finish(self) -> None:
        """Take the bar away."""
        self.meter.finish()

    def notice(self, message: str) -> None:
        """Print what nobody may miss, and leave it on luigid's page until there is something newer."""
        with LOSSY:
            say(f"NOTICE: {message}", "bold yellow")
        self._report(self.meter.percentage, message)

    def result(self, line: str) -> None:
        """Print the stage's one line with its time, and leave it on luigid's page."""
        self.finish()
        seconds = time.perf_counter() - self.begun
        if not output().quiet:
            _tell(self.task, f"{line}  ({seconds:.1f} s)")
        self._report(100, line)

    def _report(self, percentage: int, message: str) -> None:
        """Tell Luigi's scheduler, where there is one that listens."""
        if self.task.set_status_message:
            self.reported = time.perf_counter()
            self.task.set_progress_percentage(percentage)
            self.task.set_status_message(message)


def _tell(task: Any, line: str) -> None:
    with LOSSY:
        show([Table([(f"{task.task_family:<{_NAME_WIDTH}}", line)])])


def show_summary() -> None:
    """Print what a person wants to know at the end."""
    if not output().quiet:
        parts = summary_parts(current_project())
        with LOSSY:
            show(parts)


@luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def show_complete(task: luigi.Task) -> None:
    """Say that what was asked for on the command line needn't run."""
    parser = CmdlineParser.get_instance()
    if parser is not None and not output().quiet and parser.known_args.root_task == task.task_family:
        _tell(task, "complete; nothing to do (--rerun runs it again)")
        if task.task_family == "Submit":
            show_summary()
