"""Ways to make one prediction of many: means, geometric means, greedy selection; temperature and clip. No Keras."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several
from featcache.ensemble.bag_weights import bags_of, find_grouped_weights, groups_of
from featcache.settings import AUTO, METHODS
from featcache.training import (
    Float32s,
    Float64s,
    RowNumbers,
    Tables,
    cells,
    label_probabilities,
    log_loss,
    row_losses,
    table_parts,
)

Clip = float | tuple[float, ...]
"""The upper bound of a probability, or one for each of several labels."""
COMBINATIONS = tuple(name for name in METHODS if name != AUTO)
WEIGHTED = "weighted"
GEOMETRIC = (WEIGHTED, "geometric")
ONE_MORE = 1.0
"""Of n rows, so many are taken to be wrong that a member was sure of: its probabilities count as at least 1/n divided by
the classes. Without a floor, a member that gives a class nothing rules it out for all of them."""
ROUNDS = 25
BAGS = 20
_PATIENCE = 5  # rounds without a lower loss, after which a selection ends
_PLACES = 6  # scores closer than this are a tie
_ROWS = 20_000  # more of them say nothing new about a handful of numbers
_VALUES, _LEAST_ROWS = 8_000_000, 2_000  # of (rows, classes): some copies of them are in memory at once
_TEMPERATURES = np.geomspace(0.25, 4.0, 161)


@dataclass(frozen=True)
class Combination:
    """How m members become one.

    Attributes:
        method: one of `COMBINATIONS`.
        weights: m, 0 for members that were not chosen; sum 1.
        temperature: the mixed probabilities' logarithm is divided by it; above 1 makes them less sure.
        clip: upper bound mx of a probability (R5), 1 for none.
        clips: of several labels a row one bound each, and 1 less it below; empty of one label.
        floor: of members' probabilities, whose logarithms are averaged; 0 where they are averaged themselves.
    """

    method: str
    weights: tuple[float, ...]
    temperature: float
    clip: float
    floor: float = 0.0
    clips: tuple[float, ...] = ()

    def apply(self, probabilities: Float32s, clip: Clip | None = None) -> Float64s:
        """Return (n, C) of (m, n, C): rows sum to 1, unless clipped; `clip` replaces the bound that was found.

        Of several labels a row each cell is a question of two classes, and rows have no sum.

        Example:
            >>> members = np.array([[[0.8, 0.2]], [[0.4, 0.6]]], np.float32)
            >>> mean = Combination("mean", (0.5, 0.5), temperature=1.0, clip=1.0)
            >>> mean.apply(members).round(3).tolist()
            [[0.6, 0.4]]
        """
        given = cells(probabilities) if self.clips else probabilities
        mixed = apply_temperature(mix(given, self.weights, self.floor), self.temperature)
        if self.clips:
            highest = np.asarray(self.clips if clip is None else clip)
            return np.clip(mixed[:, 1].reshape(-1, len(self.clips)), 1 - highest, highest)
        return clipped(mixed, self.clip if clip is None else float(np.max(clip)))

    def shares(self, probabilities: Float32s, clip: Clip | None = None) -> Float64s:
        """Return what `apply` does, with rows brought to sum 1, as who scores log-loss does, but of several labels."""
        applied = self.apply(probabilities, clip)
        return applied if self.clips else normalised(applied)


def combine(
    probabilities: Tables,
    labels: npt.NDArray[np.integer],
    method: str,
    rows: npt.NDArray[np.integer],
    members: Sequence[str] = (),
) -> Combination:
    """Find weights, temperature and clip by the log-loss of some rows.

    Args:
        probabilities: (m, n, C) out of fold.
        labels: (n,) class indices, or (n, C) of 0 and 1.
        method: one of `COMBINATIONS`.
        rows: those to look at, one at least, and none with NaN; of more than 20,000, or where there are many classes
            than eight million values, evenly spaced ones are used.
        members: m names; ``weighted`` gives the members of one bag one weight. Empty: each is a bag.
    """
    if is_several(labels):
        return _combine_labels(probabilities, labels, method, rows, members)
    known, classes = len(rows), probabilities.shape[2]
    members = members or list(map(str, range(len(probabilities))))
    bags = bags_of(members)
    tables = len(np.unique(bags)) if method == WEIGHTED else 1
    most = min(_ROWS, max(_LEAST_ROWS, _VALUES // (classes * tables)))
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]
    labels = labels[rows]
    floor = ONE_MORE / (known * classes) if method in GEOMETRIC else 0.0
    if method == WEIGHTED:
        weights = _by_bag(probabilities, labels, rows, members, floor, known)
        return Combination(method, tuple(weights.tolist()), 1.0, 1.0, floor)
    weights = np.full(len(bags), 1 / len(bags))
    if method == "greedy":
        weights = bagged_weights(label_probabilities(probabilities, rows, labels))
    chosen = tuple(weights.tolist())
    mixed = np.empty((len(rows), classes))
    for place, table in table_parts(probabilities, rows):
        mixed[place] = mix(table, chosen, floor)
    temperature = find_temperature(mixed, labels)
    return Combination(method, chosen, temperature, find_clip(apply_temperature(mixed, temperature), labels), floor)


def _combine_labels(
    probabilities: Tables,
    labels: npt.NDArray[np.integer],
    method: str,
    rows: npt.NDArray[np.integer],
    members: Sequence[str],
) -> Combination:
    """`combine` for several labels a row: of the cells, each a question of two classes; a clip for each label."""
    known, count = len(rows), probabilities.shape[2]
    most = max(_LEAST_ROWS, _VALUES // (2 * count * len(probabilities)))
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]
    own = labels[rows].astype(np.intp)
    table, flat = cells(probabilities[:, rows]).astype(np.float32), own.ravel()
    members = members or list(map(str, range(len(table))))
    bags = bags_of(members)
    floor = ONE_MORE / (2 * known) if method in GEOMETRIC else 0.0
    every = np.arange(len(flat))
    if method == WEIGHTED:  # rows, not cells, are what is independent of each other
        weights = _by_bag(table, flat, every, members, floor, known)
        return Combination(method, tuple(weights.tolist()), 1.0, 1.0, floor, (1.0,) * count)
    weights = np.full(len(bags), 1 / len(bags))
    if method == "greedy":
        weights = bagged_weights(table[:, every, flat].astype(np.float64))
    mixed = mix(table, weights.tolist(), floor)
    temperature = find_temperature(mixed, flat)
    tempered = apply_temperature(mixed, temperature).reshape(len(rows), count, 2)
    clips = tuple(find_clip(tempered[:, label], own[:, label]) for label in range(count))
    return Combination(method, tuple(weights.tolist()), temperature, 1.0, floor, clips)


def _by_bag(
    probabilities: Tables,
    labels: npt.NDArray[np.integer],
    rows: RowNumbers,
    members: Sequence[str],
    floor: float,
    known: int,
) -> Float64s:
    """Each member's weight: its bag's, divided by the bag's members, whose geometric mean represents the bag."""
    bags = bags_of(members)
    shares = (bags == np.arange(bags.max() + 1)[:, None]).astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    logs = np.empty((len(shares), len(rows), probabilities.shape[2]))
    for place, table in table_parts(probabilities, rows):
        logs[:, place] = np.tensordot(shares, logarithm(table, floor), 1)
    return np.asarray(find_grouped_weights(logs, labels, known, groups_of(members)) @ shares)


