"""Convnets from the manifest alone, without features: `TrainConvNets`, and what they predict."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import pluralize
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress, Silent
from featcache.core.rows import Rows, is_several, masked_labels
from featcache.core.scratch_arrays import allocate
from featcache.dataset import Manifest, Pixels, load_pixels
from featcache.ensemble import judged_members
from featcache.features import Device, choose_precision
from featcache.project import (
    LOG_NAME,
    Artifact,
    Project,
    SplitRows,
    check_usable,
    device_of,
    fold_digests,
    image_loader,
    rejection_reason,
)
from featcache.settings import TRAINING_PRECISIONS
from featcache.stages.workers.client import connect
from featcache.stages.workers.job_queue import train_on_workers
from featcache.stages.workers.worker import ONE_AT_A_TIME, Job
from featcache.training import (
    ConvNetPlan,
    PartialFolder,
    Predictions,
    TrainingData,
    assign_folds,
    by_folds,
    fold_notices,
    model_path,
    resolve_convnet,
)

RowParts = Iterator[tuple[slice, npt.NDArray[np.float32]]]

_PREDICT_ROWS = 1 << 14  # a multiple of the convnets' batch


def train_convnets(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Train every member's convnets, one for each fold; a killed run's finished folds and checkpoints are used.

    With `fresh`, complete members are trained too, and every fold from its beginning.

    Raises:
        SourceChangedError: an image changed since it was indexed.
        TrainingError: a class has no usable image, the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted; finished folds are kept.
    """
    examples = _examples(project, progress)
    if examples.device.problem:
        progress.notice(examples.device.problem)
    seeds = [
        seed for seed in range(project.settings.convnet.members) if fresh or not project.convnet(seed).is_complete()
    ]
    for seed in seeds:
        _partial_folder(project, seed).begin(fresh=fresh)
    cluster = connect(project)
    if cluster is not None:
        todo = [
            (seed, fold)
            for seed in seeds
            for fold in examples.data.parts.numbers
            if _partial_folder(project, seed).finished(fold) is None
        ]
        jobs = [Job(f"fold {fold} of convnet/seed{seed}", train_fold_on_worker, (seed, fold)) for seed, fold in todo]
        train_on_workers(cluster, project, "convnets", "folds", jobs, progress)
    parts = [_train_member(project, seed, examples, progress) for seed in seeds]
    parts += [cluster.summary()] if cluster is not None else []
    how = f"{pluralize(examples.plan.epochs, 'epoch')} in {examples.plan.precision} on {examples.device.name}"
    return " · ".join([how, *parts])


@dataclass(frozen=True, eq=False)
class _Examples:
    """What a project's convnets are trained on, and how."""

    rows: Rows
    data: TrainingData
    class_names: tuple[str, ...]
    plan: ConvNetPlan
    device: Device
    notices: list[str]


def _examples(project: Project, progress: Progress) -> _Examples:
    import_keras(project.folder / LOG_NAME)
    manifest, spec = Manifest.load(project.folder), project.settings.convnet
    rows, names = manifest.splits["train"], manifest.class_names
    pixels = _pixels(project, rows, progress)
    load = image_loader(project)
    check_usable(
        SplitRows("train", rows.labels, pixels.usable),
        names,
        lambda row: f"{rows.ids[row]!r}, {rejection_reason(rows, row, load, spec.image_size)}",
    )
    labels = masked_labels(rows.labels, pixels.usable)
    heads = project.settings.heads
    folds = assign_folds(
        labels, rows.groups, heads.folds, class_names=names, digests=fold_digests(project, rows.digests)
    )
    data = TrainingData(pixels.images, labels, by_folds(folds, pixels.usable))
    fewest = min(int(data.parts.trained(fold).sum()) for fold in data.parts.numbers)
    device = device_of(project)
    precision = choose_precision(spec.precision, device.capability, known=TRAINING_PRECISIONS).name
    channels = pixels.images.shape[-1]
    counted = {"balanced": heads.balanced, "several": is_several(labels)}
    plan = resolve_convnet(spec, fewest, channels, len(names), precision, **counted)
    notices = [device.problem] * bool(device.problem) + fold_notices(folds, labels, names, heads.folds)
    return _Examples(rows, data, names, plan, device, notices)


