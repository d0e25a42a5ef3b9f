"""A module run in a process of its own with a time limit, so that what crashes or hangs there does neither here."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChildResult:
    """What a child process wrote, and how it ended.

    Attributes:
        output: its standard output, as far as it came.
        errors: its standard error.
        failure: "" after exit status 0, else e.g. ``crashed with SIGSEGV``.
    """

    output: str
    errors: str
    failure: str = ""


def run_child(command: Sequence[str], seconds: float) -> ChildResult:
    """Run this Python with the arguments `command`; it is killed after `seconds`."""
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            [sys.executable, *command], capture_output=True, timeout=seconds, env=environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        return ChildResult(_text(error.stdout), _text(error.stderr), f"took longer than {seconds:.0f} s")
    return ChildResult(_text(done.stdout), _text(done.stderr), failure(done.returncode) if done.returncode else "")


def environment() -> dict[str, str]:
    """The environment of a child that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "0"}


def failure(code: int) -> str:
    """How a child ended that should have gone on."""
    return f"crashed with {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"


def _text(output: bytes | None) -> str:
    return (output or b"").decode("utf-8", "replace")
