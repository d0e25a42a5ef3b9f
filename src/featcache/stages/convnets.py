"""Small convolutional networks from the manifest alone, without features: `TrainConvNets`, and what they predict."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import pluralize
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress, Silent
from featcache.core.rows import Rows
from featcache.core.scratch_arrays import allocate
from featcache.dataset import Manifest, Pixels, load_pixels, open_source
from featcache.ensemble import judged_members
from featcache.errors import CacheMismatchError
from featcache.features import choose_precision
from featcache.project import LOG_NAME, Artifact, Project, SplitRows, check_usable, gpu_capability_of, rejection_reason
from featcache.stages.workers.client import Cluster, connect, verified_workers
from featcache.stages.workers.job_queue import Job
from featcache.stages.workers.worker import ONE_AT_A_TIME
from featcache.training import (
    FOLD_SEED,
    ConvNetPlan,
    EpochRecord,
    PartialFolder,
    Predictions,
    State,
    assign_folds,
    model_path,
    resolve_convnet,
)

if TYPE_CHECKING:
    from featcache.training import Training

RowParts = Iterator[tuple[slice, npt.NDArray[np.float32]]]

_PREDICT_ROWS = 1 << 14  # a multiple of the networks' batch
_CHECKPOINT_SECONDS = 20.0  # an epoch that took less is sooner trained again than it is written


def train_convnets(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Train every member's networks, one for each fold; what a killed run had finished is gone on with.

    Args:
        project: whose members.
        progress: counts images, then epochs.
        fresh: train those again that are complete, and everything from its beginning.

    Raises:
        SourceChangedError: an image changed since it was indexed.
        TrainingError: a class has too few usable images, the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted; finished folds are kept.
    """
    material = _material(project, progress)
    seeds = [
        seed for seed in range(project.settings.convnet.members) if fresh or not project.convnet(seed).is_complete()
    ]
    for seed in seeds:
        _partial(project, seed).begin(fresh=fresh)
    cluster = connect(project)
    if cluster is not None:
        _train_folds_there(cluster, project, seeds, material, progress)
    said = [_train_member(project, seed, material, progress) for seed in seeds]
    there = [cluster.summary()] if cluster is not None else []
    return " · ".join([f"{pluralize(material.plan.epochs, 'epoch')} in {material.plan.precision}", *said, *there])


@dataclass(frozen=True, eq=False)
class _TrainingData:
    """What networks are trained on: images, labels (-1 where an image can't be used), folds, and how."""

    rows: Rows
    pixels: Pixels
    labels: npt.NDArray[np.int32]
    folds: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    plan: ConvNetPlan

    def fold_rows(self) -> dict[int, npt.NDArray[np.int64]]:
        """Fold -> its rows."""
        return {int(fold): np.flatnonzero(self.folds == fold) for fold in np.unique(self.folds[self.folds >= 0])}

    def training(self, seed: int, fold: int) -> "Training":
        """What one fold's network is trained on."""
        from featcache.training import Training

        folds = self.fold_rows()
        own = np.concatenate([rows for other, rows in folds.items() if other != fold])
        return Training(self.pixels.images, self.labels, np.sort(own), folds[fold], seed, fold)


def _material(project: Project, progress: Progress) -> _TrainingData:
    import_keras(project.folder / LOG_NAME)
    manifest, spec = Manifest.load(project.folder), project.settings.convnet
    rows = manifest.splits["train"]
    pixels = _pixels(project, rows, progress)
    check_usable(
        SplitRows("train", rows.labels, pixels.usable),
        manifest.class_names,
        lambda row: (
            f"{rows.ids[row]!r}, {rejection_reason(rows, row, open_source(project.settings.dataset).load, spec.image_size)}"
        ),
    )
    labels = np.where(pixels.usable, rows.labels, -1).astype(np.int32)
    folds = assign_folds(
        labels, rows.groups, project.settings.heads.folds, FOLD_SEED, manifest.class_names, rows.digests
    )
    largest = int(max(np.sum(folds == fold) for fold in np.unique(folds[folds >= 0])))
    precision = choose_precision(spec.precision, gpu_capability_of(project)).name
    usable, channels = int((folds >= 0).sum()), pixels.images.shape[-1]
    plan = resolve_convnet(spec, usable - largest, channels, len(manifest.class_names), precision)
    return _TrainingData(rows, pixels, labels, folds, manifest.class_names, plan)


def _partial(project: Project, seed: int) -> PartialFolder:
    artifact = project.convnet(seed)
    return PartialFolder(artifact.path.parent, artifact.key or "")


# ---- on workers

_KEPT: dict[str, _TrainingData] = {}


def train_fold_there(project: Project, seed: int, fold: int) -> None:
    """Train one fold's network on a worker, into the member's unfinished folder."""
    key = f"{project.folder} {project.convnet(seed).inputs['upstream']}"
    with ONE_AT_A_TIME:  # Keras has state of its own
        if key not in _KEPT:
            _KEPT.clear()
            _KEPT[key] = _material(project, Silent())
        material = _KEPT[key]
        _train_fold(material.plan, material.training(seed, fold), _partial(project, seed), Silent())


