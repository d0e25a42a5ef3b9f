"""Decode | forward | write, overlapped: the rows of one split and copy, through the backbone, into one feature cache.

Rows that already stand in a cache of the same folder, or in durable blocks of an unfinished one, are copied; TensorFlow is
imported only when at least one row has to be computed.
"""

import os
import platform
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featcache.augment import RECIPE, augment
from featcache.cache.layout import CacheHeader, Status, TapLayout, default_block_rows
from featcache.cache.reuse import RowFinder, find_rows
from featcache.cache.writer import CacheWriter
from featcache.errors import RejectedImageError
from featcache.extraction import AUGMENT_SEED, Extraction
from featcache.progress import Progress

_AHEAD = 3  # batches decoded before they are needed; more only costs memory
_COPY_BYTES = 64 << 20
_PACKAGES = ("featcache", "keras", "tensorflow", "jax", "torch", "numpy", "h5py")
_USUAL_BATCH = 64  # for the size of blocks where every row is copied and no backbone is asked

Loader = Callable[[str, str, int], npt.NDArray[np.uint8]]
Features = Mapping[str, npt.NDArray[Any]]


class ForwardPass(Protocol):
    """What extraction needs of a backbone; `featcache.backbone.Backbone` is one."""

    @property
    def batch_size(self) -> int:
        """Rows that are computed at once."""

    @property
    def taps(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name -> shape of one row, (h, w, c) or (c,)."""

    def forward(self, images: npt.NDArray[np.uint8]) -> Features:
        """Map (b, size, size, 3) uint8 RGB images to (b, ...) features per tap name, b <= batch_size."""


@dataclass
class _Account:
    """Where the time of the thread that drives the forward pass went, in seconds."""

    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "forward": 0.0, "write": 0.0})

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the time spent inside to `what`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - begun

    def shares(self) -> dict[str, float]:
        """Fractions of the whole, in 0..1."""
        whole = sum(self.seconds.values()) or 1.0
        return {what: round(seconds / whole, 4) for what, seconds in self.seconds.items()}

    def __str__(self) -> str:
        """For the progress bar: ``forward 92 % · decode 6 % · write 2 %``."""
        ordered = sorted(self.shares().items(), key=lambda item: -item[1])
        return " · ".join(f"{what} {share:.0%}".replace("%", " %") for what, share in ordered)


def extract_features(
    path: Path,
    job: Extraction,
    load: Loader,
    open_backbone: Callable[[], ForwardPass],
    progress: Progress,
    *,
    reuse: bool = True,
    about: Mapping[str, object] | None = None,
) -> Path:
    """Cache the features of `job` as `path`; unfinished work of an earlier try is gone on with.

    Args:
        path: the published file's name; it appears only when everything in it is durable.
        job: what to cache.
        load: location, content digest and size -> (size, size, 3) uint8 RGB; called from several threads.
        open_backbone: called only when rows have to be computed.
        progress: is told of every batch.
        reuse: copy rows that stand in other caches of the folder; False computes every row anew.
        about: more entries for the file's ``run`` record, such as the weights' origin.

    Raises:
        CacheLockedError: another process writes this file.
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer what the manifest says.
        StorageError: the disk is full, read-only or not permitted; durable blocks stay.
    """
    begun, started = time.perf_counter(), datetime.now(UTC)
    finder = find_rows(path.parent, job.tap_keys, job.rows.digests) if reuse else None
    backbone = None if finder is not None and finder.shapes else open_backbone()
    shapes = backbone.taps if backbone is not None else finder.shapes  # type: ignore[union-attr]  # one of them is there
    account = _Account()
    batch_size = backbone.batch_size if backbone is not None else _USUAL_BATCH
    with CacheWriter(path, _header(job, shapes, batch_size), fresh=not reuse) as writer:
        counts = {"resumed": int(writer.durable.sum())}
        open_rows = ~writer.durable
        counts["rejected_in_listing"] = _reject(writer, np.flatnonzero(open_rows & ~job.rows.listed), shapes)
        open_rows &= job.rows.listed
        copied = np.flatnonzero(open_rows & finder.found) if finder is not None else np.empty(0, np.intp)
        if finder is not None:
            _copy(writer, copied, finder, shapes)
        open_rows[copied] = False
        todo = np.flatnonzero(open_rows)
        counts |= {"copied": len(copied), "computed": len(todo)}
        if len(todo):
            backbone = backbone or open_backbone()
            _compute(writer, todo, job, load, backbone, account, progress)
        seconds = time.perf_counter() - begun
        record = _run_record(started, seconds, account, backbone, len(todo))
        return writer.publish({**counts, **record, **(about or {})})


def _header(job: Extraction, shapes: Mapping[str, tuple[int, ...]], batch_size: int) -> CacheHeader:
    taps = tuple(
        TapLayout(name=name, shape=tuple(shapes[name]), key=job.tap_keys[name], settings=settings)
        for name, settings in job.tap_settings.items()
    )
    return CacheHeader(
        split=job.split,
        copy=job.copy,
        key=job.key,
        name=job.dataset,
        settings={"features": {"backbone": job.spec.backbone, "image_size": job.spec.image_size}},
        class_names=job.class_names,
        taps=taps,
        rows=job.rows,
        block_rows=default_block_rows(taps, batch_size),
    )


def _reject(writer: CacheWriter, rows: npt.NDArray[np.intp], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Write zeroed rows for what listing already set aside."""
    zeros = {name: np.zeros((len(rows), *shape), np.float16) for name, shape in shapes.items()}
    if len(rows):
        writer.write(rows, zeros, np.full(len(rows), Status.REJECTED, np.uint8))
    return len(rows)


def _copy(
    writer: CacheWriter, rows: npt.NDArray[np.intp], finder: RowFinder, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    row_bytes = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    step = max(1, _COPY_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        writer.write(part, finder.copy(part), np.full(len(part), Status.OK, np.uint8))


def _compute(
    writer: CacheWriter,
    todo: npt.NDArray[np.intp],
    job: Extraction,
    load: Loader,
    backbone: ForwardPass,
    account: _Account,
    progress: Progress,
) -> None:
    """Drive the three steps: threads decode ahead, this thread computes, one thread writes behind."""
    batches = [todo[start : start + backbone.batch_size] for start in range(0, len(todo), backbone.batch_size)]
    copy = f" copy {job.copy}" if job.copy else ""
    progress.start(f"{job.split}{copy}: {job.spec.backbone}", len(todo), "images")
    writes: deque[Future[None]] = deque()
    sink = ThreadPoolExecutor(1, thread_name_prefix="featcache-write")
    try:
        for batch, images, status in _decoded(batches, job, load, account):
            with account.on("forward"):
                features = backbone.forward(images)
            with account.on("write"):
                writes.append(sink.submit(writer.write, batch, _zero_rejected(features, status), status))
                while len(writes) > _AHEAD:
                    writes.popleft().result()
            progress.advance(len(batch), str(account))
        with account.on("write"):
            for write in writes:
                write.result()
    finally:
        sink.shutdown(wait=True)  # what is computed is written, also when the next batch or image fails
        progress.finish()


def _decoded(
    batches: list[npt.NDArray[np.intp]], job: Extraction, load: Loader, account: _Account
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Yield (rows, (b, size, size, 3) images, (b,) status), decoded by threads some batches ahead."""
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="featcache-decode")
    queue: deque[list[Future[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]]] = deque()
    waiting = iter(batches)

    def fetch() -> None:
        batch = next(waiting, None)
        if batch is not None:
            queue.append([pool.submit(_decode_rows, part, job, load) for part in np.array_split(batch, threads)])

    try:
        for _ in range(_AHEAD):
            fetch()
        for batch in batches:
            with account.on("decode"):
                parts = [part.result() for part in queue.popleft()]
                images = np.concatenate([images for images, _ in parts])
                status = np.concatenate([status for _, status in parts])
            fetch()
            yield batch, images, status
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode_rows(
    rows: npt.NDArray[np.intp], job: Extraction, load: Loader
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Decode some rows of one batch; a row that can't be decoded stays black and is marked as rejected."""
    size = job.spec.image_size
    images = np.zeros((len(rows), size, size, 3), np.uint8)
    status = np.full(len(rows), Status.OK, np.uint8)
    for i, row in enumerate(rows):
        digest = job.rows.digests[row]
        try:
            image = load(job.rows.locations[row], digest, size)
        except RejectedImageError:
            status[i] = Status.REJECTED
            continue
        images[i] = augment(image, RECIPE, AUGMENT_SEED, digest, job.copy) if job.copy else image
    return images, status


def _zero_rejected(features: Features, status: npt.NDArray[np.uint8]) -> Features:
    rejected = status == Status.REJECTED
    if not rejected.any():
        return features
    return {name: np.where(rejected.reshape(-1, *[1] * (f.ndim - 1)), 0, f) for name, f in features.items()}


def _run_record(
    started: datetime, seconds: float, account: _Account, backbone: ForwardPass | None, computed: int
) -> dict[str, object]:
    """When, where, with what and how fast: facts about the run that no value depends on."""
    working = sum(account.seconds.values())
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "images_per_second": round(computed / working, 1) if computed else None,
        "shares": account.shares(),
        "batch_size": backbone.batch_size if backbone is not None else None,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES if find_spec(name)},
    }
