"""Weights of bags: the lowest out-of-fold log-loss of their weighted geometric mean, with a prior. NumPy and SciPy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from featcache.training import Float64s, RowNumbers

PRIOR = 5.0
"""How many rows mean(-log w) counts as, beside those rows' log-loss. On few rows free weights follow chance; this holds
them near equal until rows clearly say otherwise. No weight reaches 0."""
_LEFT_OUT = 1e-3  # the share below which a group is left out, so that a backbone may not be needed any more
_STEPS = 200
_TOLERANCE = 1e-5  # of the gradient's largest entry; a tenth of it takes twice the steps and moves no weight by 0.002


def bags_of(members: Sequence[str]) -> RowNumbers:
    """Return (m,) the number of each member's bag. Members of one bag have one name up to the last slash.

    Example:
        >>> bags_of(["pooled/dense/seed0", "pooled/dense/seed1", "convnet/seed0"]).tolist()
        [1, 1, 0]
    """
    numbers: RowNumbers = np.unique(list(map(_bag, members)), return_inverse=True)[1]
    return numbers


def _bag(member: str) -> str:
    return member.rpartition("/")[0] or member


def groups_of(members: Sequence[str]) -> RowNumbers:
    """Return (k,) the group of each bag, as `bags_of` numbers them: of those on one of several backbones alone that one's, else 0.

    Example:
        >>> groups_of(["a@48+b@48/dense/seed0", "a@48/lda/seed0", "a@48/linear/seed0", "b@48/lda/seed0"]).tolist()
        [0, 1, 1, 2]
    """
    inputs = [bag.partition("/")[0] for bag in np.unique(list(map(_bag, members))).tolist()]
    alone = sorted({part for name in inputs if "+" in name for part in name.split("+")}.intersection(inputs))
    return np.array([1 + alone.index(name) if name in alone else 0 for name in inputs])


def find_grouped_weights(logs: Float64s, labels: npt.NDArray[np.integer], known: int, groups: RowNumbers) -> Float64s:
    """Return the (k,) weights of k bags: within each of the `groups` by `find_weights`, of one group to another by log-loss.

    The groups' shares minimise their mean log-loss, less the shares' entropy times `PRIOR` / `known`. So a
    backbone that is far behind costs little, and where all are near each other, or rows are few, all count.
    """
    if not groups.any():
        return find_weights(logs, labels, known)
    weights, numbers = np.zeros(len(logs)), np.unique(groups)
    losses = np.empty(len(numbers))
    for place, number in enumerate(numbers):
        own = groups == number
        weights[own] = find_weights(logs[own], labels, known)
        mixed = np.tensordot(weights[own], logs[own], 1)
        margins = mixed - mixed[np.arange(len(labels)), labels, None]
        losses[place] = objective(np.zeros(1), margins[None], 0.0)[0]
    shares = _softmax(-losses * known / PRIOR)
    shares[shares < _LEFT_OUT] = 0
    return np.asarray(weights * (shares / shares.sum())[np.searchsorted(numbers, groups)])


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
