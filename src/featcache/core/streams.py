"""Standard output and error that may fail: closed, full, hung up, or in an encoding that lacks a character.

What is printed can get lost; the work never does.
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
    """A text stream that swallows errors of writing, or with `strict` says in one line that the answer is lost."""

    def __init__(self, stream: Any, *, strict: bool = False) -> None:
        """Write to `stream`; what its encoding lacks is written as an escape."""
        self._stream, self._strict = stream, strict
        self._lost: OSError | ValueError | None = None
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        """Whatever isn't writing is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, or lose it.

        Raises:
            BrokenPipeError: strict, and who read has gone.
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
        """Hand on what was written, or lose it; raises as `write`, also what a caller of `write` made nothing of."""
        try:
            self._stream.flush()
            if self._strict and self._lost:
                raise self._lost
        except (OSError, ValueError) as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Whether somebody looks at it; not where it was closed."""
        with suppress(OSError, ValueError):
            return bool(self._stream.isatty())
        return False

    def _lose(self, error: OSError | ValueError) -> None:
        self._lost = error
        if self._strict and isinstance(error, BrokenPipeError):
            raise error
        if self._strict:
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise StorageError(f"could not print the answer: {why}") from error


def keep_going() -> None:
    """From now on to the end of this process nothing that is printed can fail, whoever prints it."""
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        setattr(sys, name, Stream(stream))
        atexit.register(_discard, stream)


@contextmanager
def guarded() -> Iterator[None]:
    """While the block lasts an answer that can't be printed is an error; what is said on standard error can get lost.

    Raises:
        BrokenPipeError: who read the answer has gone.
        StorageError: standard output is full or closed.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    closed = io.StringIO()
    closed.close()
    answers, complaints = Stream(sys.stdout or closed, strict=True), Stream(sys.stderr or closed)
    sys.stdout, sys.stderr = answers, complaints
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in filter(None, before):
            _discard(stream)


def _open_closed() -> None:
    """Open standard descriptors that are closed (``>&-``): else the next file gets their number, and what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _discard(stream: TextIO) -> None:
    """Let go what can't be written: Python would fail of it at its end, with a status of its own."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
