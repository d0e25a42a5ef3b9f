"""Importing Keras without what its native code prints at every start."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def import_keras(log: Path) -> None:
    """Import Keras and its backend, which takes seconds; what native code prints meanwhile is appended to `log`.

    TensorFlow reports on standard error, below Python and before its own log level holds, that it uses oneDNN and
    found no GPU. Errors in Python, a missing package for one, are raised as ever.

    Raises:
        ImportError: Keras or its backend is not installed.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _standard_error_into(log):
            import keras

            keras.backend.backend()


@contextmanager
def _standard_error_into(log: Path) -> Iterator[None]:
    with suppress(OSError, ValueError, AttributeError):  # full, closed, or none at all
        sys.stderr.flush()
    kept = os.dup(2)
    try:
        try:
            place = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's folder, a full disk: nobody misses it
            place = os.open(os.devnull, os.O_WRONLY)
        os.dup2(place, 2)
        os.close(place)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
