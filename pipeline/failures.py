"""What people see when something goes wrong: one line per cause on standard error; tracebacks go to the log file."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import luigi
from luigi.worker import TaskException

from featcache.core.console import say
from featcache.errors import FeatcacheError
from featcache.project import LOG_NAME
from pipeline.config import current_project
from pipeline.stage_progress import LOSSY, show_summary

_SCHEDULING = ("Will not run", "Uncaught exception", "Luigi unexpected framework error")
_reported: set[tuple[str, str]] = set()  # run and line
_collected: list[list[tuple[BaseException | None, str]]] = []  # where somebody raises what is printed otherwise


@contextmanager
def collected_failures() -> Iterator[list[tuple[BaseException | None, str]]]:
    """Yield a list that takes each failure and its line, in place of the screen."""
    failures: list[tuple[BaseException | None, str]] = []
    _collected.append(failures)
    try:
        yield failures
    finally:
        _collected.remove(failures)


def report_once(text: str, error: BaseException | None = None) -> None:
    """Print one line on standard error, once a run: one cause often stops several stages."""
    if _collected:
        _collected[-1].append((error, text))
        return
    line = current_project().run, text
    if line not in _reported:
        _reported.add(line)
        print_error(text)


def print_error(text: str) -> None:
    """Print one line on standard error."""
    with LOSSY:
        say(f"featcache: {text}", "bold red", error=True)


@luigi.Task.event_handler(luigi.Event.FAILURE)
@luigi.Task.event_handler(luigi.Event.BROKEN_TASK)
def show_failure(task: luigi.Task, error: BaseException) -> None:
    """Print why a stage failed; the cause names the setting or file, and which stage met it first is chance."""
    why = _in_one_line(error)
    report_once(_only_report_failed(task, why) or why, error)


@luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)
def show_death(task: luigi.Task, reason: str) -> None:
    """Print that the process of a stage was killed, which Luigi with several workers only logs."""
    how = reason.partition("died unexpectedly ")[2] or " ".join(reason.split())
    why = f"its process died {how}; run again to resume (if memory ran out: with fewer --workers)"
    report_once(_only_report_failed(task, why) or f"{task.task_family}: {why}")


def _only_report_failed(task: luigi.Task, why: str) -> str:
    """Where only the report failed, show the summary that Submit can't, and return the line to end with; else ""."""
    project = current_project()
    submission = project.submission()
    if task.task_family != "WriteReport":
        return ""
    if submission.is_complete():
        done = f"the submission is written and checked ({submission.shown})"
    elif "test" not in project.splits() and project.ensemble().is_complete():
        done = "everything else is complete"  # there is nothing to submit
    else:
        return ""
    show_summary()
    return f"{done}; only the report failed: {why}"


class SchedulingErrors(logging.Handler):
    """Prints what Luigi only logs: errors while it schedules, and its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the cause, once."""
        message = record.getMessage()
        if not message.startswith(_SCHEDULING):
            return
        if record.exc_info and record.exc_info[1]:
            report_once(_in_one_line(record.exc_info[1]), record.exc_info[1])
            return
        kind, _, text = message.strip().splitlines()[-1].partition(": ")  # the last line of a traceback
        report_once(text if kind.startswith("featcache.errors.") else _unexpected(kind.rpartition(".")[2], text))


def take_interrupts() -> None:
    """End in one line at Ctrl-C; a forked stage ends without one, as any kill leaves a cache that can be resumed."""
    sys.excepthook = _show_interrupt
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def _show_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        logging.getLogger("luigi-interface").info("interrupted", exc_info=(kind, error, trace))
        print_error("interrupted; finished work is kept: run the same command again to resume")
    else:
        sys.__excepthook__(kind, error, trace)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, FeatcacheError):
        return str(error)
    unfulfilled = isinstance(error, RuntimeError) and str(error).startswith("Unfulfilled")
    if unfulfilled or isinstance(error, TaskException):  # Luigi's words for "what it made isn't what is needed now"
        return "images, weights or settings changed during this run: run the same command again; finished work is kept"
    return _unexpected(type(error).__name__, str(error))


def _unexpected(kind: str, text: str) -> str:
    return f"unexpected {kind}: {' '.join(text.split())}; traceback in {current_project().folder / LOG_NAME}"
