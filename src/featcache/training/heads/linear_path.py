"""What linear members share: few coordinates for few rows, and each fold's best step of a path by the other folds.

A path is a number of steps, from strong to weak regularisation, each with a linear model a fold. NumPy and SciPy only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32
from featcache.core.progress import Progress
from featcache.core.rows import is_several
from featcache.core.system import core_numbers
from featcache.training.heads.bag import HeadId, History, TrainedBag
from featcache.training.heads.evaluation import HeadEvaluator
from featcache.training.heads.examples import Examples
from featcache.training.heads.forward import Float32s, Weights
from featcache.training.heads.presets import HeadPlan
from featcache.training.several_labels import cell_logits
from featcache.training.temperature import best_temperature, tempered_losses

Doubles = npt.NDArray[np.float64]
Map = Callable[..., Iterable[Any]]

_FEW_ROWS = 4_096  # whose matrix products are so small that more threads wait for each other longer than they compute
_MOST_TURNED = 4_096  # rows: their products, and the triangle that these make, stay small
_RIDGE = 1e-6  # of the mean square of a row, so that duplicates keep the triangle regular
_SCORED_VALUES, _SCORED_ROWS = 1_000_000, 20_000  # of more rows, some say as much about two numbers
_BLOCK_VALUES = 4_000_000  # about 16 MB of float32 at a time


@contextmanager
def core_map(rows: int) -> Iterator[Map]:
    """Yield what `map` is for parts of a path's work: of few rows each core takes some, of many each product takes all cores."""
    import scipy.linalg  # noqa: F401  # only the BLAS of what is loaded is limited
    from threadpoolctl import threadpool_limits

    few = rows < _FEW_ROWS
    with threadpool_limits(1 if few else None, user_api="blas"), ThreadPoolExecutor(len(core_numbers())) as pool:
        yield pool.map if few else map


