"""Linear discriminant analysis with a shrunken covariance, a member that few rows a class suit. NumPy and SciPy only.

All folds come from one pass: the sums of each class in each fold, and the products of its values. The covariance within
classes is shrunk towards a multiple of the identity (the target of Ledoit and Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", 2004); the amount is the best for the other folds. Its logits are far too sure, which a
temperature corrects; the classes' shares are no part of what it divides.
"""

from functools import partial
from pathlib import Path

import numpy as np

from featcache.core.progress import Progress
from featcache.training.folds import NO_FOLD
from featcache.training.heads.bag import TrainedBag
from featcache.training.heads.examples import Examples
from featcache.training.heads.forward import blocks
from featcache.training.heads.linear_path import Coordinates, Doubles, Map, ScoredPath, Step, core_map
from featcache.training.heads.presets import HeadPlan

SHRINKAGES = (0.95, 0.85, 0.7, 0.5, 0.3, 0.1)
_WORSE = 1.02  # the path ends where out-of-fold loss is so much above its lowest
_MOST_ROWS = 1 << 16  # more rows, of which evenly spaced ones are taken, say nothing new about a covariance
_MOST_VALUES = 4_096  # a covariance of more is too large; then so many rows are taken, which need as few coordinates
_KEPT_BYTES = 1 << 28  # of all parts' covariances, which are kept from step to step and used side by side
_SMALLEST = 1e-9  # of the mean variance, where all rows of each class are equal


def train_lda(
    examples: Examples, plan: HeadPlan, progress: Progress, name: str = "lda", scratch: Path | None = None
) -> TrainedBag:
    """Fit one model a fold for each shrinkage, and keep each fold's best by the others.

    Args:
        examples: the training rows, by folds; their values are read block by block.
        plan: of type ``lda``, from `featcache.training.heads.presets.resolve_heads`.
        progress: counts shrinkages, under `name`.
        name: what `progress` calls it.
        scratch: the folder for files without a name that hold large tables; None: memory.

    Returns:
        A bag of one seed: linear models, like those of `featcache.training.heads.logistic_regression`.
    """
    most = _MOST_ROWS if plan.features <= _MOST_VALUES else _MOST_VALUES // len(examples.copies) - 1
    some = examples.some(most, scratch)
    with core_map(len(examples.labels)) as cores:
        coordinates = Coordinates(some.copies)
        path = ScoredPath(some, coordinates, plan.classes)
        moments = _Moments(some, coordinates, plan, cores)
        progress.start(name, len(SHRINKAGES), "shrinkages")
        steps = ((f"shrinkage {shrinkage:g}", moments.step(shrinkage)) for shrinkage in SHRINKAGES)
        path.follow(steps, _WORSE, progress)
        return path.bag(plan, examples, scratch)


class _Moments:
    """Class means, shares and the covariance within classes of each part's rows."""

    def __init__(self, examples: Examples, coordinates: Coordinates, plan: HeadPlan, cores: Map = map) -> None:
        """Sum up over units, in one pass: a part's rows are all units but its own."""
        parts, classes = examples.parts, plan.classes
        self._kept: dict[int, tuple[Doubles, Doubles]] = {}
        self._values, self._balanced = coordinates.values, plan.balanced
        units = np.unique(parts.units[parts.units != NO_FOLD])
        first = [int(np.flatnonzero(parts.units == unit)[0]) for unit in units]
        self._trained = [np.flatnonzero(parts.trained(part)[first]) for part in parts.numbers]
        width, shape = coordinates.copies[0].shape[1], (len(units), classes)
        self._small = len(parts.numbers) * 8 * width**2 <= _KEPT_BYTES
        self._cores = cores if self._small else map  # large ones one after the other
        self._counts, self._sums = np.zeros(shape), np.zeros((*shape, width))
        self._products = np.zeros((len(units), width, width), np.float32)
        for copy in coordinates.copies:
            for start, block in blocks(copy, 4 * width):
                here = slice(start, start + len(block))
                for place, unit in enumerate(units):
                    mine = np.flatnonzero(parts.units[here] == unit)
                    values, member = block[mine], np.eye(classes, dtype=np.float32)[examples.labels[here][mine]]
                    self._products[place] += values.T @ values
                    self._counts[place] += member.sum(axis=0)
                    self._sums[place] += member.T @ values

    def step(self, shrinkage: float) -> Step:
        """Return the models of one amount of shrinkage in 0..1."""
        found = self._cores(partial(self._model, shrinkage), range(len(self._trained)))
        return Step(*map(np.stack, zip(*found, strict=True)))

    def _model(self, shrinkage: float, part: int) -> tuple[Doubles, Doubles, Doubles]:
        """The kernel (r, C), bias and prior (C,) of one part."""
        from scipy.linalg import cho_factor, cho_solve

        counts = self._counts[self._trained[part]].sum(axis=0)
        absent = counts == 0
        means, covariance = self._kept.get(part) or self._covariance(part)
        within = covariance * (1 - shrinkage)
        mean_variance = covariance.trace() / self._values
        within[np.diag_indices(len(within))] += (shrinkage + _SMALLEST) * mean_variance + _SMALLEST
        kernel = cho_solve(cho_factor(within, overwrite_a=True, check_finite=False), means.T, check_finite=False)
        bias = -0.5 * np.einsum("cf,fc->c", means, kernel)
        # some of many rows may lack a class: no row is likelier of it than of the mean over all others, and it is rare
        bias[absent] = counts @ bias / counts.sum()
        shares = np.log(np.maximum(counts, 0.5) / counts.sum())
        return kernel, bias, np.where(absent, shares, 0) if self._balanced else shares

    def _covariance(self, part: int) -> tuple[Doubles, Doubles]:
        """The classes' means (C, r) and the covariance within classes (r, r) of one part, kept for the next step if small."""
        trained = self._trained[part]
        counts, sums = self._counts[trained].sum(axis=0), self._sums[trained].sum(axis=0)
        means = sums / np.maximum(counts, 1)[:, None]
        means[counts == 0] = sums.sum(axis=0) / counts.sum()
        within = self._products[trained[0]].astype(np.float64)
        for unit in trained[1:]:
            within += self._products[unit]
        within -= (means * counts[:, None]).T @ means
        within /= counts.sum()
        if self._small:
            self._kept[part] = means, within
        return means, within
