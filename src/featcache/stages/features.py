"""From the source to the feature caches: `IndexImages` and `ExtractFeatures`."""

import io
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from featcache.cache import Reader, Status, open_cache
from featcache.core import disk
from featcache.core.csv_files import CsvWriter
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.dataset import Manifest, list_images
from featcache.errors import SourceError
from featcache.features import (
    Extraction,
    ExtractionEngine,
    ForwardPass,
    Precision,
    choose_precision,
    extract_copies,
    resolve_weights,
)
from featcache.inspection import changed_defaults
from featcache.project import (
    REJECTED_CSV,
    Project,
    SplitRows,
    check_usable,
    device_of,
    found_notices,
    image_loader,
    keeping_reasons,
    kept_reasons,
    rejected_csv,
    rejection_reason,
    resolved_backbone,
)
from featcache.settings import ALONE, AUTO
from featcache.stages.preflight import check_clip, check_heads, check_space, check_submission
from featcache.stages.workers.client import connect, verified_workers
from featcache.stages.workers.extraction_jobs import remote_backbone, remote_engine


def index_images(project: Project, progress: Progress) -> str:
    """List the source and write the manifest.

    Raises:
        SourceError: the source can't be listed, or heads can't be trained on what it lists.
        StorageError: the artifacts folder can't be written.
    """
    begun = time.perf_counter()
    manifest = list_images(project.settings.dataset, project.folder, progress, project.listing)
    manifest.save(project.folder, {"run": project.run, "seconds": round(time.perf_counter() - begun, 3)})
    counts = " · ".join(f"{split} {len(rows):,}" for split, rows in manifest.splits.items())
    rejected = sum(int((~rows.listed).sum()) for rows in manifest.splits.values())
    return f"{len(manifest.class_names)} classes · {counts}" + f" · {rejected:,} rejected" * bool(rejected)


def resolve_features(project: Project, progress: Progress) -> None:
    """Settle ``auto`` settings and record them; what is recorded stays until the setting changes.

    Raises:
        BackboneError: no such backbone, or the images are too small for it.
        SettingsError: the submission's clip is too low for the number of classes, or heads need groups or test images
            that there aren't.
        TrainingError: the training rows can't be dealt out to folds, or to models by group.
        SubmissionError: the sample submission names other rows than the test images, or other columns than the settings;
            or no test image is usable.
        WeightsError: the weights can't be had.
    """
    check_clip(project)
    notices = check_heads(project)
    if not all(project.features(*cache).is_complete() for cache in project.caches()):  # else they were shown before
        for line in [*notices, *_slow_precision(project)]:
            progress.notice(line)
    check_submission(project)
    spec = project.settings.features
    recorded, digest = project.resolved("weights"), project.weights_digest()
    if recorded is None or digest is None or recorded.get("digest") != digest:
        project.record_resolved("weights", resolve_weights(spec, progress).record(spec))
    if project.precision() is None:
        _resolve_precision(project, progress)
    for line in changed_defaults(project):
        progress.notice(line)


def _resolve_precision(project: Project, progress: Progress) -> None:
    """Record what is fastest here, of what this GPU computes right: its own precision, float32, or on the processor."""
    setting, capability = project.settings.features.precision, device_of(project).capability
    choices = [choose_precision(setting, capability)]
    if capability is not None and project.settings.cluster.scheduler == ALONE:  # else this process doesn't extract
        choices += [Precision("float32", f"{choices[0].name} failed the self-check"), choose_precision(setting)]
    for chosen in choices:
        record = {"setting": setting, "value": chosen.name, "reason": chosen.reason, "host": platform.node()}
        project.record_resolved("precision", record)
        if chosen is choices[-1] or resolved_backbone(project, progress).device.capability is not None:
            return


def _slow_precision(project: Project) -> list[str]:
    """A line where ``auto`` was resolved on another machine and isn't what is fast on this one."""
    recorded = project.resolved("precision") or {}
    if project.settings.features.precision != AUTO or recorded.get("host") in (None, platform.node()):
        return []
    here = choose_precision(AUTO, device_of(project).capability)
    if here.name == recorded["value"]:
        return []
    why = f"precision={recorded['value']} was chosen on {recorded['host']} and may be slow here ({here.reason})"
    return [f"{why}: [Features] precision = {here.name} is faster, and extracts every image again"]


