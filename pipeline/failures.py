"""What people see when something goes wrong: one line per cause on standard error; tracebacks go to the log file."""

import hashlib
import logging
import mmap
import os
import signal
import sys
from types import TracebackType

import luigi
from luigi.worker import TaskException

from featcache.core.console import say
from featcache.errors import FeatcacheError
from featcache.project import LOG_NAME
from pipeline.config import current_project
from pipeline.stage_progress import LOSSY, show_summary

_MARK = 8
_SAID = mmap.mmap(-1, 4096)  # marks of what was said, shared with the processes that Luigi forks
_SCHEDULING = ("Will not run", "Uncaught exception", "Luigi unexpected framework error")


def fail(text: str) -> None:
    """Print one line on standard error, once a run: one cause often stops several stages."""
    said_in_run = f"{current_project().run} {text}"
    mark = hashlib.sha256(said_in_run.encode("utf-8", "surrogateescape")).digest()[:_MARK]
    for place in range(0, len(_SAID), _MARK):
        said = _SAID[place : place + _MARK]
        if said == mark:
            return
        if said == bytes(_MARK):
            _SAID[place : place + _MARK] = mark
            break
    say_error(text)


def say_error(text: str) -> None:
    """Print one line on standard error."""
    with LOSSY:
        say(f"featcache: {text}", "bold red", error=True)


@luigi.Task.event_handler(luigi.Event.FAILURE)
@luigi.Task.event_handler(luigi.Event.BROKEN_TASK)
def show_failure(task: luigi.Task, error: BaseException) -> None:
    """Say why a stage failed."""
    if not _left_without_report(task, _in_one_line(error)):
        fail(_in_one_line(error))  # the cause names the setting or file; which stage met it first is chance


@luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)
def show_death(task: luigi.Task, reason: str) -> None:
    """Say that the process of a stage was killed, which Luigi with several workers only logs."""
    how = reason.partition("died unexpectedly ")[2] or " ".join(reason.split())
    advice = "run again, it goes on (if memory ran out: with fewer --workers)"
    if not _left_without_report(task, f"its process died {how}; {advice}"):
        fail(f"{task.task_family}: its process died {how}; {advice}")


def _left_without_report(task: luigi.Task, why: str) -> bool:
    """Where only the report failed and all else is there: show the summary that Submit can't, and say so last."""
    project = current_project()
    submission = project.submission()
    if task.task_family != "WriteReport":
        return False
    if submission.is_complete():
        done = f"the submission is written and checked ({submission.content}); "
    elif "test" not in project.splits() and project.ensemble().is_complete():
        done = "all else is done; "  # there is nothing to submit
    else:
        return False
    show_summary()
    fail(f"{done}only the report failed: {why}")
    return True


class SchedulingErrors(logging.Handler):
    """Says what Luigi only logs: errors while it schedules, and its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the cause, once."""
        message = record.getMessage()
        if not message.startswith(_SCHEDULING):
            return
        if record.exc_info and record.exc_info[1]:
            fail(_in_one_line(record.exc_info[1]))
            return
        kind, _, text = message.strip().splitlines()[-1].partition(": ")  # the last line of a traceback
        fail(text if kind.startswith("featcache.errors.") else _unexpected(kind.rpartition(".")[2], text))


def take_interrupts() -> None:
    """End in one line at Ctrl-C; a forked stage ends without one, for any kill leaves a cache that can be gone on with."""
    sys.excepthook = _show_interrupt
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def _show_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        logging.getLogger("luigi-interface").info("interrupted", exc_info=(kind, error, trace))
        say_error("interrupted; finished work is kept: run the same command again, it goes on from there")
    else:
        sys.__excepthook__(kind, error, trace)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, FeatcacheError):
        return str(error)
    unfulfilled = isinstance(error, RuntimeError) and str(error).startswith("Unfulfilled")
    if unfulfilled or isinstance(error, TaskException):  # Luigi's words for "what it made isn't what is needed now"
        return "images, weights or settings changed while it ran; run the same command again, it goes on from there"
    return _unexpected(type(error).__name__, str(error))


def _unexpected(kind: str, text: str) -> str:
    return f"unexpected {kind}: {' '.join(text.split())}; {current_project().folder / LOG_NAME} says where"
