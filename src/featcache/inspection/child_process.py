"""This Python as a child process, so that what crashes or hangs there does neither here."""

import os
import signal
import sys

from featcache.core.keras_import import prepare_gpu


def environment() -> dict[str, str]:
    """Return the environment of a child that imports what this process imports."""
    prepare_gpu()
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "0"}


def failure(code: int) -> str:
    """Return how a child ended that should have gone on, e.g. ``crashed with SIGSEGV``."""
    return f"crashed with {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
