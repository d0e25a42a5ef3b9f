"""The metrics of rows with several labels, as scikit-learn defines them for indicator matrices. NumPy only."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featcache.errors import SettingsError
from featcache.training.metrics import Float64s

Cells = npt.NDArray[np.integer]
ByWeights = Callable[[Float64s], float]

ONE_LABEL = ("balanced_accuracy", "qwk")
SEVERAL_LABELS = ("f1_samples",)


def check_metric(metric: str, *, several: bool) -> None:
    """Raise a `SettingsError` for a metric that rows of one label, or of `several`, can't be scored by."""
    if metric in (ONE_LABEL if several else SEVERAL_LABELS):
        rows, others = ("several labels", "f1_macro") if several else ("one label", "accuracy or f1_macro")
        raise SettingsError(f"[Ensemble] metric={metric} can't score rows of {rows}: set {others}, for example")


def accuracy_of_sets(labels: Cells, predicted: Cells) -> ByWeights:
    """Subset accuracy: the share of rows whose labels are all right."""
    return _mean((labels == predicted).all(axis=1))


def f1_samples(labels: Cells, predicted: Cells) -> ByWeights:
    """The mean over rows of F1 of the row's labels; 0 where a row neither has any nor is given one."""
    return _mean(_f1((labels & predicted).sum(axis=1), labels.sum(axis=1) + predicted.sum(axis=1)))


def f1_micro(labels: Cells, predicted: Cells) -> ByWeights:
    """F1 of all cells together."""
    hits, counts = (labels & predicted).sum(axis=1), labels.sum(axis=1) + predicted.sum(axis=1)
    return lambda weights: float(_f1(np.asarray(weights @ hits), np.asarray(weights @ counts)))


def f1_macro(labels: Cells, predicted: Cells) -> ByWeights:
    """The mean over labels of each one's F1; 0 for one that no row has or is given."""
    hits, counts = (labels & predicted).astype(np.float64), (labels + predicted).astype(np.float64)
    return lambda weights: float(_f1(weights @ hits, weights @ counts).mean())


def mean_precision(labels: Cells, probabilities: Float64s, most: int) -> ByWeights:
    """The mean over rows of the mean precision at the rank of each of its labels among the `most` most probable.

    As competitions have it, the mean is over as many labels as could be among these: a row of two labels that are first and
    second has 1. A row without labels has 0.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    hits = np.take_along_axis(labels, order, axis=1).astype(np.float64)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    possible = np.minimum(labels.sum(axis=1), most)
    return _mean((precisions * hits).sum(axis=1) / np.maximum(possible, 1))


def _f1(hits: npt.NDArray[np.generic], counts: npt.NDArray[np.generic]) -> Float64s:
    """2 hits / counts, of labels that there are and of given ones together; 0 for none."""
    return np.asarray(2 * np.asarray(hits, np.float64) / np.maximum(np.asarray(counts, np.float64), 1e-12))


def _mean(gains: npt.NDArray[np.generic]) -> ByWeights:
    values = np.asarray(gains, np.float64)
    return lambda weights: float(weights @ values / weights.sum())


BY_DECISION: dict[str, Callable[[Cells, Cells], ByWeights]] = {
    "accuracy": accuracy_of_sets,
    "f1_samples": f1_samples,
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
}
