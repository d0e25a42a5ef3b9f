"""Overfitting: where training and out-of-fold curves diverge, by how much, and what to try against it (R14)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import TrainingError
from featcache.settings import FeaturesSpec, Tap
from featcache.training.heads.bag import Bag

OVERFITS, DIVERGES, UNDERFITS, SOUND = "overfits", "diverges", "underfits", "sound"

_APART = 0.05  # of the loss of guessing, log(classes): a smaller difference doesn't count
_HIGH = 0.5  # of the same: a higher loss on training rows is underfitting
_COPIES = 5  # the State Farm notebook's
_DROPOUTS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)


@dataclass(frozen=True)
class CurveDiagnosis:
    """The diagnosis of learning curves. Epochs count from 1.

    Attributes:
        kind: `OVERFITS` where the kept epoch is past the best one and worse, `DIVERGES` where the curves have parted by then,
            `UNDERFITS` or `SOUND`.
        parted: the epoch from which on the out-of-fold loss stays above the training loss; None where they don't diverge.
        kept: the epoch whose weights the heads have, the mean over heads; of it are `train_loss` and `fold_loss`.
        epochs: how many there were.
        rise: how far the out-of-fold loss is above its lowest at the kept epoch.
    """

    kind: str
    parted: int | None
    kept: int
    epochs: int
    train_loss: float
    fold_loss: float
    rise: float

    @property
    def summary(self) -> str:
        """One line, e.g. ``overfits from epoch 1 of 20: out-of-fold loss 0.246 above its best; loss ...``."""
        losses = f"loss {self.train_loss:.3f} in training, {self.fold_loss:.3f} out of fold at epoch {self.kept}"
        if self.kind not in (OVERFITS, DIVERGES):
            return f"{'underfits' if self.kind == UNDERFITS else 'no overfitting'}; {losses}"
        since = f"from epoch {self.parted or self.kept} of {self.epochs}"
        if self.kind == DIVERGES:
            return f"diverges {since}; {losses}"
        return f"overfits {since}: out-of-fold loss {self.rise:.3f} above its best; {losses}"


def diagnose(
    train_loss: npt.ArrayLike, fold_loss: npt.ArrayLike, classes: int, kept: int | None = None
) -> CurveDiagnosis:
    """Decide whether heads overfit, underfit, or neither.

    Losses count as different where they differ by more than a twentieth of log(classes), the loss of guessing.

    Args:
        train_loss: (epochs,) mean cross-entropy of training rows, best without dropout.
        fold_loss: (epochs,) the same out of fold.
        classes: at least 2.
        kept: the epoch whose weights count, from 1; None for the last.

    Raises:
        TrainingError: no epochs, or curves of different lengths.
    """
    train, fold = np.asarray(train_loss, np.float64), np.asarray(fold_loss, np.float64)
    if train.ndim != 1 or train.shape != fold.shape or not len(train):
        raise TrainingError(f"the curves are not of the same epochs: train{train.shape}, fold{fold.shape}")
    margin, at = _APART * math.log(classes), (len(train) if kept is None else kept) - 1
    together = np.flatnonzero(fold - train <= margin)
    parted = int(together[-1]) + 2 if len(together) else 1
    high = min(train[at], fold[at]) > _HIGH * math.log(classes)
    apart = fold[at] - train[at] > margin
    worse = fold[at] - fold.min() > margin and at > fold.argmin()
    kind = (OVERFITS if worse else DIVERGES) if apart else UNDERFITS if high else SOUND
    return CurveDiagnosis(
        kind=kind,
        parted=parted if parted <= len(train) else None,
        kept=at + 1,
        epochs=len(train),
        train_loss=float(train[at]),
        fold_loss=float(fold[at]),
        rise=float(fold[at] - fold.min()),
    )


def suggestions(
    kind: str, features: FeaturesSpec, tap: str, hidden: Sequence[int], dropout: float
) -> list[tuple[str, str]]:
    """Return what to try: which of R14's strategies, and its flags, in R14's order.

    More images always help against overfitting, and need no flag. Copies and pooling cost passes over all images: they are
    for heads that see an unpooled tap, whose many values overfit.

    Args:
        kind: of the `CurveDiagnosis`.
        features: the settings that the heads were trained with.
        tap: the input that they see, the name of a tap or of several.
        hidden: their dense layers.
        dropout: their p.
    """
    if kind == SOUND:
        return []
    if kind == UNDERFITS:
        lower = [p for p in _DROPOUTS if p < dropout]
        found = [("less dropout", f"--Heads-dropout {lower[-1]:g}")] if lower else []
        return found + [("wider heads", f"--Heads-hidden {_widths(hidden, 2)}")] * bool(hidden)
    found = []
    unpooled = any(each.name == tap and not each.pooling for each in features.taps)
    if unpooled and features.copies < _COPIES:
        found.append(("augmentation", f"--Features-copies {_COPIES}"))
    if unpooled:
        pooled = [str(Tap(each.layer, "avg") if each.name == tap else each) for each in features.taps]
        found.append(("generalising features", f"--Features-taps {','.join(pooled)}"))
    higher = [p for p in _DROPOUTS if p > dropout]
    found += [("regularisation", f"--Heads-dropout {higher[0]:g}")] if higher and hidden else []
    if hidden and max(hidden) > 16:
        found.append(("smaller heads", f"--Heads-hidden {_widths(hidden, 0.5)}"))
    return found


def _widths(hidden: Sequence[int], times: float) -> str:
    return ",".join(str(max(8, round(width * times))) for width in hidden)


def curves_record(bag: Bag) -> dict[str, Any]:
    """Return a bag's curves, means over its heads, and its heads' sizes, as JSON-able values for its record."""
    history = bag.history.mappings()
    return {
        "classes": 2 if bag.plan.several else bag.plan.classes,  # guessing loses their logarithm, a label that of two
        "hidden": list(bag.plan.hidden),
        "dropout": bag.plan.dropouts[-1],
        "kept": round(1 + float(history.pop("best_epoch").mean())),
        **{name: [round(float(value), 5) for value in array.mean(axis=1)] for name, array in history.items()},
    }


def curves_lines(bags: Sequence[Mapping[str, Any]], features: FeaturesSpec) -> list[str]:
    """Return one or two lines about the bag that overfits most, or else the one with the highest out-of-fold loss.

    Of the records of `bags` those without epochs are left out; `features` are what they were trained with.
    """
    found = [
        (diagnose(curves["seen_loss"], curves["fold_loss"], curves["classes"], curves["kept"]), bag)
        for bag in bags
        if (curves := bag.get("curves"))
    ]
    if not found:
        return []
    diagnosis, bag = max(
        found,
        key=lambda each: (each[0].kind == OVERFITS, each[0].fold_loss - each[0].train_loss, each[0].fold_loss),
    )
    lines, curves = [f"{bag['tap']}/{bag['shape']}: {diagnosis.summary}"], bag["curves"]
    hints = suggestions(diagnosis.kind, features, bag["tap"], curves["hidden"], curves["dropout"])
    if diagnosis.kind in (OVERFITS, DIVERGES):
        hints = [("more images", ""), *hints]
    if hints:
        lines.append("to try: " + " · ".join(f"{name} {flags}".strip() for name, flags in hints))
    return lines
