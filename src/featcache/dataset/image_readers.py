"""Many new image files read by several processes, as the threads of one Python digest small files one after the other.

``python -m featcache.dataset.image_readers`` is such a process. It starts without NumPy and Pillow, and answers for sound
images alone: what it can't read or what is rejected is left to who asked.
"""

import os
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from queue import Empty, SimpleQueue
from resource import RUSAGE_SELF, getrusage
from types import TracebackType
from typing import IO, cast

from featcache.core import keys, paths
from featcache.core.system import child_environment, core_numbers
from featcache.dataset import decoding
from featcache.dataset.decoding.jpeg import is_plain
from featcache.dataset.decoding.versions import MOST_BYTES

ANSWER_BYTES = 8 + 32  # a time and a SHA-256
_MANY = 20_000  # files; with fewer, starting the processes takes longer than they save
_MOST = 8
_LENGTH = 8
_THREADS = 4  # of each once it waits for a disk, which may answer several at once; files in memory one reads faster
_WAITS = 8  # files: one wait in so many
_UNSOUND = bytes(32)


class Readers:
    """Processes that look at files for threads of this one, as `looked_at` does; none for few files."""

    def __init__(self, files: int) -> None:
        cores = len(core_numbers())
        self._all = [_started() for _ in range(min(cores, _MOST))] if files >= _MANY and cores > 1 else []
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for reader in self._all:
            self._free.put(reader)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def answer(self, files: Sequence[str]) -> bytes:
        """Return of n regular files n int64, when they were read, and n digests, zeros of what isn't sound; b"" if nobody is free."""
        try:
            reader = self._free.get_nowait()
        except Empty:
            return b""
        request, size = b"\0".join(map(os.fsencode, files)), ANSWER_BYTES * len(files)
        requests, answers = cast("IO[bytes]", reader.stdin), cast("IO[bytes]", reader.stdout)
        try:
            requests.write(len(request).to_bytes(_LENGTH) + request)
            requests.flush()
            answer = answers.read(size)
        except OSError:  # it was ended
            return b""
        if len(answer) != size:
            return b""
        self._free.put(reader)
        return answer

    def stop(self) -> None:
        """Have whoever waits for an answer wait no more."""
        for reader in self._all:
            reader.kill()

    def __enter__(self) -> "Readers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for reader in self._all:
            with suppress(OSError), reader:  # closes its pipes and waits
                pass


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - this very interpreter
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        start_new_session=True,  # an interrupt is meant for who started it
    )


def main() -> None:
    """Answer until nobody asks any more."""
    requests, answers, threads = sys.stdin.buffer, sys.stdout.buffer, 1
    with ThreadPoolExecutor(_THREADS) as executor:
        while length := requests.read(_LENGTH):
            names, before = requests.read(int.from_bytes(length)).split(b"\0"), _waits()
            step = -(-len(names) // threads)
            found = executor.map(_look, [names[start : start + step] for start in range(0, len(names), step)])
            answers.write(b"".join(chain(*zip(*found, strict=True))))
            answers.flush()
            threads = _THREADS if (_waits() - before) * _WAITS > len(names) else threads


def _waits() -> int:
    """How many times this process has given up a core before its time: mostly for a disk."""
    return getrusage(RUSAGE_SELF).ru_nvcsw


def _look(names: list[bytes]) -> tuple[bytes, bytes]:
    times, digests = array("q"), []
    for name in names:
        times.append(time.time_ns())
        digests.append(_digest(os.fsdecode(name)))
    return times.tobytes(), b"".join(digests)


def _digest(path: str) -> bytes:
    try:
        digest, reason = looked_at(paths.read_bytes(path, MOST_BYTES, known=True))
    except OSError:
        return _UNSOUND
    return _UNSOUND if reason else bytes.fromhex(digest)


def looked_at(content: bytes) -> tuple[str, str]:
    """Return the digest of an image file's content, and why it can't be used, by its header; "" where nothing is wrong."""
    if is_plain(content):
        return keys.bytes_digest(content), ""
    rules = decoding.decoding_rules(content)
    return decoding.image_digest(content, rules), decoding.header_fault(content, rules)


if __name__ == "__main__":
    main()