def _train_folds_there(
    cluster: Cluster, project: Project, seeds: Sequence[int], material: _TrainingData, progress: Progress
) -> None:
    """Have workers train every fold that isn't finished, a job each."""
    folds = material.fold_rows()
    todo = [(seed, fold) for seed in seeds for fold in folds if _partial(project, seed).finished(fold) is None]
    jobs = [Job(f"fold {fold} of convnet/seed{seed}", train_fold_there, (seed, fold)) for seed, fold in todo]
    progress.start("small networks", len(jobs), "folds")
    try:
        with verified_workers(cluster, project, weights=False) as terms:
            for job, _ in cluster.run(terms, jobs, progress, one_each=True):
                progress.advance(1, job.name)
    finally:
        progress.finish()


# ---- in any process


def predict_convnets(project: Project, members: Sequence[Artifact], rows: Rows) -> Iterator[RowParts]:
    """Yield for each member what it says of `rows`, the mean over its folds: (part, (1, r, C) float32); NaN for those it
    can't decode.

    Raises:
        CacheFormatError: its networks are damaged.
        SourceChangedError: an image changed since it was indexed.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache.training import load_networks, predict_convnet

    pixels: Pixels | None = None
    for member in members:
        networks = load_networks(member.path.parent)
        if pixels is None:
            pixels = _pixels(project, rows, Silent(), channels=networks[0].input_shape[-1])
        yield _row_parts(functools.partial(predict_convnet, networks, pixels.images), pixels.usable)


def _row_parts(
    said_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]], usable: npt.NDArray[np.bool_]
) -> RowParts:
    for start in range(0, len(usable), _PREDICT_ROWS):
        part = np.arange(start, min(start + _PREDICT_ROWS, len(usable)))
        said = said_of(part)
        said[~usable[part]] = np.nan
        yield slice(start, start + len(part)), said[None]


def _pixels(project: Project, rows: Rows, progress: Progress, channels: int | None = None) -> Pixels:
    load, size = open_source(project.settings.dataset).load, project.settings.convnet.image_size
    return load_pixels(rows, load, size, project.folder, progress, "decoding", channels)


def _train_member(project: Project, seed: int, material: _TrainingData, progress: Progress) -> str:
    from featcache.training import load_network, predict_convnet

    begun, artifact, partial, plan = time.perf_counter(), project.convnet(seed), _partial(project, seed), material.plan
    rows, labels, name = material.rows, material.labels, f"convnet/seed{seed}"
    said: npt.NDArray[np.float32] = allocate((1, len(rows), len(material.class_names)), np.float32, project.folder)
    said[:] = np.nan
    out_of_fold = Predictions(rows.ids, labels, (name,), said, material.class_names, material.folds, rows_key=rows.key)
    folds = material.fold_rows()
    histories: dict[str, EpochRecord] = {}
    progress.start(name, plan.epochs * len(folds), "epochs")
    try:
        for fold, held_out in folds.items():
            history: EpochRecord | None = partial.finished(fold)
            if history is None:
                history = _train_fold(plan, material.training(seed, fold), partial, progress)
            else:
                progress.advance(plan.epochs)
            histories[f"fold{fold}"] = history
            # by the network as it is stored: the same whether it was trained now or before a kill
            network = load_network(model_path(partial.path, fold))
            said[0, held_out] = predict_convnet([network], material.pixels.images, held_out)
    finally:
        progress.finish()
    score = next(judged_members(out_of_fold.scored())).scores()
    record = {
        **artifact.record_header(project.run),
        "seconds": round(time.perf_counter() - begun, 3),
        "plan": plan.settings(),
        "history": histories,
    }
    partial.publish(record, out_of_fold)
    found = f"out of fold: accuracy {score.accuracy:.4f}, log-loss {score.log_loss:.4f}"
    return f"{name}: {len(folds)} folds · {found}"


def _train_fold(
    plan: ConvNetPlan, training: "Training", partial: PartialFolder, progress: Progress
) -> Mapping[str, Sequence[float]]:
    """Train one network and keep it, going on from a checkpoint where there is one; return its history."""
    from featcache.training import train_network

    begun = partial.kept(training.fold)
    if begun is not None:
        progress.advance(len(begun[1].get("loss", ())))
    written = time.perf_counter()

    def after_epoch(state: Callable[[], State], history: EpochRecord) -> None:
        nonlocal written
        progress.advance(
            1, f"fold {training.fold}: loss {history['loss'][-1]:.3f}, out of fold {history['fold_loss'][-1]:.3f}"
        )
        if time.perf_counter() - written > _CHECKPOINT_SECONDS and len(history["loss"]) < plan.epochs:
            partial.keep(training.fold, state(), history)
            written = time.perf_counter()

    try:
        network = train_network(plan, training, begun, after_epoch)
    except CacheMismatchError as error:
        if begun is None:
            raise
        progress.notice(
            f"fold {training.fold} of convnet/seed{training.seed} begins again: {error} (Keras was changed?)"
        )
        progress.advance(-len(begun[1].get("loss", ())))
        network = train_network(plan, training, None, after_epoch)
    partial.finish(training.fold, network.model, network.history)
    return network.history