def mix(probabilities: npt.NDArray[np.floating], weights: Sequence[float], floor: float = 0.0) -> Float64s:
    """Return (n, C), rows sum to 1: the weighted mean of (m, n, C), or of their logarithms where there is a `floor`."""
    chosen = [(float(weight), member) for weight, member in zip(weights, probabilities, strict=True) if weight]
    if floor:
        return softmax(np.asarray(sum(weight * logarithm(member, floor) for weight, member in chosen)))
    return np.asarray(sum(weight * member.astype(np.float64) for weight, member in chosen))


def logarithm(probabilities: npt.NDArray[np.floating], floor: float = 1e-300) -> Float64s:
    """Return log p, float64, and of what is below `floor` the floor's."""
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float64), floor)))


def softmax(logits: Float64s) -> Float64s:
    """Return the (n, C) probabilities of `logits`."""
    return normalised(np.exp(logits - logits.max(axis=1, keepdims=True)))


def apply_temperature(probabilities: npt.NDArray[np.floating], temperature: float) -> Float64s:
    """Return softmax(log p / temperature), (n, C); 1 leaves p as it is but for rounding."""
    return softmax(logarithm(probabilities) / temperature)


def clipped(probabilities: npt.NDArray[np.floating], highest: float) -> Float64s:
    """Return R5's clip(p, (1-mx)/(C-1), mx), (n, C), `highest` = mx; 1 clips nothing.

    As in the recipe, rows are not brought back to sum 1: a row clipped to one mx and C-1 times (1-mx)/(C-1) has
    that sum already, and who scores log-loss (Kaggle) divides by the sum anyway.
    """
    classes = probabilities.shape[1]
    lowest = (1 - highest) / (classes - 1) if classes > 1 else 0.0
    # highest < 1/C would put the lower bound above the upper one
    return np.clip(probabilities.astype(np.float64), min(lowest, highest), highest)


