"""Small convolutional networks from the manifest alone, without features: `TrainConvNets`, and what they predict."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featcache.convnet_folder import History, PartialFolder, State, model_path
from featcache.convnet_plan import ConvNetPlan, resolve
from featcache.folds import assign_folds
from featcache.pixels import Pixels, load_pixels
from featcache.precision import choose_precision
from featcache.predictions import Predictions
from featcache.progress import Progress, Silent
from featcache.project import LOG_NAME, Artifact, Project
from featcache.resolved import gpu_capability_of
from featcache.rows import Rows
from featcache.scoring import scores
from featcache.sources import Manifest, open_source
from featcache.stages.heads import FOLD_SEED
from featcache.startup import import_keras

if TYPE_CHECKING:
    from featcache.convnet_training import Training

_CHECKPOINT_SECONDS = 20.0  # an epoch that took less is sooner trained again than it is written


def train_convnets(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Train every member's networks, one for each fold; what a killed run had finished is gone on with.

    Args:
        project: whose members.
        progress: counts images, then epochs.
        fresh: train those again that are complete, and everything from its beginning.

    Raises:
        SourceChangedError: an image changed since it was indexed.
        TrainingError: the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted; finished folds are kept.
    """
    import_keras(project.folder / LOG_NAME)
    manifest, spec = Manifest.load(project.folder), project.settings.convnet
    rows = manifest.splits["train"]
    pixels = _pixels(project, rows, progress)
    labels = np.where(pixels.usable, rows.labels, -1).astype(np.int32)
    folds = assign_folds(
        labels, rows.groups, project.settings.heads.folds, FOLD_SEED, manifest.class_names, rows.digests
    )
    largest = int(max(np.sum(folds == fold) for fold in np.unique(folds[folds >= 0])))
    precision = choose_precision(spec.precision, gpu_capability_of(project)).name
    usable, channels = int((folds >= 0).sum()), pixels.images.shape[-1]
    plan = resolve(spec, usable - largest, channels, len(manifest.class_names), precision)
    said = []
    for seed in range(spec.members):
        if fresh or not project.convnet(seed).is_complete():
            blank = _blank(rows, labels, folds, manifest.class_names, f"convnet/seed{seed}")
            said.append(_train_member(project, seed, plan, pixels, blank, progress, fresh=fresh))
    return " · ".join([f"{plan.epochs} epochs in {plan.precision}", *said])


def predict_convnets(project: Project, members: Sequence[Artifact], rows: Rows) -> npt.NDArray[np.float32]:
    """Return (m, n, C) float32: what each member says of `rows`, the mean over its folds; NaN for rows it can't decode.

    Raises:
        CacheFormatError: its networks are damaged.
        SourceChangedError: an image changed since it was indexed.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache.convnet import load_networks, predict

    networks = [load_networks(member.path.parent) for member in members]
    pixels = _pixels(project, rows, Silent(), channels=networks[0][0].input_shape[-1])
    said = np.stack([predict(models, pixels.images) for models in networks])
    said[:, ~pixels.usable] = np.nan
    return said


def _pixels(project: Project, rows: Rows, progress: Progress, channels: int | None = None) -> Pixels:
    load, size = open_source(project.settings.dataset).load, project.settings.convnet.image_size
    return load_pixels(rows, load, size, project.folder, progress, "decoding", channels)


def _blank(
    rows: Rows,
    labels: npt.NDArray[np.int32],
    folds: npt.NDArray[np.int32],
    class_names: tuple[str, ...],
    member: str,
) -> Predictions:
    """Predictions of one member that has said nothing yet."""
    nothing = np.full((1, len(rows), len(class_names)), np.nan, np.float32)
    return Predictions(rows.ids, labels, (member,), nothing, class_names, folds)


def _train_member(
    project: Project,
    seed: int,
    plan: ConvNetPlan,
    pixels: Pixels,
    blank: Predictions,
    progress: Progress,
    *,
    fresh: bool,
) -> str:
    from featcache.convnet import load_network, predict
    from featcache.convnet_training import Training

    begun, artifact = time.perf_counter(), project.convnet(seed)
    partial = PartialFolder(artifact.path.parent, artifact.key or "")
    partial.begin(fresh=fresh)
    folds = _folds_of(blank)
    histories: dict[str, History] = {}
    said = blank.probabilities
    progress.start(blank.members[0], plan.epochs * len(folds), "epochs")
    try:
        for fold, held_out in folds.items():
            history: History | None = partial.finished(fold)
            if history is None:
                own = np.concatenate([rows for other, rows in folds.items() if other != fold])
                training = Training(pixels.images, blank.labels, np.sort(own), held_out, seed, fold)
                history = _train_fold(plan, training, partial, progress)
            else:
                progress.advance(plan.epochs)
            histories[f"fold{fold}"] = history
            # by the network as it is stored: the same whether it was trained now or before a kill
            said[0, held_out] = predict([load_network(model_path(partial.path, fold))], pixels.images, held_out)
    finally:
        progress.finish()
    score = scores(blank.scored().probabilities[0], blank.scored().labels)
    record = {
        **artifact.stamp(project.run),
        "seconds": round(time.perf_counter() - begun, 3),
        "plan": plan.settings(),
        "history": histories,
    }
    partial.publish(record, blank)
    found = f"out of fold: accuracy {score.accuracy:.4f}, log-loss {score.log_loss:.4f}"
    return f"{blank.members[0]}: {len(folds)} folds · {found}"


def _folds_of(predictions: Predictions) -> dict[int, npt.NDArray[np.int64]]:
    """Fold -> its rows."""
    folds = predictions.folds if predictions.folds is not None else np.empty(0, np.int32)
    return {int(fold): np.flatnonzero(folds == fold) for fold in np.unique(folds[folds >= 0])}


def _train_fold(
    plan: ConvNetPlan, training: "Training", partial: PartialFolder, progress: Progress
) -> Mapping[str, Sequence[float]]:
    """Train one network and keep it, going on from a checkpoint where there is one; return its history."""
    from featcache.convnet_training import train_network

    begun = partial.kept(training.fold)
    if begun is not None:
        progress.advance(len(begun[1]["loss"]))
    written = time.perf_counter()

    def after_epoch(state: Callable[[], State], history: History) -> None:
        nonlocal written
        progress.advance(
            1, f"fold {training.fold}: loss {history['loss'][-1]:.3f}, out of fold {history['fold_loss'][-1]:.3f}"
        )
        if time.perf_counter() - written > _CHECKPOINT_SECONDS and len(history["loss"]) < plan.epochs:
            partial.keep(training.fold, state(), history)
            written = time.perf_counter()

    network = train_network(plan, training, begun, after_epoch)
    partial.finish(training.fold, network.model, network.history)
    return network.history
