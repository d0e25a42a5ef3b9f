"""L2-regularised multinomial logistic regressions, one a fold, fitted together pass by pass. NumPy and SciPy only.

Where a row may have several labels they are binary ones, one a fold and label; everything else is the same.

L-BFGS works in coordinates in which the problem is nearly round: those of the covariance of a sample of rows. The
solution does not depend on them. Where rows are few, these themselves are turned, once, and no kernel in any pass.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several
from featcache.training.heads.forward import Float32s, blocks, sigmoid
from featcache.training.heads.linear_path import Doubles, Map

Solution = tuple[Float32s, Float32s]

_SAMPLE = 1024  # rows that the coordinates are taken from
_TURNED = 2048  # values of a row and rows that are themselves turned: all directions are known then
_SHARE = 512  # rows of a core's share of a pass
_CURVATURE = 0.1  # of the cross-entropy by a logit, somewhere between 1/4, where it begins, and 0
_HELD_VALUES = 64_000_000  # features are read once and held where they are no more than this
_PASSES = 200
_FEWEST_PASSES = 12
_WORK = 3e11  # multiplications and additions of one fit at the most, as long as the fewest passes allow: some 5 s
_MEMORY = 10  # of L-BFGS


class Regressions:
    """H regressions on the same rows: each has rows of its own and a solution."""

    def __init__(
        self,
        copies: Sequence[npt.NDArray[Any]],
        labels: npt.NDArray[np.integer],
        own: npt.NDArray[np.bool_] | Float32s,
        classes: int,
        cores: Map = map,
    ) -> None:
        """Take the directions from a sample of rows; nothing is fitted yet.

        Args:
            copies: (n, F) values each, centred, read block by block; held in memory where they are small.
            labels: (n,) class indices; only those of own rows matter. Or (n, C) of 0 and 1.
            own: (H, n) bool, the rows that each regression is fitted to, or float32, what each row counts for; of
                several labels also (H, n, C), what each of its cells counts for.
            classes: how many.
            cores: what shares out a pass over rows that are held in memory.
        """
        self._copies, self._several = copies, is_several(labels)
        if self._several:
            self._labels = np.maximum(labels, 0).astype(np.float32)
            self._own = np.moveaxis(own if own.ndim == 3 else own[:, :, None], 0, 1).astype(np.float32)
            self._counts = self._own.mean(axis=2).sum(axis=0, dtype=np.float64) * len(copies)
        else:
            self._labels = np.where(own.any(axis=0), labels, 0)
            self._own = own.T.astype(np.float32)
            self._counts = own.sum(axis=1, dtype=np.float64) * len(copies)
        self._classes = classes
        values = len(copies) * copies[0].size
        self._held = [*self._read()] if values <= _HELD_VALUES else None
        self._cores = map if self._held is None else cores
        rows = len(copies) * len(labels)
        self._turned = self._held is not None and max(rows, copies[0].shape[1]) <= _TURNED
        self._directions, self._spread = self._coordinates()
        if self._held is not None:
            read = ((start, block @ self._directions if self._turned else block) for start, block in self._held)
            self._held = [(start + at, block[at : at + _SHARE]) for start, block in read for at in _shares(block)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, F, C) of all kernels."""
        return (self._own.shape[1], self._copies[0].shape[1], self._classes)

    def fit(self, strength: float, start: Solution | None = None, tolerance: float = 1e-4) -> Solution:
        """Minimise the rows' summed weighted cross-entropy + |kernel|^2 / (2 strength), as scikit-learn's C does.

        Many rows x features get fewer passes and an early end, which regularises a little on top of the penalty: with
        60,000 x 4,608 convergence would take hours.

        Args:
            strength: above 0.
            start: where to begin, of another strength; None for zeros.
            tolerance: of the gradient's largest entry, the loss counted a row.

        Returns:
            Kernels (H, F, C) and bias (H, C), float32.
        """
        from scipy.optimize import minimize

        heads, features, classes = self.shape
        # scikit-learn has one logit for two classes: half the kernel's square for the same function
        penalties = (2 if classes == 2 and not self._several else 1) / (strength * self._counts.repeat(classes))
        penalty = float(penalties.mean())
        whole = 1 / np.sqrt(_CURVATURE * self._spread + penalty)
        scale = whole - 1 / np.sqrt(penalty)

        def scaled(kernels: Doubles) -> Doubles:
            """(F, H C) times the inverse root of what the Hessian is taken for."""
            if self._turned:
                return kernels * whole[:, None]
            along = self._directions.T @ kernels.astype(np.float32)
            along *= scale[:, None].astype(np.float32)
            return np.asarray(self._directions @ along + kernels / np.sqrt(penalty), np.float64)

        def objective(point: Doubles) -> tuple[float, Doubles]:
            inner, bias = point[: -heads * classes].reshape(features, -1), point[-heads * classes :]
            kernels = scaled(inner)
            loss, by_kernel, by_bias = self._gradient(kernels, bias.reshape(heads, classes))
            loss += float((penalties * np.square(kernels)).sum()) / 2
            gradient = scaled(by_kernel + penalties * kernels)
            return loss, np.concatenate([gradient.ravel(), by_bias.ravel()])

        pass_work = 4.0 * len(self._labels) * len(self._copies) * features * heads * classes
        passes = int(np.clip(_WORK / pass_work, _FEWEST_PASSES, _PASSES))
        found = minimize(
            objective, self._start(start, penalty), jac=True, method="L-BFGS-B",
            options={"maxiter": passes, "maxfun": passes, "maxcor": _MEMORY, "gtol": tolerance, "ftol": 0},
        )  # fmt: skip
        self.passes = found.nfev
        inner, bias = found.x[: -heads * classes].reshape(features, -1), found.x[-heads * classes :]
        kernels = self._directions @ scaled(inner) if self._turned else scaled(inner)
        kernels = kernels.reshape(features, heads, classes).transpose(1, 0, 2)
        return np.ascontiguousarray(kernels, np.float32), bias.reshape(heads, classes).astype(np.float32)

    def _start(self, start: Solution | None, penalty: float) -> Doubles:
        heads, features, classes = self.shape
        if start is None:
            return np.zeros(heads * classes * (features + 1))
        kernels = start[0].astype(np.float64).transpose(1, 0, 2).reshape(features, -1)
        whole = np.sqrt(_CURVATURE * self._spread + penalty)
        scale = whole - np.sqrt(penalty)
        if self._turned:
            inner = whole[:, None] * (self._directions.T @ kernels)
        else:
            inner = self._directions @ (scale[:, None] * (self._directions.T @ kernels)) + kernels * np.sqrt(penalty)
        return np.concatenate([inner.ravel(), start[1].astype(np.float64).ravel()])

    def _gradient(self, kernels: Doubles, bias: Doubles) -> tuple[float, Doubles, Doubles]:
        """Mean cross-entropy a row, summed over the regressions, and its gradients by kernels (F, H C) and bias (H, C).

        Of several labels it is summed over these, too: each is a regression by itself.
        """
        heads, features, classes = self.shape
        part = partial(self._part, kernels.astype(np.float32), bias.reshape(-1).astype(np.float32))
        loss, total, by_bias = 0.0, np.zeros((features, heads * classes)), np.zeros((heads, classes))
        for losses, products, sums in self._cores(part, self._held or self._read()):
            loss += float((losses / self._counts).sum())
            total += products
            by_bias += sums
        return loss, total / self._counts.repeat(classes), by_bias / self._counts[:, None]

    def _part(self, kernels: Float32s, bias: Float32s, rows: tuple[int, Float32s]) -> tuple[Doubles, Float32s, Doubles]:
        """What some rows add: (H,) to the losses, (F, H C) and (H, C) to their gradients."""
        start, block = rows
        heads, _, classes = self.shape
        labels, own = self._labels[start : start + len(block)], self._own[start : start + len(block)]
        logits = (block @ kernels + bias).reshape(len(block), heads, classes)
        if self._several:
            cells = np.logaddexp(0, logits) - logits * labels[:, None]
            losses = (cells * own).sum(axis=(0, 2), dtype=np.float64)
            logits = (sigmoid(logits) - labels[:, None]) * own
        else:
            places = np.arange(len(block))
            logits -= logits.max(axis=2, keepdims=True)
            chosen = logits[places, :, labels].copy()
            np.exp(logits, out=logits)
            sums = logits.sum(axis=2)
            losses = ((np.log(sums) - chosen) * own).sum(axis=0, dtype=np.float64)
            logits *= (own / sums)[:, :, None]
            logits[places, :, labels] -= own
        return losses, block.T @ logits.reshape(len(block), -1), logits.sum(axis=0, dtype=np.float64)

    def _read(self) -> Iterator[tuple[int, Float32s]]:
        heads, features, classes = self.shape
        for copy in self._copies:
            yield from blocks(copy, features + 3 * heads * classes)

    def _coordinates(self) -> tuple[Float32s, Doubles]:
        """Directions (F, r) in which a sample of rows varies, and how much (r,); to turn rows, all F and all rows."""
        rows = np.flatnonzero(self._own.reshape(len(self._own), -1).any(axis=1))
        most = len(rows) if self._turned else min(_SAMPLE, len(rows))
        sample = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        values = np.asarray(self._copies[0][sample]).reshape(len(sample), -1).astype(np.float64)
        values -= values.mean(axis=0)
        tall = self._turned or len(values) >= values.shape[1]
        spread, mixed = np.linalg.eigh((values.T @ values if tall else values @ values.T) / len(values))
        if self._turned:
            return mixed.astype(np.float32), np.maximum(spread, 0)
        keep = spread > spread[-1] * 1e-9
        if tall:
            return mixed[:, keep].astype(np.float32), spread[keep]
        directions = values.T @ (mixed[:, keep] / np.sqrt(spread[keep] * len(values)))
        return directions.astype(np.float32), spread[keep]


def _shares(block: Float32s) -> range:
    return range(0, len(block), _SHARE)
