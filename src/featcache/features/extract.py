"""The rows of one split through the backbone into feature caches, one for each copy.

Rows that a cache of the same folder already holds, or durable blocks of an unfinished one, are copied; TensorFlow is imported
only when at least one row has to be computed.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from featcache.cache import (
    MIRROR,
    CacheHeader,
    CacheWriter,
    RowFinder,
    Status,
    TapLayout,
    copy_name,
    default_block_rows,
    find_rows,
)
from featcache.core.progress import Progress
from featcache.core.system import peak_bytes, versions
from featcache.features.batch_pipeline import CopySink, Foreseeing, ForwardPass, Loader, TimeSpent, compute
from featcache.features.extraction_job import Extraction

_COPY_BYTES = 8 << 20
_PACKAGES = ("featcache", "keras", "tensorflow", "jax", "torch", "numpy", "h5py")
_USUAL_BATCH = 64  # for the size of blocks where every row is copied and no backbone is asked


@dataclass(frozen=True, eq=False)
class CopyJob:
    """One cache at work: its writer, what has to be computed for it, and what became of the other rows."""

    job: Extraction
    writer: CacheWriter
    target: CopySink
    counts: Mapping[str, int]


ExtractionEngine = Callable[[Sequence[CopyJob], Progress, str], TimeSpent]


def extract_copies(
    jobs: Mapping[Path, Extraction],
    load: Loader,
    open_backbone: Callable[[], ForwardPass],
    progress: Progress,
    *,
    reuse: bool = True,
    about: Mapping[str, object] | None = None,
    engine: ExtractionEngine | None = None,
    others: Sequence[Path] = (),
) -> None:
    """Cache the features of several copies of one split; unfinished work of an earlier try is resumed.

    An image that several copies need is decoded once for all of them.

    Args:
        jobs: the published file's path -> what to cache there, all of the same split, rows and features; a path appears
            only when everything in the file is durable.
        load: as `compute` wants it.
        open_backbone: called only when rows have to be computed.
        progress: advances with every batch.
        reuse: copy rows that other caches hold; False computes every row again.
        about: more entries for the files' ``run`` records, such as the weights' origin.
        engine: computes what the copies lack in other processes; `open_backbone` need not give a forward pass then.
        others: folders whose caches may hold rows, too.

    Raises:
        CacheLockedError: another process writes one of these files.
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer the one in the manifest.
        StorageError: the disk is full, read-only or not permitted; durable blocks stay.
    """
    begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    about = {"versions": versions(_PACKAGES), **(about or {})}  # what could fail does so before the work
    finders = {
        path: find_rows(path.parent, job.tap_keys, job.rows.digests, others) if reuse else None
        for path, job in jobs.items()
    }
    known = all(finder is not None and finder.shapes for finder in finders.values())
    backbone = None if known else open_backbone()
    with ExitStack() as stack:
        copies = [
            _copy_job(stack, path, job, finders[path], backbone, fresh=not reuse, shared=engine is not None)
            for path, job in jobs.items()
        ]
        spent = None
        if any(len(copy.target.todo) for copy in copies):
            backbone, job = backbone or open_backbone(), copies[0].job
            if engine is not None:
                spent = engine(copies, progress, _title(copies))
            else:
                targets = [copy.target for copy in copies]
                spent = compute(job.rows, targets, load, job.spec, backbone, progress, _title(copies))
        run = {**_facts(backbone), **about}
        seconds = time.perf_counter() - begun
        for copy in copies:
            times = {"started": started, **_times(copy, copies, seconds, spent)}
            copy.writer.publish({**copy.counts, **times, **run})


def _facts(backbone: ForwardPass | None) -> dict[str, object]:
    device: dict[str, object] = {}
    if backbone is not None:
        device |= {"batch_size": backbone.batch_size, "device": backbone.device.name}
        device |= {"device_problem": backbone.device.problem} if backbone.device.problem else {}
        if isinstance(backbone, Foreseeing) and backbone.side_by_side:
            device["side_by_side"] = list(backbone.side_by_side)
    return {
        "batch_size": None,
        **device,
        "peak_bytes": peak_bytes(),
        "host": platform.node(),
        "python": platform.python_version(),
    }


def _copy_job(
    stack: ExitStack,
    path: Path,
    job: Extraction,
    finder: RowFinder | None,
    backbone: ForwardPass | None,
    *,
    fresh: bool,
    shared: bool,
) -> CopyJob:
    """Take hold of a cache, write what needs no backbone, and find what does."""
    shapes = backbone.taps if backbone is not None else finder.shapes  # type: ignore[union-attr]  # one of them is there
    header = _header(job, shapes, backbone.batch_size if backbone is not None else _USUAL_BATCH)
    writer = stack.enter_context(CacheWriter(path, header, fresh=fresh, shared=shared))
    lacking, listed = ~writer.durable, job.rows.listed
    found = finder.found if finder is not None else np.zeros(len(lacking), bool)
    rejected, copied = np.flatnonzero(lacking & ~listed), np.flatnonzero(lacking & listed & found)
    todo = np.flatnonzero(lacking & listed & ~found)
    step = max(1, _COPY_BYTES // sum(tap.row_bytes for tap in header.taps))
    for rows, status in ((rejected, Status.REJECTED), (copied, Status.OK)):
        for part in (rows[start : start + step] for start in range(0, len(rows), step)):
            if finder is not None and status == Status.OK:
                features = finder.copy(part)
            else:
                features = {name: np.zeros((len(part), *shape), np.float16) for name, shape in shapes.items()}
            writer.write(part, features, np.full(len(part), status, np.uint8))
    counts = {
        "resumed": int(writer.durable.sum()),
        "rejected_in_listing": len(rejected),
        "copied": len(copied),
        "computed": len(todo),
    }
    return CopyJob(job, writer, CopySink(job.copy, todo, writer.write), counts)


def _title(copies: Sequence[CopyJob]) -> str:
    todo = [copy.job.copy for copy in copies if len(copy.target.todo)]
    numbers = [copy for copy in todo if copy != MIRROR]
    parts = [f"copies {numbers[0]} to {numbers[-1]}"] if len(numbers) > 1 else map(copy_name, filter(None, numbers))
    mirrored = ["and mirror" if numbers else "mirror"] * (MIRROR in todo)
    return f"{' '.join([copies[0].job.split, *parts, *mirrored])}: {copies[0].job.label or copies[0].job.spec.backbone}"


def _times(copy: CopyJob, copies: Sequence[CopyJob], seconds: float, spent: TimeSpent | None) -> dict[str, object]:
    """A copy's part of the work, so that the copies' seconds add up to those that passed."""
    computed, whole = len(copy.target.todo), sum(len(other.target.todo) for other in copies)
    share = computed / whole if whole else 1 / len(copies)
    return {
        "seconds": round(seconds * share, 3),
        "images_per_second": round(computed / (spent.seconds * share), 1) if spent and computed else None,
        "shares": spent.shares if spent else None,
    }


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
