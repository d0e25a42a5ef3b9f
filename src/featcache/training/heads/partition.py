"""Which rows each head of a bag is trained on, and which it is scored on. NumPy only.

Rows are divided into units: folds, or groups. By folds, part k is trained on every unit but k and scored on unit k. By groups,
part k is trained on unit k alone and scored on every other. Either way no head is ever scored on what it was trained on.
Rows of classes that can't be scored (`featcache.training.folds.ALWAYS`) are trained on in every part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError
from featcache.training.folds import ALWAYS, NO_FOLD


@dataclass(frozen=True, eq=False)
class Partition:
    """The rows of each part of a bag; a head's `HeadId.fold` is the number of its part.

    Attributes:
        units: (n,) int32, the number of each row's unit; `NO_FOLD` for rows that are neither trained nor scored on,
            `ALWAYS` for rows that every part is trained on and none is scored on.
        numbers: the parts, in ascending order; each is the number of a unit.
        by_group: False: a part is trained on all units but its own; True: on its own alone.
    """

    units: npt.NDArray[np.int32]
    numbers: tuple[int, ...]
    by_group: bool

    def trained(self, part: int) -> npt.NDArray[np.bool_]:
        """(n,) bool: the rows that heads of `part` are trained on."""
        own = self.units == part
        if not self.by_group:
            own = (self.units >= 0) & ~own
        trained: npt.NDArray[np.bool_] = own | (self.units == ALWAYS)
        return trained

    def scored(self, part: int) -> npt.NDArray[np.bool_]:
        """(n,) bool: the rows whose out-of-fold probabilities heads of `part` have a share in."""
        own: npt.NDArray[np.bool_] = self.units == part
        return (self.units >= 0) & ~own if self.by_group else own

    def evaluated(self, part: int) -> npt.NDArray[np.bool_]:
        """(n,) bool: the scored rows that heads of `part` are evaluated on after each epoch.

        By groups each row is dealt to one part, as by folds: evaluating all rows by all other parts would cost more
        than training.
        """
        scored = self.scored(part)
        if self.by_group:
            place, count = np.searchsorted(self.numbers, self.units), len(self.numbers)
            turn = np.arange(len(self.units)) % (count - 1) + 1
            scored &= (place + turn) % count == self.numbers.index(part)
        return scored

    def unit_of_rows(self, rows: npt.NDArray[np.integer] | slice) -> npt.NDArray[np.intp]:
        """(r,) the place in `numbers` of each row's unit, which is a part; anything for rows that are not scored."""
        return np.searchsorted(self.numbers, self.units[rows])


def by_folds(folds: npt.NDArray[np.integer], usable: npt.NDArray[np.bool_]) -> Partition:
    """Return a part for each of the (n,) `folds`, as `assign_folds` has them; rows that are not `usable` are left out.

    Raises:
        TrainingError: fewer than 2 folds, or one that leaves fewer than 2 rows to train on.
    """
    return _parts(np.where(usable, folds, NO_FOLD), False, "folds", "add images or lower [Heads] folds")


def by_groups(
    groups: Sequence[str], usable: npt.NDArray[np.bool_], folds: npt.NDArray[np.integer] | None = None
) -> Partition:
    """Return a part for each group, in the order in which they first appear: a model for each driver, for example.

    A group may lack classes: its heads give them no probability, and are left out where those classes' probabilities
    are averaged (`featcache.training.heads.bag.Bag.member_predictions`). Rows that are `ALWAYS` in (n,) `folds` belong to
    every part.

    Raises:
        TrainingError: fewer than 2 groups, one with fewer than 2 `usable` rows, or usable rows without a group.
    """
    rows = np.flatnonzero(usable).tolist()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups[row] for row in rows))}
    if "" in numbers:
        lone = sum(not groups[row] for row in rows)
        raise TrainingError(
            f"rows without a group={lone}, where a model is trained for each group: complete [Dataset] groups, or set "
            "[Heads] per_group = false"
        )
    units = np.full(len(usable), NO_FOLD, np.int32)
    units[rows] = [numbers[groups[row]] for row in rows]
    if folds is not None:
        units[usable & (folds == ALWAYS)] = ALWAYS
    counts = np.bincount(units[units >= 0], minlength=1)
    smallest = next((name for name, number in numbers.items() if number == counts.argmin()), "")
    advice = f"add images to the smallest group, {smallest!r}, or set [Heads] per_group = false"
    return _parts(units, True, "groups", advice)


def _parts(units: npt.NDArray[np.integer], by_group: bool, what: str, advice: str) -> Partition:
    numbers, counts = np.unique(units[units >= 0], return_counts=True)
    fewest = min((counts if by_group else counts.sum() - counts) + int((units == ALWAYS).sum()), default=0)
    if len(numbers) < 2 or fewest < 2:
        raise TrainingError(
            f"{what}={len(numbers)}, usable rows={int(counts.sum())} leave a part without 2 {what} or 2 rows to train "
            f"on: {advice}"
        )
    return Partition(units.astype(np.int32), tuple(numbers.tolist()), by_group)