def normalised(probabilities: Float64s) -> Float64s:
    """Return the rows of (n, C) brought to sum 1, as who scores log-loss does."""
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def find_temperature(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the temperature of the lowest log-loss, out of 161 from 1/4 to 4.

    The loss has one valley, so steps that halve find it; of equals the one nearest to 1 is kept, as they begin there.
    """
    logs = logarithm(probabilities)
    rows, at = np.arange(len(labels)), len(_TEMPERATURES) // 2

    @cache
    def loss(index: int) -> float:
        shares = softmax(logs / _TEMPERATURES[index])[rows, labels]
        return round(float(row_losses(shares).mean()), _PLACES)

    for step in (64, 32, 16, 8, 4, 2, 1, 1):
        near = [index for index in (at, at - step, at + step) if 0 <= index < len(_TEMPERATURES)]
        at = min(near, key=loss)  # min takes the first of equals: where it was
    return float(_TEMPERATURES[at])


def find_clip(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the upper bound mx of the lowest log-loss of normalised rows: 1 - mx from 0 to 1/2, 1 among equals.

    Scored on rows brought to sum 1, as who scores a submission does; else raising the lower bound would look free.
    """
    classes = probabilities.shape[1]
    distances = [0.0, *np.geomspace(1e-6, min(0.5, 0.98 * (1 - 1 / classes)), 120)]

    @cache
    def loss(index: int) -> float:
        return round(log_loss(normalised(clipped(probabilities, 1 - distances[index])), labels), _PLACES)

    coarse = range(0, len(distances), 8)
    best = min(coarse, key=loss)
    near = range(max(0, best - 7), min(len(distances), best + 8))
    return float(1 - distances[min(sorted({*coarse, *near}), key=loss)])


def bagged_weights(label_shares: Float64s, bags: int = BAGS, seed: int = 0) -> Float64s:
    """Return the mean of `greedy_weights` over `bags` draws of the rows, with replacement, (m,), sum 1.

    A single selection may rest on members that were lucky on these rows. Caruana draws half of the members instead; where
    a few of them are much better than the rest, as here, the halves without these cost more than they spread.
    """
    generator, rows = np.random.default_rng(seed), label_shares.shape[1]
    draws = (generator.integers(0, rows, rows) for _ in range(bags))
    return np.asarray(np.mean([greedy_weights(label_shares[:, drawn]) for drawn in draws], axis=0))


def greedy_weights(label_shares: Float64s) -> Float64s:
    """Choose members one by one, with replacement, each time the one that lowers the mean's log-loss most (Caruana).

    Of equal ones a member that is already in is preferred, then the one that is better alone, then the first; the
    choice is cut at its best round, the shortest among equals. Returns (m,) weights, sum 1, by the (m, n) probabilities
    of each row's label, out of fold: the mean's log-loss needs no more.
    """
    alone = np.round(row_losses(label_shares).mean(axis=1), _PLACES)
    counts, total = np.zeros(len(label_shares), np.int64), np.zeros(label_shares.shape[1])
    lowest, best, since = np.inf, counts, 0
    for chosen in range(1, ROUNDS + 1):
        losses = np.round(row_losses((total + label_shares) / chosen).mean(axis=1), _PLACES)
        pick = int(np.lexsort((alone, counts == 0, losses))[0])  # the first of equals in all three
        total += label_shares[pick]
        counts[pick] += 1
        since += 1
        if losses[pick] < lowest:
            lowest, best, since = losses[pick], counts.copy(), 0
        if since == _PATIENCE:
            break
    return np.asarray(best / best.sum())


def submission_clip(setting: str | float, chosen: Combination) -> Clip:
    """Return the upper bound of a probability that ``[Submission] clip`` comes to, in (0, 1]; 1 for none.

    Of several labels a row ``auto`` has one for each.

    Example:
        >>> submission_clip("auto", Combination("mean", (1.0,), temperature=1.0, clip=0.98))
        0.98
    """
    own: Clip = chosen.clips or chosen.clip
    return own if setting == "auto" else 1.0 if setting == "none" else float(setting)
