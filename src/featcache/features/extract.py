"""The rows of one split through the backbone into feature caches, one for each copy.

Rows that a cache of the same folder already holds, or durable blocks of an unfinished one, are copied; TensorFlow is imported
only when at least one row has to be computed.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.cache import CacheHeader, CacheWriter, RowFinder, Status, TapLayout, default_block_rows, find_rows
from featcache.core.progress import Progress
from featcache.core.system import peak_bytes, versions
from featcache.features.batch_pipeline import CopySink, ForwardPass, Loader, compute
from featcache.features.extraction_job import Extraction

_COPY_BYTES = 8 << 20
_PACKAGES = ("featcache", "keras", "tensorflow", "jax", "torch", "numpy", "h5py")
_USUAL_BATCH = 64  # for the size of blocks where every row is copied and no backbone is asked

Shapes = Mapping[str, tuple[int, ...]]


class TimeSpent(Protocol):
    """Where the time of a computation went; `featcache.features.batch_pipeline.TimeBreakdown` is one."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""

    def shares(self) -> dict[str, float]:
        """Decode, forward and write as fractions of the whole, in 0..1, sum 1."""


@dataclass(frozen=True, eq=False)
class CopyJob:
    """One cache at work: its writer, what has to be computed for it, and what became of the other rows."""

    job: Extraction
    writer: CacheWriter
    target: CopySink
    counts: Mapping[str, int] = field(default_factory=dict)


ExtractionEngine = Callable[[Sequence[CopyJob], Loader, ForwardPass, Progress, str], TimeSpent]


def compute_here(
    copies: Sequence[CopyJob], load: Loader, backbone: ForwardPass, progress: Progress, what: str
) -> TimeSpent:
    """Compute what the copies lack in this process; see `featcache.features.batch_pipeline.compute`."""
    job = copies[0].job
    return compute(job.rows, [copy.target for copy in copies], load, job.spec, backbone, progress, what)


def extract_copies(
    jobs: Mapping[Path, Extraction],
    load: Loader,
    open_backbone: Callable[[], ForwardPass],
    progress: Progress,
    *,
    reuse: bool = True,
    about: Mapping[str, object] | None = None,
    engine: ExtractionEngine = compute_here,
) -> None:
    """Cache the features of several copies of one split; unfinished work of an earlier try is resumed.

    An image that several copies need is decoded once for all of them.

    Args:
        jobs: the published file's path -> what to cache there, all of the same rows; a path appears only when
            everything in the file is durable.
        load: location, content digest and size -> (size, size, 3) uint8 RGB; called from several threads.
        open_backbone: called only when rows have to be computed.
        progress: advances with every batch.
        reuse: copy rows that other caches of the folder hold; False computes every row again.
        about: more entries for the files' ``run`` records, such as the weights' origin.
        engine: who computes; with another one than this process, `open_backbone` need not give one that can.

    Raises:
        CacheLockedError: another process writes one of these files.
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer the one in the manifest.
        StorageError: the disk is full, read-only or not permitted; durable blocks stay.
        ValueError: the jobs are not of the same rows and features.
    """
    begun, started = time.perf_counter(), datetime.now(UTC)
    about = {"versions": versions(_PACKAGES), **(about or {})}  # what could fail does so before the work
    if len({(job.split, job.rows.key, job.spec) for job in jobs.values()}) != 1:
        raise ValueError("expected copies of the same split, rows and features; got different ones")
    finders = {
        path: find_rows(path.parent, job.tap_keys, job.rows.digests) if reuse else None for path, job in jobs.items()
    }
    known = all(finder is not None and finder.shapes for finder in finders.values())
    backbone = None if known else open_backbone()
    with ExitStack() as stack:
        shared = engine is not compute_here
        copies = [
            _open(path, job, finders[path], backbone, stack, fresh=not reuse, shared=shared)
            for path, job in jobs.items()
        ]
        time_spent = None
        if any(len(copy.target.todo) for copy in copies):
            backbone = backbone or open_backbone()
            time_spent = engine(copies, load, backbone, progress, _title(copies))
        seconds = time.perf_counter() - begun
        for copy in copies:
            share = _share(copy, copies)
            record = _run_record(started, seconds * share, time_spent, backbone, share, len(copy.target.todo))
            copy.writer.publish({**copy.counts, **record, **about})


def _open(
    path: Path,
    job: Extraction,
    finder: RowFinder | None,
    backbone: ForwardPass | None,
    stack: ExitStack,
    *,
    fresh: bool,
    shared: bool,
) -> CopyJob:
    """Take hold of a cache, write what needs no backbone, and find what does."""
    shapes = backbone.taps if backbone is not None else finder.shapes  # type: ignore[union-attr]  # one of them is there
    batch_size = backbone.batch_size if backbone is not None else _USUAL_BATCH
    writer = stack.enter_context(CacheWriter(path, _header(job, shapes, batch_size), fresh=fresh, shared=shared))
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
    return CopyJob(job, writer, CopySink(job.copy, todo, writer.write), counts)


def _title(copies: Sequence[CopyJob]) -> str:
    numbers = [copy.job.copy for copy in copies if len(copy.target.todo)]
    several = f" copies {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f" copy {numbers[0]}" * bool(numbers[0])
    return f"{copies[0].job.split}{several}: {copies[0].job.spec.backbone}"


def _share(copy: CopyJob, copies: Sequence[CopyJob]) -> float:
    """A copy's part of the work, in 0..1, so that the copies' seconds add up to those that passed."""
    whole = sum(len(other.target.todo) for other in copies)
    return len(copy.target.todo) / whole if whole else 1 / len(copies)


def _header(job: Extraction, shapes: Shapes, batch_size: int) -> CacheHeader:
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


def _reject(writer: CacheWriter, rows: npt.NDArray[np.intp], shapes: Shapes) -> int:
    """Write zeroed rows for what listing already rejected."""
    zeros = {name: np.zeros((len(rows), *shape), np.float16) for name, shape in shapes.items()}
    if len(rows):
        writer.write(rows, zeros, np.full(len(rows), Status.REJECTED, np.uint8))
    return len(rows)


def _copy(writer: CacheWriter, rows: npt.NDArray[np.intp], finder: RowFinder, shapes: Shapes) -> None:
    row_bytes = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    step = max(1, _COPY_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        writer.write(part, finder.copy(part), np.full(len(part), Status.OK, np.uint8))


def _run_record(
    started: datetime,
    seconds: float,
    time_spent: TimeSpent | None,
    backbone: ForwardPass | None,
    share: float,
    computed: int,
) -> dict[str, object]:
    """When, where, with what and how fast: facts about the run that no value depends on."""
    return {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "images_per_second": round(computed / (time_spent.seconds * share), 1) if time_spent and computed else None,
        "shares": time_spent.shares() if time_spent else None,
        "batch_size": backbone.batch_size if backbone is not None else None,
        "peak_bytes": peak_bytes(),
        "host": platform.node(),
        "python": platform.python_version(),
    }
