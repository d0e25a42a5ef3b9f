"""From features to probabilities: `TrainHeads` and `PredictRows`."""

import time

import numpy as np
import numpy.typing as npt

from featcache.bags import load_bag
from featcache.cache.layout import Status
from featcache.cache.reader import Reader, open_cache
from featcache.errors import SubmissionError
from featcache.folds import assign_folds
from featcache.predictions import Predictions
from featcache.presets import resolve
from featcache.progress import Progress
from featcache.project import LOG_NAME, Project
from featcache.scoring import scores
from featcache.startup import import_keras

FOLD_SEED = 0


def train_bag(project: Project, tap: str, progress: Progress) -> str:
    """Train the heads of one tap, folds x seeds, and keep them with their out-of-fold predictions.

    Raises:
        TrainingError: the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache import heads

    begun, spec = time.perf_counter(), project.settings.heads
    readers = [open_cache(project.features("train", copy).path) for copy in range(project.settings.features.copies + 1)]
    plain = readers[0]
    usable = np.logical_and.reduce([reader.status == Status.OK for reader in readers])
    labels, names = np.where(usable, plain.labels, -1), plain.class_names
    folds = assign_folds(labels, plain.groups, spec.folds, FOLD_SEED, names)
    plan = resolve(spec, int(np.prod(plain.taps[tap].shape)), int(usable.sum()), len(names))
    copies = [reader[tap] for reader in readers]
    bag = heads.train_bag(
        copies, plain.labels, usable, folds, plan, range(spec.seeds), progress, f"{tap}: {spec.preset}"
    )
    artifact = project.bag(tap)
    out_of_fold = Predictions(plain.ids, labels, _members(tap, bag.seeds), bag.out_of_fold, names)
    record = {**artifact.stamp(project.run), "seconds": round(time.perf_counter() - begun, 3), "tap": tap}
    heads.save_bag(bag, artifact.path.parent, record, out_of_fold)
    known = out_of_fold.scored()
    score = scores(known.probabilities.mean(axis=0), known.labels)
    shape = f"{tap}: {spec.seeds} seeds x {spec.folds} folds, {plan.epochs} epochs"
    return f"{shape} · out of fold: accuracy {score.accuracy:.4f}, log-loss {score.log_loss:.4f}"


def predict_rows(project: Project, progress: Progress) -> str:
    """Let every head predict the rows of `valid` and `test`, and keep the members' probabilities.

    Rows without features get the classes' shares among the training rows.

    Raises:
        SubmissionError: there are no rows to predict.
        TrainingError: the heads were trained on features of another shape.
        StorageError: the disk is full, read-only or not permitted.
    """
    splits = project.scored_splits()
    if not splits:
        advice = "put images into PATH/test, or stop at BuildEnsemble (luigi --module pipeline BuildEnsemble)"
        raise SubmissionError(
            f"expected test images to predict; got none in source={project.settings.dataset.source!r}: {advice}"
        )
    taps = [tap.name for tap in project.settings.features.taps]
    prior = class_prior(open_cache(project.features("train", 0).path))
    progress.start("predicting", len(splits) * len(taps), "bags")
    try:
        for split in splits:
            _predict_split(project, split, taps, prior, progress)
    finally:
        progress.finish()
    rows = " · ".join(f"{split} {project.splits()[split]['rows']:,}" for split in splits)
    return f"{rows} rows by {len(taps) * project.settings.heads.seeds} members"


def class_prior(train: Reader) -> npt.NDArray[np.float64]:
    """Return (C,) the classes' shares among the usable training rows."""
    counts = np.bincount(train.labels[train.status == Status.OK], minlength=len(train.class_names))
    return np.asarray(counts / counts.sum(), np.float64)


def _predict_split(
    project: Project, split: str, taps: list[str], prior: npt.NDArray[np.float64], progress: Progress
) -> None:
    begun, reader = time.perf_counter(), open_cache(project.features(split, 0).path)
    seeds, classes = project.settings.heads.seeds, len(reader.class_names)
    joined = np.empty((len(taps) * seeds, len(reader), classes), np.float32)
    members: list[str] = []
    for at, tap in enumerate(taps):
        bag = load_bag(project.bag(tap).path.parent)
        members += _members(tap, bag.seeds)
        joined[at * seeds : (at + 1) * seeds] = bag.member_predictions(reader[tap])
        progress.advance(1)
    joined[:, reader.status != Status.OK] = prior
    artifact = project.predictions(split)
    record = {**artifact.stamp(project.run), "seconds": round(time.perf_counter() - begun, 3)}
    labels = np.array(reader.labels)
    Predictions(reader.ids, labels, tuple(members), joined, reader.class_names).save(artifact.path, record)


def _members(tap: str, seeds: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{tap}/seed{seed}" for seed in seeds)