def extract_split(
    project: Project, split: str, progress: Progress, copies: Collection[int] | None = None, *, fresh: bool = False
) -> str:
    """Cache the features of one split, decoding each image once for all copies that need it.

    Args:
        project: whose.
        split: ``train``, ``valid`` or ``test``.
        progress: shows every batch.
        copies: which copies; None for those that the settings ask for and that aren't complete.
        fresh: compute every row of all of them again.

    Raises:
        CacheLockedError: another process writes one of these caches.
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image changed since it was indexed.
        SourceError: there is no such split.
        StorageError: the disk is full, read-only or not permitted; finished blocks are kept.
    """
    manifest = Manifest.load(project.folder)
    if split not in manifest.splits:
        raise SourceError(f"split={split!r} has no images, only {', '.join(manifest.splits)}")
    if copies is None:
        asked = [copy for name, copy in project.caches() if name == split]
        copies = [copy for copy in asked if fresh or not project.features(split, copy).is_complete()]
    jobs = {project.features(split, copy).path: _job(project, manifest, split, copy) for copy in copies}
    about = {"run": project.run, "weights": project.resolved("weights"), "precision": project.precision()}

    load, cluster = keeping_reasons(project.folder, image_loader(project)), connect(project)
    with ExitStack() as stack:
        load_backbone: Callable[[], ForwardPass] = partial(resolved_backbone, project, progress)
        engine: ExtractionEngine | None = None
        if cluster is not None:
            contract = stack.enter_context(verified_workers(cluster, project, weights=True))
            load_backbone = partial(remote_backbone, cluster, contract, progress)
            engine = remote_engine(cluster, contract)

        def open_backbone() -> ForwardPass:
            backbone = load_backbone()
            if backbone.device.problem:
                progress.notice(backbone.device.problem)
            check_space(project, backbone.taps)
            return backbone

        extract_copies(jobs, load, open_backbone, progress, reuse=not fresh, about=about, engine=engine)
    summary = f"{split}: {_summary_line([open_cache(path).run for path in jobs])}"
    return f"{summary} · {cluster.summary()}" if cluster is not None else summary


def _job(project: Project, manifest: Manifest, split: str, copy: int) -> Extraction:
    return Extraction(
        dataset=project.settings.dataset.name,
        split=split,
        copy=copy,
        rows=manifest.splits[split],
        class_names=manifest.class_names,
        spec=project.settings.features,
        tap_settings=project.tap_settings(copy),
    )


def _summary_line(runs: Sequence[Mapping[str, Any]]) -> str:
    """What became of the rows of all copies, how fast, and what took the time."""
    counts = {what: sum(run[what] for run in runs) for what in ("computed", "copied", "resumed")}
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    worked = next((run for run in runs if run["computed"]), None)
    if worked:
        shares = " · ".join(f"{what} {100 * share:.0f} %" for what, share in worked["shares"].items())
        parts.append(f"{worked['images_per_second']:,.0f} images/s ({shares})")
    return " · ".join(parts)


def finish_features(project: Project, progress: Progress) -> str:
    """Write `rejected.csv` and, last, the record that all caches are there.

    Raises:
        TrainingError: a class has no usable training image.
        SubmissionError: no test image is usable.
        StorageError: the artifacts folder can't be written.
    """
    manifest = Manifest.load(project.folder)
    readers = [open_cache(project.features(*cache).path) for cache in project.caches()]
    plain = [reader for reader in readers if reader.copy == 0]
    rejected = _rejected_rows(project, manifest, plain)
    table, path = io.StringIO(), project.folder / REJECTED_CSV
    lines = [(split, manifest.splits[split].ids[row], reason) for (split, row), reason in rejected.items()]
    CsvWriter(table).rows([("split", "id", "reason"), *lines])
    disk.write_bytes(path, table.getvalue().encode("utf-8", "surrogateescape"))
    for reader in plain:
        _check_usable(project, reader, rejected)
    artifact, notices = project.all_features(), found_notices(plain)
    devices = sorted({str(reader.run["device"]) for reader in readers if reader.run.get("device")})
    record = {"rejected": len(rejected), "notices": notices, "devices": devices}
    write_json(artifact.path, {**artifact.record_header(project.run), **record})
    if rejected:
        progress.notice(f"{pluralize(len(rejected), 'image')} could not be used; {path} says why")
    for line in notices:
        progress.notice(line)
    size = sum(reader.size for reader in readers)
    return f"{pluralize(len(readers), 'cache')} · {pluralize(sum(map(len, readers)), 'row')} · {size / 1e6:,.1f} MB"


def _rejected_rows(project: Project, manifest: Manifest, plain: Sequence[Reader]) -> dict[tuple[str, int], str]:
    """(split, row) -> why, of every row that was rejected, by listing or by decoding.

    An image is decoded again only where no reason was kept: an older version filled the cache, or the power failed.
    """
    load, size = image_loader(project), project.settings.features.image_size
    kept, rejected = kept_reasons(project.folder), {}
    for reader in plain:
        rows = manifest.splits[reader.split]
        for row in np.flatnonzero(reader.status == Status.REJECTED).tolist():
            reason = kept.get((rows.locations[row], rows.digests[row]))
            rejected[reader.split, row] = reason or rejection_reason(rows, row, load, size)
    return rejected


def _check_usable(project: Project, plain: Reader, rejected: Mapping[tuple[str, int], str]) -> None:
    def describe(row: int) -> str:
        return f"{plain.ids[row]!r}, {rejected[plain.split, row]}"

    where = rejected_csv(project.folder)
    check_usable(SplitRows.of(plain), plain.class_names, describe, where)
