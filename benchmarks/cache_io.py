"""Reading and writing a feature cache against `np.save` and `np.memmap`, on the same disk, in one run.

    python benchmarks/cache_io.py [--megabytes 512] [--folder artifacts]

Rows are VGG16's `block5_pool` at 224 pixels, (7, 7, 512) float16, half of them zeros. Writing: batch by batch to a durable file,
published by rename, against np.memmap, batch by batch as well, and against one np.save of all rows, which only a program that
holds them all can do; both with fsync, rename and fsync of the folder. Reading: np.memmap of the file that np.memmap wrote, with
the page cache warm as both files were just written, anew for every pair, as where a page lies is decided then; cold after the
kernel was asked to drop the file's pages; and warm again. Each figure is the median of ROUNDS pairs, which of the two comes
first left to chance. Before each measurement three times the features' bytes are touched in memory and given back: a virtual
machine hands free memory to its host after some seconds, and whoever needs it next pays for getting it back (0.4 s for 512 MB,
as much as the whole write). Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import featcache
from featcache.cache.layout import CacheHeader, TapLayout, default_block_rows
from featcache.cache.writer import CacheWriter
from featcache.core.rows import Rows

SHAPE = (7, 7, 512)
BATCH = 64
ROUNDS = 15
MEMORY = 3  # times the features' bytes
# how the page cache came by the file: large pages or small ones, as the writes happened to fall, or as the kernel reads ahead
AS_WRITTEN, COLD, READ_BEFORE = "warm, as written", "cold", "warm, read before"
PAGE = 4096


class Subject:
    """The same rows as a feature cache and as a NumPy file."""

    def __init__(self, folder: Path, n: int) -> None:
        """Make n rows of features."""
        rng = np.random.default_rng(0)
        self.features = np.maximum(rng.standard_normal((n, *SHAPE), np.float32), 0).astype(np.float16)
        ids = [f"{row}.jpg" for row in range(n)]
        digests = [hashlib.sha256(row_id.encode()).hexdigest() for row_id in ids]
        rows = Rows(ids, np.zeros(n, np.int32), [""] * n, digests, [""] * n)
        taps = (TapLayout("block5_pool", SHAPE, "k" * 64, {}),)
        block_rows = default_block_rows(taps, BATCH)
        self.header = CacheHeader("train", 0, "f" * 64, "set", {}, ("a", "b"), taps, rows, block_rows)
        self.cache, self.array = folder / "cache.h5", folder / "array.npy"
        self.order = rng.permutation(n)[: n // 2]

    def write_cache(self) -> None:
        """Batch by batch, as extraction does, to a published cache."""
        self.cache.unlink(missing_ok=True)
        with CacheWriter(self.cache, self.header) as writer:
            for start in range(0, len(self.features), BATCH):
                batch = self.features[start : start + BATCH]
                writer.write(
                    np.arange(start, start + len(batch)), {"block5_pool": batch}, np.ones(len(batch), np.uint8)
                )
            writer.publish({})

    def write_whole(self) -> None:
        """In one `np.save`."""
        with self._published() as temporary, open(temporary, "wb") as stream:
            np.save(stream, self.features)

    def write_mapped(self) -> None:
        """Batch by batch through `np.memmap`."""
        with self._published() as temporary:
            mapped = np.lib.format.open_memmap(temporary, "w+", np.float16, self.features.shape)
            for start in range(0, len(self.features), BATCH):
                mapped[start : start + BATCH] = self.features[start : start + BATCH]
            mapped.flush()

    @contextmanager
    def _published(self) -> Iterator[Path]:
        """A temporary file that becomes durable under its final name."""
        self.array.unlink(missing_ok=True)
        temporary = self.array.with_suffix(".tmp")
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(self.array)
        folder = os.open(self.array.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self, features: np.ndarray, *, random: bool) -> None:
        """Every row in batches, or half of them at random."""
        order = self.order if random else None
        count = len(features) if order is None else len(order)
        for start in range(0, count, BATCH):
            if order is None:
                np.array(features[start : start + BATCH])
            else:
                features[order[start : start + BATCH]]

    def open_cache(self) -> np.ndarray:
        """The cache's features."""
        return featcache.open(self.cache)["block5_pool"]

    def open_array(self) -> np.ndarray:
        """The NumPy file, mapped."""
        mapped: np.ndarray = np.load(self.array, mmap_mode="r")
        return mapped


