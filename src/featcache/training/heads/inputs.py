"""What heads see of a row: one tap, or several side by side, normalised. NumPy only.

Each tap's values are raised to a power below 1, keeping their signs, and brought to one length a row, so that neither a few
large activations nor an image's contrast decide (the power and L2 normalisation of Perronnin, Sanchez and Mensink, "Improving
the Fisher Kernel for Large-Scale Image Classification", ECCV 2010). The values are then centred and each tap is scaled as a whole: a
scale a value would blow up channels that are almost always zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.float16 import as_float32
from featcache.core.scratch_arrays import allocate
from featcache.errors import TrainingError
from featcache.settings import Tap
from featcache.training.heads.forward import Float32s, blocks

POWER = 0.7  # between square roots, best on few flowers and scans, and none (benchmarks/RESULTS.md)
SMALLEST_SQUARE = 1e-12  # of a tap's powers, summed up; a row of zeros stays one
JOINED = "pooled"  # the name of several pooled taps side by side

Features = Mapping[str, npt.NDArray[Any]]
"""Tap name -> (n, h, w, c) or (n, c) features, such as an open feature cache."""


def head_inputs(taps: Sequence[Tap], *, joined: bool) -> dict[str, tuple[str, ...]]:
    """Return name -> taps of every input of heads: pooled taps side by side if they are `joined`, each other tap alone."""
    pooled = tuple(tap.name for tap in taps if tap.pooling and joined)
    free = all(tap.name != JOINED for tap in taps)  # a layer of one's own network may be called so
    several = {JOINED if free else "+".join(pooled): pooled} if len(pooled) > 1 else {}
    return several | {tap.name: (tap.name,) for tap in taps if not several or tap.name not in pooled}


def joined_inputs(taps: Mapping[str, Sequence[Tap]], *, joined: bool) -> dict[str, tuple[str, ...]]:
    """Return name -> taps of every input of heads on backbones, label -> taps; of the only one, "", as `head_inputs`.

    Of several, each has its own inputs: its label, ``vgg16@224``, is the name of the only one or of pooled taps side by
    side. If they are `joined`, then one more has the pooled taps of all backbones, ``vgg16@224+resnet50@224``.
    """
    if len(taps) == 1:
        return head_inputs(*taps.values(), joined=joined)
    found, pooled = {}, []
    for label, own in taps.items():
        inputs = head_inputs(own, joined=joined)
        for number, (name, seen) in enumerate(inputs.items()):
            whole = len(inputs) == 1 or (number == 0 and len(seen) > 1)
            found[label if whole else f"{label}-{name}"] = tuple(f"{label}-{tap}" for tap in seen)
        pooled += [f"{label}-{tap.name}" for tap in own if tap.pooling]
    every = all(any(tap.pooling for tap in own) for own in taps.values())
    return found | ({"+".join(taps): tuple(pooled)} if joined and every else {})


@dataclass(frozen=True, eq=False)
class HeadInput:
    """How features become the (n, F) float32 values that heads see.

    Attributes:
        taps: tap name -> (h, w, c) or (c,): one row's features, in the order in which they are side by side.
        mean: (F,) float32, taken off the normalised values; None where values are only flattened, not normalised.
        scale: (T,) float32, one a tap, that they are divided by then; None with `mean`.
    """

    taps: Mapping[str, tuple[int, ...]]
    mean: Float32s | None = None
    scale: Float32s | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """(T,) the values of each tap, flattened; their sum is F."""
        return tuple(prod(shape) for shape in self.taps.values())

    def rows(self, features: Features) -> "InputRows":
        """Return the rows of `features`, read only where they are looked at.

        Raises:
            TrainingError: they have no such tap, or of another shape.
        """
        found = {tap: tuple(features[tap].shape[1:]) for tap in self.taps if tap in features}
        if found != dict(self.taps):
            fault = f"features of shapes={found} don't fit heads that were trained on {dict(self.taps)}"
            raise TrainingError(f"{fault}: train the heads again")
        return InputRows(self, [features[tap] for tap in self.taps])


@dataclass(frozen=True, eq=False)
class InputRows:
    """The rows of some features as heads see them; sliced like an array of (n, F), nothing is read before."""

    seen_as: HeadInput
    parts: Sequence[npt.NDArray[Any]]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, F)."""
        return len(self), sum(self.seen_as.widths)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.parts[0])

    def __getitem__(self, rows: slice | npt.NDArray[np.integer]) -> Float32s:
        """(b, F) float32 of some rows."""
        mean, scale = self.seen_as.mean, self.seen_as.scale
        read = [as_float32(np.asarray(part[rows]).reshape(-1, prod(part.shape[1:]))) for part in self.parts]
        if mean is None or scale is None:
            return read[0] if len(read) == 1 else np.concatenate(read, axis=1)
        values = np.concatenate([normalised(part) for part in read], axis=1)
        values -= mean
        values /= scale.repeat(self.seen_as.widths)
        return values


