"""Standard output and error that may fail: closed, full, hung up, or in an encoding that lacks a character.

Output can get lost; the work never does.
"""

import atexit
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from featcache.errors import StorageError

_STANDARD_ERROR = 2


class Stream:
    """A text stream that ignores write errors, or with `strict` raises one line that the output is lost."""

    def __init__(self, stream: Any, *, strict: bool = False) -> None:
        """Write to `stream`; what its encoding lacks is written as an escape."""
        self._stream, self._strict = stream, strict
        self._lost: OSError | ValueError | None = None
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        """Everything but writing is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, or lose it.

        Raises:
            BrokenPipeError: strict, and the reader has gone.
            StorageError: strict, and nothing can be written.
        """
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each, or lose it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written, or lose it; raises as `write`, also what a caller of `write` ignored."""
        try:
            self._stream.flush()
            if self._strict and self._lost:
                raise self._lost
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Whether it is a terminal; False if it was closed."""
        with suppress(OSError, ValueError):
            return bool(self._stream.isatty())
        return False

    def _lose(self, error: OSError | ValueError) -> None:
        self._lost = error
        if self._strict and isinstance(error, BrokenPipeError):
            raise error
        if self._strict:
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise StorageError(f"could not print the result: {why}") from error


def keep_going() -> None:
    """Make every later print of this process safe: its output may get lost, but it never raises."""
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        setattr(sys, name, Stream(stream))
        atexit.register(_discard, stream)


@contextmanager
def guarded() -> Iterator[None]:
    """While the block lasts, failing standard output is an error; what goes to standard error can get lost.

    Raises:
        BrokenPipeError: the reader has gone.
        StorageError: standard output is full or closed.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    closed = io.StringIO()
    closed.close()
    output, errors = Stream(sys.stdout or closed, strict=True), Stream(sys.stderr or closed)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in filter(None, before):
            _discard(stream)


def _open_closed() -> None:
    """Open standard descriptors that are closed (``>&-``): else the next file gets their number, and the output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _discard(stream: TextIO) -> None:
    """Discard what can't be written: Python would fail at exit, with a status of its own."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