class Coordinates:
    """The rows of all copies in as many coordinates as there are rows, where that is fewer than values.

    Linear models see of a row only its products with other rows. With the products' Cholesky triangle L, row i of L has the
    same ones: the columns of X^T L^-T are an orthonormal basis of the rows' span, which need not be computed.

    Attributes:
        copies: (n, r) each.
        values: F, which a penalty or a trace over all values counts.
    """

    def __init__(self, copies: Sequence[npt.NDArray[Any]]) -> None:
        """Turn the (n, F) `copies`, if there are fewer rows than values."""
        self.values, rows = copies[0].shape[1], len(copies) * len(copies[0])
        self.copies, self._triangle = copies, None
        if rows < min(self.values, _MOST_TURNED):
            from scipy.linalg import cholesky

            self._given, products = copies, np.zeros((rows, rows))
            for _, block in self._columns():  # of centred rows: singular but for the ridge, even in float64
                products += block @ block.T
            products[np.diag_indices(rows)] += _RIDGE * max(products.trace() / rows, _RIDGE)
            self._triangle = cholesky(products, lower=True)
            self.copies = np.split(self._triangle.astype(np.float32), len(copies))

    def kernels(self, turned: npt.NDArray[np.floating]) -> Float32s:
        """Return (P, F, C) kernels for the values of (P, r, C) ones for the coordinates."""
        if self._triangle is None:
            return turned.astype(np.float32)
        from scipy.linalg import solve_triangular

        parts = np.stack([solve_triangular(self._triangle, kernel, trans=1, lower=True) for kernel in turned])
        kernels = np.empty((len(turned), self.values, turned.shape[2]), np.float32)
        for some, block in self._columns():
            kernels[:, some] = block.T @ parts
        return kernels

    def _columns(self) -> Iterator[tuple[slice, Doubles]]:
        """Yield (values, (rows of all copies, b) float64): some values of all rows at a time."""
        at_once = max(1, _BLOCK_VALUES // (len(self._given) * len(self._given[0])))
        for start in range(0, self.values, at_once):
            some = slice(start, start + at_once)
            yield some, np.concatenate([copy[:, some] for copy in self._given]).astype(np.float64)


class Step(NamedTuple):
    """One step of a path: a linear model for each of P parts, in coordinates, and what its logits are offset by.

    `kernels` (P, r, C) and `bias` (P, C) make logits that are divided by a temperature; `prior` (P, C) is added after that.
    """

    kernels: npt.NDArray[np.floating]
    bias: npt.NDArray[np.floating]
    prior: npt.NDArray[np.floating]


class ScoredPath:
    """The steps of a path, and how well each part's models do on the rows of other parts."""

    def __init__(self, examples: Examples, coordinates: Coordinates, classes: int) -> None:
        """Choose the rows that steps are compared by."""
        parts = examples.parts
        known = np.flatnonzero(np.isin(parts.units, parts.numbers))
        most = min(_SCORED_ROWS, max(1000, _SCORED_VALUES // classes))
        rows = known[np.linspace(0, len(known) - 1, most).astype(np.intp)] if len(known) > most else known
        self._rows, self._units, self._labels = rows, parts.unit_of_rows(rows), examples.labels[rows]
        self._coordinates = coordinates
        self.steps: list[Step] = []
        self.temperatures: list[list[float]] = []  # of each step, of each part
        self._losses: list[list[float]] = []  # on the other parts' rows

    def follow(self, steps: Iterable[tuple[str, Step]], worse: float, progress: Progress) -> None:
        """Take steps, each with what `progress` shows, until out-of-fold loss is `worse` times its lowest.

        No step is computed after that; `progress` was started, and is finished here, whatever happens.
        """
        losses: list[float] = []
        try:
            for shown, step in steps:
                losses.append(self.add(step))
                progress.advance(1, f"{shown}, out of fold {losses[-1]:.3f}")
                if losses[-1] > worse * min(losses):
                    break
        finally:
            progress.finish()

    def add(self, step: Step) -> float:
        """Take one more step; return its loss over all rows, each by the part that hasn't seen it, tempered."""
        logits, prior = self._logits(step), step.prior[self._units]
        losses, found = [], []
        for part in range(len(step.bias)):
            others = self._units != part
            mine = logits[others], self._labels[others], prior[others]
            if is_several(self._labels):  # whose regressions have no priors
                mine = cell_logits(mine[0]), mine[1].ravel(), np.zeros(1)
            found.append(best_temperature(*mine))
            losses.append(float(tempered_losses(*mine, found[-1]).mean()))
        self.steps.append(step)
        self.temperatures.append(found)
        self._losses.append(losses)
        return float(np.mean(losses))

    def _logits(self, step: Step) -> Float32s:
        """(m, C) of each row by the part that is scored on it."""
        table = np.empty((len(self._units), step.bias.shape[1]), np.float32)
        values = self._coordinates.copies[0]
        at_once = max(1, _BLOCK_VALUES // values.shape[1])
        for part, bias in enumerate(step.bias):
            mine, kernel = np.flatnonzero(self._units == part), step.kernels[part].astype(np.float32)
            for start in range(0, len(mine), at_once):
                some = mine[start : start + at_once]
                table[some] = as_float32(values[self._rows[some]]) @ kernel + bias
        return table

    def bag(self, plan: HeadPlan, examples: Examples, scratch: Path | None) -> TrainedBag:
        """Return each part's model of the step that is best on the other parts' rows, as a bag of one seed.

        `examples` are all rows, where the path looked at some.
        """
        coordinates = self._coordinates
        chosen = np.argmin(self._losses, axis=0).tolist()
        pairs = list(enumerate(chosen))
        temperatures = np.array([self.temperatures[step][part] for part, step in pairs])
        turned = np.stack([self.steps[step].kernels[part] for part, step in pairs])
        bias = np.stack([self.steps[step].bias[part] for part, step in pairs]) / temperatures[:, None]
        prior = np.stack([self.steps[step].prior[part] for part, step in pairs])
        kernels = coordinates.kernels(turned / temperatures[:, None, None])
        weights: Weights = {"kernel_0": kernels, "bias_0": (bias + prior).astype(np.float32)}
        heads = tuple(HeadId(0, part) for part in examples.parts.numbers)
        seen = examples.seen_classes(plan.classes)
        table = HeadEvaluator(examples, 0).out_of_fold(weights, heads, seen, scratch)
        history = History.of_path(np.array(self._losses, np.float32), np.array(chosen, np.int32))
        return TrainedBag(plan, examples.seen_as, heads, weights, seen, history, table)
