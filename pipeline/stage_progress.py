"""What people see while stages run: a line per stage, a progress bar on a terminal, and the same on luigid's page."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import luigi
from luigi.cmdline_parser import CmdlineParser

from featcache.core.console import say, show
from featcache.core.formatting import Table
from featcache.core.progress_bar import ProgressBar
from featcache.inspection import comparison_lines, summary_parts
from featcache.project import stage_title
from pipeline.config import current_project, output

_SCHEDULER_SECONDS = 1.0  # with luigid every status is a request over the network
_NAME_WIDTH = 15
LOSSY = contextlib.suppress(OSError, ValueError)  # a full or closed screen costs lines, and never the work


class StageProgress(ProgressBar):
    """A `featcache.core.progress.Progress` for one running stage."""

    def __init__(self, task: Any) -> None:
        """Report for `task`, which is inside its `run()`."""
        super().__init__(lambda line: _print(task, line), shown=not output().quiet)
        self.task = task
        self.begun = time.perf_counter()
        self.reported = 0.0
        self.later: Callable[[], None] = lambda: None  # shows more, below the stage's line

    def show(self) -> None:
        """Begin to work: which stage of how many it is, above a bar from the first second on."""
        self.begun, settings = time.perf_counter(), current_project().settings
        convnets, report = settings.convnet.members > 0, settings.report.enabled
        self.begin(stage_title(self.task.task_family, convnets=convnets, report=report))

    def start(self, what: str, total: int, unit: str) -> None:
        """Show a bar on a terminal, one line elsewhere, and the same on luigid's page."""
        super().start(what, total, unit)
        self._report(0, "\n".join(self.facts))

    def advance(self, count: int, status: str = "") -> None:
        """Move the bar, and once a second update luigid's page."""
        super().advance(count, status)
        if time.perf_counter() - self.reported >= _SCHEDULER_SECONDS:
            self._report(self.percentage, "\n".join(self.facts))

    def notice(self, message: str) -> None:
        """Print what nobody may miss, and leave it on luigid's page until there is something newer."""
        with LOSSY:
            say(f"NOTICE: {message}", "bold yellow")
        self._report(self.percentage, message)

    def result(self, line: str) -> None:
        """Print the stage's one line with its time, and leave it on luigid's page."""
        self.finish()
        seconds = time.perf_counter() - self.begun
        if not output().quiet:
            _print(self.task, f"{line}  ({seconds:.1f} s)")
            self.later()
        self._report(100, line)

    def _report(self, percentage: int, message: str) -> None:
        """Update luigid's page, if there is one."""
        if self.task.set_status_message:
            self.reported = time.perf_counter()
            # first: a page between the two requests shows no new number with old words
            self.task.set_status_message(message)
            self.task.set_progress_percentage(percentage)


def _print(task: Any, line: str) -> None:
    with LOSSY:
        show([Table([(f"{task.task_family:<{_NAME_WIDTH}}", line)])])


def show_summary() -> None:
    """Print the run's results."""
    if not output().quiet:
        parts = summary_parts(current_project())
        with LOSSY:
            show(parts)


def show_comparison() -> None:
    """Print what was found about backbones."""
    if not output().quiet:
        with LOSSY:
            show(comparison_lines(current_project()))


@luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)
def show_complete(task: luigi.Task) -> None:
    """Print that the stage of the command line is complete already."""
    parser = CmdlineParser.get_instance()
    if parser is not None and not output().quiet and parser.known_args.root_task == task.task_family:
        _print(task, "complete; nothing to do (--rerun runs it again)")
        if task.task_family == "Submit":
            show_summary()
        if task.task_family == "CompareBackbones":
            show_comparison()
