"""Learning rates of a training: constant, cosine and one-cycle phases."""

import math
from typing import NamedTuple

CONSTANT, COSINE, ONE_CYCLE = "constant", "cosine", "one-cycle"
SHAPES = (CONSTANT, COSINE, ONE_CYCLE)

_WARM_UP = 0.3  # the share of a one-cycle phase in which its rate rises
_START, _END = 25.0, 1e4  # what its peak is divided by, at both ends


class Phase(NamedTuple):
    """Some epochs of one schedule.

    `shape` is ``constant``; ``cosine``, falling to 0; or ``one-cycle``, rising for a third of the steps from a 25th of
    `rate`, then falling by a cosine to a ten-thousandth, at constant momentum.
    """

    rate: float  #: the learning rate; of a cosine phase the first, of a one-cycle phase the highest
    epochs: int  #: passes over the training rows
    shape: str = CONSTANT

    def at(self, share: float) -> float:
        """The learning rate when `share` (0 <= share < 1) of the phase's steps are done."""
        if self.shape == COSINE:
            return _cosine(self.rate, 0.0, share)
        if self.shape == ONE_CYCLE:
            if share < _WARM_UP:
                return _cosine(self.rate / _START, self.rate, share / _WARM_UP)
            return _cosine(self.rate, self.rate / _END, (share - _WARM_UP) / (1 - _WARM_UP))
        return self.rate

    def __str__(self) -> str:
        """Its text in luigi.cfg."""
        prefix = "" if self.shape == CONSTANT else f"{self.shape} "
        return f"{prefix}{self.rate:g}x{self.epochs}"


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def rates(schedule: tuple[Phase, ...], epoch: int, steps: int) -> list[float]:
    """The learning rate of each of the `steps` steps of `epoch`, counted from 0 over all phases.

    Raises:
        IndexError: the schedule has fewer epochs.

    Example:
        >>> rates((Phase(1e-3, 1), Phase(1e-2, 2)), epoch=1, steps=3)
        [0.01, 0.01, 0.01]
    """
    first = 0
    for phase in schedule:
        if epoch < first + phase.epochs:
            total = phase.epochs * steps
            return [phase.at(((epoch - first) * steps + step) / total) for step in range(steps)]
        first += phase.epochs
    raise IndexError(epoch)
