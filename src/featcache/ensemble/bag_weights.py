"""Weights of bags: the lowest out-of-fold log-loss of their weighted geometric mean, with a prior. NumPy and SciPy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.training import Float64s, RowNumbers

PRIOR = 5.0
"""How many rows mean(-log w) counts as, beside those rows' log-loss. On few rows free weights follow chance; this holds
them near equal until rows clearly say otherwise. No weight reaches 0."""
_STEPS = 200
_TOLERANCE = 1e-5  # of the gradient's largest entry; a tenth of it takes twice the steps and moves no weight by 0.002


def bags_of(members: Sequence[str]) -> RowNumbers:
    """Return (m,) the number of each member's bag. Members of one bag have one name up to the last slash.

    Example:
        >>> bags_of(["pooled/dense/seed0", "pooled/dense/seed1", "convnet/seed0"]).tolist()
        [1, 1, 0]
    """
    numbers: RowNumbers = np.unique([name.rpartition("/")[0] or name for name in members], return_inverse=True)[1]
    return numbers


def find_weights(logs: Float64s, labels: npt.NDArray[np.integer], known: int, prior: float = PRIOR) -> Float64s:
    """Return the (k,) weights of k bags that minimise log-loss + `prior` / `known` * mean(-log w); positive, sum 1.

    Args:
        logs: (k, n, C) logarithms of each bag's probabilities, up to a constant a row.
        labels: (n,) class indices.
        known: how many rows there are, of which these are all or some.
        prior: how many rows equal weights count as; above 0 there is one minimum.
    """
    from scipy.optimize import minimize

    margins = logs - logs[:, np.arange(len(labels)), labels, None]
    options = {"maxiter": _STEPS, "gtol": _TOLERANCE}
    found = minimize(objective, np.zeros(len(logs)), (margins, prior / known), "L-BFGS-B", jac=True, options=options)
    return _softmax(found.x)


def objective(logits: Float64s, margins: Float64s, prior: float) -> tuple[float, Float64s]:
    """Return what `find_weights` minimises and its gradient, by the weights' `logits`: w = softmax(logits).

    `margins` are the (k, n, C) logarithms less that of the label, so that log-loss is the mean of log sum exp.
    """
    weights, (bags, rows, _) = _softmax(logits), margins.shape
    mixed = np.tensordot(weights, margins, 1)
    highest = mixed.max(axis=1, keepdims=True)
    shares = np.exp(mixed - highest)
    totals = shares.sum(axis=1, keepdims=True)
    loss = float((np.log(totals) + highest).mean()) + prior * float(-np.log(weights).mean())
    slopes = margins.reshape(bags, -1) @ (shares / totals).ravel() / rows
    return loss, weights * (slopes - weights @ slopes) + prior * (weights - 1 / bags)


def _softmax(logits: Float64s) -> Float64s:
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum())