def forget(path: Path) -> None:
    """Ask the kernel to drop the file's pages."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ways(subject: Subject) -> dict[str, tuple[Callable[[], None], Callable[[], None], float]]:
    """What is measured: name -> (the cache's way, NumPy's way, share of the bytes)."""
    found = {
        "write, durable, against one np.save": (subject.write_cache, subject.write_whole, 1.0),
        "write, durable, against np.memmap": (subject.write_cache, subject.write_mapped, 1.0),
    }
    for state in (AS_WRITTEN, COLD, READ_BEFORE):
        for random in (False, True):
            name = f"read, {'random rows' if random else 'in order'}, page cache {state}"
            mine = Reading(subject, subject.cache, subject.write_cache, subject.open_cache, state, random=random)
            theirs = Reading(subject, subject.array, subject.write_mapped, subject.open_array, state, random=random)
            found[name] = (mine, theirs, 0.5 if random else 1.0)
    return found


class Reading:
    """Reads one of the two files in one state of the page cache."""

    def __init__(
        self,
        subject: Subject,
        path: Path,
        write: Callable[[], None],
        opener: Callable[[], np.ndarray],
        state: str,
        *,
        random: bool,
    ) -> None:
        self._subject, self._path, self._write, self._opener = subject, path, write, opener
        self._state, self._random = state, random

    def prepare(self) -> None:
        """Bring the page cache into its state, and open the file."""
        if self._state == AS_WRITTEN:
            self._write()
        elif self._state == COLD:
            forget(self._path)  # nobody has it mapped: mapped pages would stay
        self._opened = self._opener()

    def __call__(self) -> None:
        """Read; the file is not mapped afterwards."""
        self._subject.read(self._opened, random=self._random)
        del self._opened


def measure(way: Callable[[], object], nbytes: int = 0) -> float:
    """Seconds of one call, its preparation not counted; `nbytes` are got from the host before."""
    touched = np.empty(nbytes, np.uint8)
    touched[::PAGE] = 1
    del touched
    getattr(way, "prepare", lambda: None)()
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def pair(mine: Callable[[], None], theirs: Callable[[], None], nbytes: int, *, mine_first: bool) -> tuple[float, float]:
    """Seconds of both, one after the other: who comes second meets the disk as the first left it."""
    if mine_first:
        return measure(mine, nbytes), measure(theirs, nbytes)
    last = measure(theirs, nbytes)
    return measure(mine, nbytes), last


def opening(subject: Subject) -> str:
    """What it takes to open each, in milliseconds."""
    pairs = [(measure(subject.open_cache), measure(subject.open_array)) for _ in range(ROUNDS)]
    mine, theirs = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    return f"Opening, in which HDF5 reads the file's structure: {mine:.1f} ms against {theirs:.1f} ms."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "artifacts")
    wanted = parser.parse_args()
    n = wanted.megabytes * 1_000_000 // (2 * int(np.prod(SHAPE)))
    print("| | feature cache, MB/s | NumPy, MB/s | ratio (median of pairs) |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
        subject, turns = Subject(Path(folder), n), np.random.default_rng(0)
        nbytes = MEMORY * subject.features.nbytes
        for name, (mine, theirs, share) in ways(subject).items():
            for way in (mine, theirs):
                measure(way)
            pairs = [pair(mine, theirs, nbytes, mine_first=bool(turns.integers(2))) for _ in range(ROUNDS)]
            speed = [
                share * subject.features.nbytes / 1e6 / statistics.median(times) for times in zip(*pairs, strict=True)
            ]
            ratio = statistics.median(theirs / mine for mine, theirs in pairs)
            print(f"| {name} | {speed[0]:,.0f} | {speed[1]:,.0f} | {ratio:.2f} |", flush=True)
        print("\n" + opening(subject))


if __name__ == "__main__":
    main()
