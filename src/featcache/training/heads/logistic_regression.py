"""A standardised logistic regression as a member: what a user would try first, on the folds of the heads.

Its heads have no hidden layer, one a fold; each fold's L2 strength is the one with the lowest loss on the other folds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.progress import Progress
from featcache.core.scratch_arrays import allocate
from featcache.training.heads.bag import HeadId, History, TrainedBag
from featcache.training.heads.examples import Examples, input_statistics
from featcache.training.heads.forward import Float32s, Weights, blocks, forward
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.partition import Partition
from featcache.training.heads.presets import HeadPlan

# A logit's variance if every feature were independent and its weight as large as the penalty expects: scikit-learn's
# C times the features. In these units one path serves 245 rows x 25,088 features as well as 60,000 x 512.
VARIANCES = tuple(float(value) for value in 10 ** np.arange(-0.5, 4.1, 0.5))
# ten times finer takes a quarter more passes and moves no out-of-fold loss by more than 2e-4 near its lowest
_TOLERANCE = 1e-3
_WORSE = 1.05  # the path ends where out-of-fold loss is so much above its lowest


def train_linear(
    examples: Examples, plan: HeadPlan, progress: Progress, name: str = "linear", scratch: Path | None = None
) -> TrainedBag:
    """Fit one regression a fold for each strength of a path, warm-started, and keep each fold's best by the others.

    Args:
        examples: the training rows, by folds; their features are read block by block.
        plan: of type ``linear``, from `featcache.training.heads.presets.resolve_heads`.
        progress: counts strengths, under `name`.
        name: what `progress` calls it.
        scratch: the folder for a file without a name that holds large out-of-fold probabilities; None: memory.

    Returns:
        A bag of one seed whose history has a row for each strength that was tried.
    """
    copies, parts = examples.copies, examples.parts
    own = np.stack([parts.trained(fold) for fold in parts.numbers])
    by_fold = input_statistics(copies, parts)
    statistics = {key: np.stack([by_fold[fold][key] for fold in parts.numbers]) for key in by_fold[parts.numbers[0]]}
    counted = examples.row_weights(plan.classes) if plan.balanced else own
    regressions = Regressions(copies, examples.labels, counted, statistics, plan.classes)
    counts = [int(parts.scored(fold).sum()) for fold in parts.numbers]
    path: list[Weights] = []
    steps: list[_StepScores] = []
    losses: list[float] = []
    progress.start(name, len(VARIANCES), "strengths")
    try:
        for variance in VARIANCES:
            fitted = regressions.fit(variance / plan.features, path[-1] if path else None, _TOLERANCE)
            path.append(fitted | statistics)
            steps.append(_StepScores(path[-1], examples, own))
            losses.append(float(np.average(steps[-1].fold_loss, weights=counts)))
            progress.advance(1, f"C {variance / plan.features:.2g}, out of fold {losses[-1]:.3f}")
            if losses[-1] > _WORSE * min(losses):
                break
    finally:
        progress.finish()
    chosen = chosen_steps(np.array([step.fold_loss for step in steps]), counts)
    weights = {key: np.stack([path[step][key][head] for head, step in enumerate(chosen)]) for key in path[0]}
    out_of_fold = _out_of_fold(weights, copies[0], parts, plan.classes, scratch)
    heads = tuple(HeadId(0, fold) for fold in parts.numbers)
    curves = {key: np.array([vars(step)[key] for step in steps], np.float32) for key in vars(steps[0])}
    # nothing is dropped in training, so scores in it and after it are the same
    seen = {"seen_loss": curves["loss"], "seen_accuracy": curves["accuracy"]}
    history = History(**curves, **seen, best_epoch=np.array(chosen, np.int32))
    seen_classes = examples.seen_classes(plan.classes)
    return TrainedBag(plan, tuple(copies[0].shape[1:]), heads, weights, seen_classes, history, out_of_fold)


def chosen_steps(fold_loss: npt.NDArray[np.floating], counts: Sequence[int]) -> list[int]:
    """Return for each of H folds the step of the lowest loss over all *other* folds' rows.

    `fold_loss` are the (steps, H) mean losses of each fold's rows, out of fold; there are `counts` of them.
    """
    sums = fold_loss * np.asarray(counts)
    return [int(np.argmin(sums.sum(axis=1) - sums[:, fold])) for fold in range(len(counts))]


class _StepScores:
    """Loss and accuracy of one strength's regressions: on their fold, and on the rows they were fitted to; (H,) each."""

    def __init__(self, weights: Weights, examples: Examples, own: npt.NDArray[np.bool_]) -> None:
        features, labels, parts = examples.copies[0], examples.labels, examples.parts
        heads, classes = weights["bias_0"].shape
        apart = np.stack([parts.scored(fold) for fold in parts.numbers])
        loss, right = np.zeros((2, heads)), np.zeros((2, heads))  # of own rows, of the fold's
        for start, block in blocks(features, features[0].size + 3 * heads * classes):
            rows = slice(start, start + len(block))
            probabilities = forward(weights, block, 0)
            chosen = probabilities[:, np.arange(len(block)), np.maximum(labels[rows], 0)]
            losses, rights = -np.log(np.maximum(chosen, 1e-7)), probabilities.argmax(axis=2) == labels[rows]
            mine = np.stack([own[:, rows], apart[:, rows]])
            loss += np.where(mine, losses, 0).sum(axis=2, dtype=np.float64)
            right += (mine & rights).sum(axis=2)
        counts = np.stack([own.sum(axis=1), apart.sum(axis=1)])
        (self.loss, self.fold_loss), (self.accuracy, self.fold_accuracy) = loss / counts, right / counts


def _out_of_fold(
    weights: Weights, features: npt.NDArray[Any], parts: Partition, classes: int, scratch: Path | None
) -> Float32s:
    """(1, n, C): each row by the regression of its fold; NaN where there is none. Of every strength it would be ten times this."""
    table: Float32s = allocate((1, len(features), classes), np.float32, scratch)
    table[:, parts.units < 0] = np.nan
    scored = [parts.scored(fold) for fold in parts.numbers]
    for start, block in blocks(features, features[0].size + 3 * len(scored) * classes):
        probabilities = forward(weights, block, 0)
        for head, apart in enumerate(scored):
            mine = np.flatnonzero(apart[start : start + len(block)])
            table[0, start + mine] = probabilities[head, mine]
    return table
