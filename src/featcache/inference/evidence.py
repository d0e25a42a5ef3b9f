"""Where an image speaks for a class: the score of linear heads as a sum over the places of its maps. NumPy only.

A linear head sees each pooled value by itself: raised to a power, divided by one length for the whole row, and weighted. What a
value adds to the score is shared among the places of its map in proportion to their activation, or is all of its maximum's
place. So the places and an intercept sum to the score, by one forward pass and no gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32
from featcache.training import Bag

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A linear score of one class.

    Attributes:
        heat: (h, w) float64, what each place of the image adds to the score, or takes from it.
        intercept: what no place adds.
    """

    heat: Floats
    intercept: float

    @property
    def score(self) -> float:
        """The class's logit above the mean of all classes' logits; of several labels a row, its logit."""
        return float(self.heat.sum()) + self.intercept

    def mirrored(self) -> "Evidence":
        """Return that of the image whose left is right."""
        return Evidence(self.heat[:, ::-1], self.intercept)


@dataclass(frozen=True, eq=False)
class PooledMap:
    """What a tap pools over: (h, w, c) values, whose ``avg`` or ``max`` are the tap's last c values."""

    values: npt.NDArray[Any]
    pooling: str

    @cached_property
    def shares(self) -> Floats:
        """(h, w, c): the part of each place in its channel's pooled value; every channel's sum is 1.

        Of a mean only those places have a part whose activation has the mean's sign, in proportion to it: all of them
        after relu. Places that are equally the maximum share it.
        """
        own: Floats = as_float32(self.values).astype(np.float64)
        if self.pooling == "max":
            own = (own == own.max(axis=(0, 1))).astype(np.float64)
        else:
            own *= np.where(own.sum(axis=(0, 1)) < 0, -1, 1)
            np.maximum(own, 0, out=own)
            own += own.sum(axis=(0, 1)) == 0  # a channel of zeros adds nothing, wherever
        own /= own.sum(axis=(0, 1))
        return own


def head_evidence(
    bag: Bag, heads: Sequence[int], features: Mapping[str, npt.NDArray[Any]], maps: Mapping[str, PooledMap], label: int
) -> Evidence:
    """Return what one image adds to the mean score of some of a bag's linear heads for a class.

    Args:
        bag: of heads without hidden layers.
        heads: their places in the bag.
        features: tap name -> (1, ...), the image's features, of each tap that the bag sees.
        maps: tap name -> what it pools over, of those that have a map.
        label: the class, from 0.
    """
    kernel, bias = (bag.weights[name][list(heads)].mean(axis=0, dtype=np.float64) for name in ("kernel_0", "bias_0"))
    weights, intercept = kernel[:, label], float(bias[label])
    if not bag.plan.several:  # a softmax doesn't change by what all logits have in common
        weights, intercept = weights - kernel.mean(axis=1), intercept - float(bias.mean())
    seen_as = bag.seen_as
    values, widths = seen_as.rows(features)[:1][0].astype(np.float64), seen_as.widths
    if seen_as.mean is not None and seen_as.scale is not None:  # a value of 0 is to add 0
        zero = seen_as.mean / seen_as.scale.repeat(widths)
        values, intercept = values + zero, intercept - float(weights @ zero)
    heats = []
    for tap, own in zip(seen_as.taps, np.split(weights * values, np.cumsum(widths)[:-1]), strict=True):
        shape, placed = seen_as.taps[tap], 0
        if tap in maps:
            placed = maps[tap].values.shape[-1]
            heats.append(maps[tap].shares @ own[len(own) - placed :])
        elif len(shape) == 3:
            placed = len(own)
            heats.append(own.reshape(shape).sum(axis=-1))
        intercept += float(own[: len(own) - placed].sum())
    return summed([Evidence(heat, 0.0) for heat in heats] + [Evidence(np.zeros((1, 1)), intercept)])


def summed(parts: Sequence[Evidence], weights: Sequence[float] | None = None) -> Evidence:
    """Return the (weighted) sum of evidence, as fine as the finest of them."""
    weights = [1.0] * len(parts) if weights is None else weights
    shape = max(part.heat.shape[0] for part in parts), max(part.heat.shape[1] for part in parts)
    heat = sum(weight * spread(part.heat, shape) for weight, part in zip(weights, parts, strict=True))
    return Evidence(np.asarray(heat), sum(weight * part.intercept for weight, part in zip(weights, parts, strict=True)))


def spread(heat: Floats, shape: tuple[int, int]) -> Floats:
    """Return the (h, w) `heat` on another grid over the same image, of the same sum: cells share it by what they cover.

    Example:
        >>> spread(np.array([[4.0, 8.0]]), (2, 4)).tolist()
        [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    down, across = (_covered(*sides) for sides in zip(heat.shape, shape, strict=True))
    return np.asarray(down @ heat @ across.T)


def _covered(old: int, new: int) -> Floats:
    """(new, old) the share of each old cell that lies in each new one, along one side."""
    ends = np.minimum.outer(np.arange(1, new + 1) / new, np.arange(1, old + 1) / old)
    starts = np.maximum.outer(np.arange(new) / new, np.arange(old) / old)
    return np.asarray(np.maximum(ends - starts, 0) * old)
