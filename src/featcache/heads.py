"""Training a bag of heads in one pass, and taking its heads out as ordinary Keras models. [Keras]"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from featcache import disk
from featcache.bags import (
    BAG_FILE,
    EPSILON,
    OUT_OF_FOLD_FILE,
    RECORD_FILE,
    Bag,
    Floats,
    HeadId,
    History,
    Weights,
    forward,
    recompute_statistics,
    write_bag,
)
from featcache.batches import Batches, HeadStream, input_statistics, training_rows
from featcache.errors import TrainingError
from featcache.predictions import Predictions
from featcache.presets import HeadPlan
from featcache.progress import Progress
from featcache.records import write_json
from featcache.stacked import StackedHeads


def train_bag(
    copies: Sequence[npt.NDArray[Any]],
    labels: npt.NDArray[np.integer],
    usable: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.integer],
    plan: HeadPlan,
    seeds: Sequence[int],
    progress: Progress,
    name: str = "heads",
) -> Bag:
    """Train one head for each seed and fold, all of them in one pass over the features.

    Args:
        copies: features of the training rows, (n, h, w, c) or (n, c) each, copy 0 plain, then augmented ones.
            They are read row by row; memory-mapped arrays stay on the disk.
        labels: (n,) class indices.
        usable: (n,) bool, False where any copy has no features; such rows are left out.
        folds: (n,) from `featcache.folds.assign_folds`, -1 for rows to leave out. A head is trained on no copy of
            a row of its own fold.
        plan: from `featcache.presets.resolve`.
        seeds: one member each.
        progress: counts epochs.
        name: what `progress` calls it.

    Raises:
        TrainingError: shapes that don't fit, or a fold that leaves fewer than 2 rows to train on.
    """
    usable = np.asarray(usable, bool) & (folds >= 0)
    _check(copies, labels, usable, folds, plan)
    parts = np.unique(folds[usable])
    heads = tuple(HeadId(int(seed), int(fold)) for seed in seeds for fold in parts)
    own = training_rows(heads, folds, usable)
    streams = [HeadStream(head, np.arange(mine.sum() * len(copies))) for head, mine in zip(heads, own, strict=True)]
    weights = initial_weights(plan, streams)
    if plan.standardize:
        weights |= input_statistics(copies, folds, usable, heads)
    batches = Batches(copies, labels, own, streams, plan)
    stacked = StackedHeads(plan, weights, batches.size, copies[0].dtype)
    judge = _Judge(copies[0], labels, usable, folds, heads)
    epochs = []
    progress.start(name, plan.epochs, "epochs")
    try:
        for rate in plan.rates:
            stacked.set_rate(rate)
            steps = [stacked.train_step(inputs, classes) for inputs, classes in batches.epoch()]
            weights = stacked.get_weights()
            epochs.append(np.concatenate([np.mean(steps, axis=0), judge.scores(weights, len(plan.hidden))]))
            progress.advance(1, f"loss {epochs[-1][0].mean():.3f}, out of fold {epochs[-1][2].mean():.3f}")
    finally:
        progress.finish()
    if plan.recompute_statistics:
        recompute_statistics(weights, copies, own, len(plan.hidden))
    _check_finite(weights, plan)
    history = History(*np.stack(epochs, axis=1))
    out_of_fold = judge.out_of_fold(weights, len(plan.hidden), len(seeds), plan.classes)
    return Bag(plan, tuple(copies[0].shape[1:]), heads, weights, out_of_fold, history)


def _check(
    copies: Sequence[npt.NDArray[Any]],
    labels: npt.NDArray[np.integer],
    usable: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.integer],
    plan: HeadPlan,
) -> None:
    shapes = [tuple(copy.shape) for copy in copies]
    if len(set(shapes)) != 1 or shapes[0][0] != len(labels) or np.prod(shapes[0][1:]) != plan.features:
        expected = f"({len(labels)}, ...) with {plan.features} values a row"
        raise TrainingError(f"expected features of shape {expected} in every copy; got shapes={shapes}")
    known = labels[usable]
    if len(known) and not (known.min() >= 0 and known.max() < plan.classes):
        low, high = known.min(), known.max()
        raise TrainingError(f"expected labels in 0..{plan.classes - 1}; got labels from {low} to {high}")
    parts = np.unique(folds[usable])
    if len(parts) < 2 or min(np.sum(folds[usable] != fold) for fold in parts) < 2:
        raise TrainingError(
            f"expected at least 2 folds and 2 rows to train on beside each; got folds={len(parts)}, "
            f"usable rows={int(usable.sum())}: add images or lower [Heads] folds"
        )


def _check_finite(weights: Weights, plan: HeadPlan) -> None:
    if not all(np.isfinite(array).all() for array in weights.values()):
        rates = ", ".join(f"{rate:g}" for rate, _ in plan.schedule)
        raise TrainingError(
            f"the weights became NaN or infinite in training with rates {rates}: lower [Heads] schedule"
        )


def initial_weights(plan: HeadPlan, streams: Sequence[HeadStream]) -> Weights:
    """What Keras' Dense and BatchNormalization begin with, drawn from each head's own stream."""
    weights: Weights = {}
    widths = (plan.features, *plan.hidden, plan.classes)
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        weights[f"kernel_{layer}"] = np.stack([stream.kernel(inputs, outputs) for stream in streams])
        shape = (len(streams), outputs)
        fills = (
            {"bias": 0} if layer == len(plan.hidden) else {"bias": 0, "gamma": 1, "beta": 0, "mean": 0, "variance": 1}
        )
        weights |= {f"{name}_{layer}": np.full(shape, fill, np.float32) for name, fill in fills.items()}
    return weights


class _Judge:
    """Scores each head on the fold that it hasn't seen."""

    def __init__(
        self,
        features: npt.NDArray[Any],
        labels: npt.NDArray[np.integer],
        usable: npt.NDArray[np.bool_],
        folds: npt.NDArray[np.integer],
        heads: Sequence[HeadId],
    ) -> None:
        self._features, self._labels, self._heads = features, labels, heads
        self._rows = {fold: np.flatnonzero(usable & (folds == fold)) for fold in {head.fold for head in heads}}

    def _predictions(self, weights: Weights, layers: int) -> list[Floats]:
        """Per head, (rows of its fold, C)."""
        parts: dict[int, list[Floats]] = {number: [] for number in range(len(self._heads))}
        for fold, rows in self._rows.items():
            members = [number for number, head in enumerate(self._heads) if head.fold == fold]
            some = {name: array[members] for name, array in weights.items()}
            width = self._features[0].size + sum(len(members) * array.shape[-1] for array in some.values())
            step = max(1, 16_000_000 // width)
            for start in range(0, len(rows), step):
                block = np.asarray(self._features[rows[start : start + step]])
                said = forward(some, block.reshape(len(block), -1).astype(np.float32), layers)
                for number, probabilities in zip(members, said, strict=True):
                    parts[number].append(probabilities)
        return [np.concatenate(parts[number]) for number in range(len(self._heads))]

    def scores(self, weights: Weights, layers: int) -> Floats:
        """(2, H) float32: loss and accuracy on each head's own fold."""
        scores = np.empty((2, len(self._heads)), np.float32)
        for number, said in enumerate(self._predictions(weights, layers)):
            labels = self._labels[self._rows[self._heads[number].fold]]
            chosen = said[np.arange(len(said)), labels]
            scores[0, number] = -np.log(np.maximum(chosen, 1e-7)).mean()
            scores[1, number] = (said.argmax(axis=1) == labels).mean()
        return scores

    def out_of_fold(self, weights: Weights, layers: int, seeds: int, classes: int) -> Floats:
        """(seeds, n, C) float32, NaN for rows without a fold."""
        joined = np.full((seeds, len(self._labels), classes), np.nan, np.float32)
        order = list(dict.fromkeys(head.seed for head in self._heads))
        for head, said in zip(self._heads, self._predictions(weights, layers), strict=True):
            joined[order.index(head.seed), self._rows[head.fold]] = said
        return joined


def head_model(bag: Bag, number: int) -> keras.Model:
    """Take head `number` out of the bag as an ordinary Keras model, tap's shape in, (b, C) probabilities out."""
    plan, weights = bag.plan, {name: array[number] for name, array in bag.weights.items()}
    inputs = keras.Input(bag.tap_shape, name="features")
    layers: list[tuple[keras.layers.Layer, list[Floats]]] = []
    if plan.standardize:
        # a built-in layer that computes (x - mean) / sqrt(variance); Normalization would put both into its JSON
        standardize = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=0.0, trainable=False, name="standardize"
        )
        layers.append((standardize, [weights["input_mean"], weights["input_variance"]]))
    for layer, dropout in enumerate(plan.dropouts):
        last = layer == len(plan.hidden)
        layers.append((keras.layers.Dropout(dropout, seed=layer), []))
        width, activation = (plan.classes, "softmax") if last else (plan.hidden[layer], "relu")
        dense = keras.layers.Dense(width, activation=activation, name="probabilities" if last else f"dense_{layer}")
        layers.append((dense, [weights[f"kernel_{layer}"], weights[f"bias_{layer}"]]))
        if not last:
            normal = keras.layers.BatchNormalization(momentum=plan.momentum, epsilon=EPSILON, name=f"normal_{layer}")
            layers.append((normal, [weights[f"{name}_{layer}"] for name in ("gamma", "beta", "mean", "variance")]))
    active = keras.layers.Flatten(name="flatten")(inputs)
    for keras_layer, _ in layers:
        active = keras_layer(active)
    for keras_layer, values in layers:
        if values:
            keras_layer.set_weights(values)
    return keras.Model(inputs, active, name=str(bag.heads[number]).replace("-", "_"))


def save_bag(
    bag: Bag, folder: Path, record: Mapping[str, object] | None = None, out_of_fold: Predictions | None = None
) -> None:
    """Replace `folder` by the bag: ``bag.npz`` and one ``seed{s}-fold{k}.keras`` for each head.

    With `record`, what the stage says of it, its ``key`` above all, goes into ``bag.json``; with `out_of_fold`, the
    members' predictions by row id go into ``out_of_fold.hdf5``.

    All of it is written beside `folder` first. Who reads while it is replaced finds the old bag, the new one or, for
    a moment, none.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with disk.storage_errors(folder, "could not write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".tmp-{secrets.token_hex(4)}-{folder.name}")
        try:
            temporary.mkdir()
            for number, head in enumerate(bag.heads):
                head_model(bag, number).save(temporary / f"{head}.keras")
            write_bag(bag, temporary / BAG_FILE)
            if out_of_fold is not None:
                out_of_fold.save(temporary / OUT_OF_FOLD_FILE)
            files = {path.name: path.stat().st_size for path in temporary.iterdir() if path.suffix != ".keras"}
            write_json(temporary / RECORD_FILE, {**(record or {}), "files": files})
            disk.replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