def _partial_folder(project: Project, seed: int) -> PartialFolder:
    artifact = project.convnet(seed)
    return PartialFolder(artifact.path.parent, artifact.key or "")


def _train_member(project: Project, seed: int, examples: _Examples, progress: Progress) -> str:
    """Train and publish one member; return a line about it."""
    from featcache.training import load_network, predict_convnet

    begun, plan = time.perf_counter(), examples.plan
    artifact, partial = project.convnet(seed), _partial_folder(project, seed)
    data, rows, names, member = examples.data, examples.rows, examples.class_names, f"convnet/seed{seed}"
    table: npt.NDArray[np.float32] = allocate((1, len(rows), len(names)), np.float32, project.folder)
    table[:] = np.nan
    out_of_fold = Predictions(rows.ids, data.labels, (member,), table, names, data.parts.units, rows_key=rows.key)
    histories = {}
    progress.start(member, plan.epochs * len(data.parts.numbers), "epochs")
    try:
        for fold in data.parts.numbers:
            if partial.finished(fold) is None:
                _train_fold(examples, seed, fold, partial, progress)
            else:
                progress.advance(plan.epochs)
            histories[f"fold{fold}"] = partial.finished(fold)
            # from the stored file: the same whether it was trained now or before a kill
            network, held_out = load_network(model_path(partial.path, fold)), np.flatnonzero(data.parts.scored(fold))
            table[0, held_out] = predict_convnet([network], data.images, held_out)
    finally:
        progress.finish()
    seconds = round(time.perf_counter() - begun, 3)
    record = {"seconds": seconds, "plan": plan.settings(), "history": histories, "notices": examples.notices}
    record |= {"device": examples.device.name}
    partial.publish({**artifact.record_header(project.run), **record}, out_of_fold)
    score = next(judged_members(out_of_fold.scored())).scores()
    scores = f"out of fold: accuracy {score.accuracy:.4f}, log-loss {score.log_loss:.4f}"
    return f"{member}: {len(histories)} folds · {scores}"


def _train_fold(examples: _Examples, seed: int, fold: int, partial: PartialFolder, progress: Progress) -> None:
    from featcache.training import train_network

    checkpoint = partial.checkpoint(fold)
    partial.finish(fold, *train_network(examples.plan, examples.data, seed, fold, checkpoint, progress))


# ---- on workers

_kept_examples = lru_cache(maxsize=1)(_examples)
_SILENT = Silent()


def train_fold_on_worker(project: Project, seed: int, fold: int) -> None:
    """Train one fold's convnet on a worker, into the member's unfinished folder."""
    with ONE_AT_A_TIME:  # Keras has state of its own
        _train_fold(_kept_examples(project, _SILENT), seed, fold, _partial_folder(project, seed), _SILENT)


# ---- predictions


def predict_convnets(project: Project, members: Sequence[Artifact], rows: Rows) -> Iterator[RowParts]:
    """Yield each member's predictions of `rows`, the mean over its folds: (part, (1, r, C) float32); NaN for rejected rows.

    Raises:
        CacheFormatError: a member's convnets are damaged.
        SourceChangedError: an image changed since it was indexed.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache.training import load_networks

    pixels: Pixels | None = None
    for member in members:
        networks = load_networks(member.path.parent)
        pixels = pixels or _pixels(project, rows, Silent(), channels=networks[0].input_shape[-1])
        yield _row_parts(networks, pixels)


def _row_parts(networks: Sequence[Any], pixels: Pixels) -> RowParts:
    from featcache.training import predict_convnet

    for start in range(0, len(pixels.usable), _PREDICT_ROWS):
        part = np.arange(start, min(start + _PREDICT_ROWS, len(pixels.usable)))
        probabilities = predict_convnet(networks, pixels.images, part)
        probabilities[~pixels.usable[part]] = np.nan
        yield slice(start, start + len(part)), probabilities[None]


def _pixels(project: Project, rows: Rows, progress: Progress, channels: int | None = None) -> Pixels:
    load, size = image_loader(project), project.settings.convnet.image_size
    return load_pixels(rows, load, size, project.folder, progress, "decoding", channels)
