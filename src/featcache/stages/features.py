"""From the source to the feature caches: `IndexImages` and `ExtractFeatures`."""

import io
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from featcache.errors import SourceError, WeightsUnavailableError
from featcache.features import (
    Extraction,
    ExtractionEngine,
    ForwardPass,
    Precision,
    ResolvedWeights,
    choose_precision,
    extract_copies,
    resolve_weights,
)
from featcache.inspection import changed_defaults
from featcache.project import (
    REJECTED_CSV,
    BackboneFeatures,
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
from featcache.settings import ALONE, AUTO, has_own_weights, one_of
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
    kind = "labels" if manifest.several else "classes"
    return f"{len(manifest.class_names)} {kind} · {counts}" + f" · {rejected:,} rejected" * bool(rejected)


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
    caches = [backbone.cache(split, copy) for backbone, split, copy in project.caches()]
    if not all(cache.is_complete() for cache in caches):  # else they were shown before
        for line in [*notices, *_slow_precision(project)]:
            progress.notice(line)
    check_submission(project)
    for backbone in project.backbones:
        recorded, digest = backbone.resolved("weights"), backbone.weights_digest()
        if recorded is None or digest is None or recorded.get("digest") != digest:
            backbone.record_resolved("weights", _found_weights(backbone, progress).record(backbone.spec))
        if backbone.precision() is None:
            _resolve_precision(project, backbone, progress)
    for line in changed_defaults(project):
        progress.notice(line)


def _found_weights(backbone: BackboneFeatures, progress: Progress) -> ResolvedWeights:
    """A backbone's weights; one of several whose ImageNet weights can't be had is no use to the others."""
    spec = backbone.spec
    if backbone.label and spec.weights == AUTO and not has_own_weights(spec.backbone):
        spec = replace(spec, weights="imagenet")
    try:
        return resolve_weights(spec, progress)
    except WeightsUnavailableError as error:
        fix = f"or leave {backbone.label} out, or set weights = random"
        raise WeightsUnavailableError(f"{error}; {fix}" if backbone.label else str(error)) from error


def _resolve_precision(project: Project, backbone: BackboneFeatures, progress: Progress) -> None:
    """Record what is fastest here, of what this GPU computes right: its own precision, float32, or on the processor."""
    setting, capability = project.settings.features.precision, device_of(project).capability
    choices = [choose_precision(setting, capability)]
    if capability is not None and project.settings.cluster.scheduler == ALONE:  # else this process doesn't extract
        choices += [Precision("float32", f"{choices[0].name} failed the self-check"), choose_precision(setting)]
    for chosen in choices:
        record = {"setting": setting, "value": chosen.name, "reason": chosen.reason, "host": platform.node()}
        backbone.record_resolved("precision", record)
        if chosen is choices[-1] or resolved_backbone(backbone, progress).device.capability is not None:
            return


def _slow_precision(project: Project) -> list[str]:
    """A line where ``auto`` was resolved on another machine and isn't what is fast on this one."""
    recorded = project.backbones[0].resolved("precision") or {}
    if project.settings.features.precision != AUTO or recorded.get("host") in (None, platform.node()):
        return []
    here = choose_precision(AUTO, device_of(project).capability)
    if here.name == recorded["value"]:
        return []
    why = f"precision={recorded['value']} was chosen on {recorded['host']} and may be slow here ({here.reason})"
    return [f"{why}: [Features] precision = {here.name} is faster, and extracts every image again"]


def extract_split(
    project: Project,
    split: str,
    progress: Progress,
    copies: Collection[int] | None = None,
    label: str | None = None,
    *,
    fresh: bool = False,
) -> str:
    """Cache the features of one split by one backbone or all, one after the other.

    A backbone decodes each image once for all copies that need it.

    Args:
        project: whose.
        split: ``train``, ``valid`` or ``test``.
        progress: shows every batch.
        copies: which copies; None for those that the settings ask for and that aren't complete.
        label: the backbone's, such as ``vgg16@224``; None for all.
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
    done = []
    for backbone in project.backbones if label is None else [_labelled(project, label)]:
        wanted = [c for each, name, c in project.caches() if each is backbone and name == split]
        mine = [c for c in wanted if fresh or not backbone.cache(split, c).is_complete()] if copies is None else copies
        done.append(_extract(project, backbone, manifest, split, mine, progress, fresh=fresh))
    return " · ".join(done)


def _labelled(project: Project, label: str) -> BackboneFeatures:
    known = [backbone.label for backbone in project.backbones]
    one_of("backbone", label, known)
    return project.backbones[known.index(label)]


def _extract(
    project: Project,
    backbone: BackboneFeatures,
    manifest: Manifest,
    split: str,
    copies: Collection[int],
    progress: Progress,
    *,
    fresh: bool,
) -> str:
    """Cache the features of one split by one backbone; return what became of the rows."""
    jobs = {backbone.cache(split, copy).path: _job(project, backbone, manifest, split, copy) for copy in copies}
    about = {"run": project.run, "weights": backbone.resolved("weights"), "precision": backbone.precision()}

    load, cluster = keeping_reasons(project.folder, image_loader(project)), connect(project)
    with ExitStack() as stack:
        load_backbone: Callable[[], ForwardPass] = partial(resolved_backbone, backbone, progress)
        engine: ExtractionEngine | None = None
        if cluster is not None:
            contract = stack.enter_context(verified_workers(cluster, project, weights=True))
            load_backbone = partial(remote_backbone, cluster, contract, backbone.label, progress)
            engine = remote_engine(cluster, contract, backbone.label)

        def open_backbone() -> ForwardPass:
            network = load_backbone()
            if network.device.problem:
                progress.notice(network.device.problem)
            check_space(project, backbone, network.taps)
            return network

        extract_copies(
            jobs,
            load,
            open_backbone,
            progress,
            reuse=not fresh,
            about=about,
            engine=engine,
            others=project.other_caches,
        )
    summary = backbone.of_backbone(f"{split}: {_summary_line([open_cache(path).run for path in jobs])}")
    return f"{summary} · {cluster.summary()}" if cluster is not None else summary


def _job(project: Project, backbone: BackboneFeatures, manifest: Manifest, split: str, copy: int) -> Extraction:
    return Extraction(
        dataset=project.settings.dataset.name,
        split=split,
        copy=copy,
        rows=manifest.splits[split],
        class_names=manifest.class_names,
        spec=backbone.spec,
        tap_settings=backbone.tap_settings(copy),
        label=backbone.label,
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
    readers = [open_cache(backbone.cache(split, copy).path) for backbone, split, copy in project.caches()]
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
    kept, rejected = kept_reasons(project.folder), dict[tuple[str, int], str]()
    for reader in plain:  # of several backbones each has rejected the same images
        rows = manifest.splits[reader.split]
        mine = {row for split, row in rejected if split == reader.split}
        for row in sorted({*np.flatnonzero(reader.status == Status.REJECTED).tolist()} - mine):
            reason = kept.get((rows.locations[row], rows.digests[row]))
            rejected[reader.split, row] = reason or rejection_reason(rows, row, load, size)
    return rejected


def _check_usable(project: Project, plain: Reader, rejected: Mapping[tuple[str, int], str]) -> None:
    def describe(row: int) -> str:
        return f"{plain.ids[row]!r}, {rejected[plain.split, row]}"

    where = rejected_csv(project.folder)
    check_usable(SplitRows.of(plain), plain.class_names, describe, where)