def normalised(values: Float32s) -> Float32s:
    """Return the signed powers of one tap's (b, F) values, of mean square 1 in every row that isn't zero."""
    powers = np.abs(values) ** np.float32(POWER)
    lengths = np.sqrt(np.maximum(np.square(powers).sum(axis=1, keepdims=True), SMALLEST_SQUARE))
    return np.asarray(np.copysign(powers, values) * (np.sqrt(np.float32(values.shape[1])) / lengths), np.float32)


def fit_input(
    taps: Sequence[str],
    copies: Sequence[Features],
    usable: npt.NDArray[np.bool_],
    *,
    normalise: bool,
    backbones: Sequence[str] = (),
) -> HeadInput:
    """Return the input of heads on `taps`, with mean and scales over the (n,) `usable` rows of all copies.

    Unless they `normalise`, heads see the features as they are.

    A tap's scale is the fourth root of its mean variance: between no scale, which two classes and few rows prefer, and a
    tap's whole deviation, which many classes do (benchmarks/RESULTS.md). Together the values have a mean variance of 1,
    and where `backbones` names each tap's, all backbones have the same part in it, however many values they have.
    No label has a part in it, so rows that a head is scored on may.
    """
    raw = HeadInput({tap: tuple(copies[0][tap].shape[1:]) for tap in taps})
    if not normalise:
        return raw
    width = sum(raw.widths)
    plain = HeadInput(raw.taps, np.zeros(width, np.float32), np.ones(len(taps), np.float32))
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    for copy in copies:
        for start, block in blocks(plain.rows(copy), 4 * width):
            known = block[usable[start : start + len(block)]].astype(np.float64)
            count += len(known)
            total += known.sum(axis=0)
            squares += np.square(known).sum(axis=0)
    mean = total / max(1, count)
    variances = np.maximum(squares / max(1, count) - mean**2, 0)
    ends = np.cumsum(raw.widths)
    by_tap = np.array([part.mean() for part in np.split(variances, ends[:-1])])
    roots = np.sqrt(np.maximum(by_tap, 1e-9))
    sums = roots * raw.widths  # of each tap's variances after dividing by `roots`' own roots
    names = np.asarray(backbones or [""] * len(taps))
    wholes = np.array([sums[names == name].sum() / width for name in names]) * len(set(names.tolist()))
    return HeadInput(raw.taps, mean.astype(np.float32), np.sqrt(roots * wholes).astype(np.float32))


def stored_rows(seen_as: HeadInput, features: Features, scratch: Path | None) -> npt.NDArray[Any]:
    """Return (n, F) values to train on: the mapped features themselves where they are only flattened, else float16.

    Normalising again at every epoch would cost more than the training; large tables are in a file without a name.

    Raises:
        StorageError: there is no room for it in `scratch`.
    """
    rows = seen_as.rows(features)
    if seen_as.mean is None and len(rows.parts) == 1:
        return rows.parts[0].reshape(len(rows), -1)
    stored = allocate(rows.shape, np.float16, scratch)
    for start, block in blocks(rows, 4 * rows.shape[1]):
        stored[start : start + len(block)] = block
    return stored
