"""A bag of trained heads: its predictions, and its file. NumPy only."""

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.paths import regular
from featcache.errors import CacheFormatError, TrainingError
from featcache.settings import Phase
from featcache.training.heads.forward import Float32s, Weights, blocks, forward, normalize
from featcache.training.heads.presets import HeadPlan

BAG_FILE = "bag.npz"
RECORD_FILE = "bag.json"
_SCHEMA = 2
_STORED_NAMES = {"best_epoch": "kept"}  # what fields of `History` are called in files


@dataclass(frozen=True, order=True)
class HeadId:
    """One head of a bag: its seed, and its part: the fold that it has not seen, or the group that it is trained on."""

    seed: int
    fold: int

    def __str__(self) -> str:
        """The head's file name without its suffix."""
        return f"seed{self.seed}-fold{self.fold}"


@dataclass(frozen=True, eq=False)
class History:
    """Mean losses and accuracies of each epoch, (epochs, H) float32 each, but for `best_epoch`.

    Attributes:
        loss, accuracy: over the epoch's training batches, as the weights were at each step: with dropout, and with
            label smoothing where there is any.
        seen_loss, seen_accuracy: after the epoch, without dropout, on some of the plain training rows
            (`featcache.training.heads.evaluation.SEEN_ROWS`): what to compare those of the fold with.
        fold_loss, fold_accuracy: after the epoch, without dropout, on rows of the head's own fold, or of other groups.
        best_epoch: (H,) int32, the epoch whose weights the head has, from 0.
    """

    loss: Float32s
    accuracy: Float32s
    seen_loss: Float32s
    seen_accuracy: Float32s
    fold_loss: Float32s
    fold_accuracy: Float32s
    best_epoch: npt.NDArray[np.int32]

    def mappings(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, eq=False)
class Bag:
    """H trained heads on one tap.

    Attributes:
        plan: how they were trained.
        tap_shape: (h, w, c) or (c,): one row's features before they are flattened.
        heads: H ids, seed by seed, fold by fold.
        weights: the stacked weights, see `featcache.training.heads.forward`.
        seen_classes: (H, C) bool, whether the head was trained on any row of the class.
        history: the epochs.
    """

    plan: HeadPlan
    tap_shape: tuple[int, ...]
    heads: tuple[HeadId, ...]
    weights: Weights
    seen_classes: npt.NDArray[np.bool_]
    history: History = field(repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of `member_predictions`."""
        return tuple(dict.fromkeys(head.seed for head in self.heads))

    def of_seeds(self, seeds: Collection[int]) -> "Bag":
        """Return the bag of these seeds alone, in the bag's own order."""
        heads = [number for number, head in enumerate(self.heads) if head.seed in seeds]
        return Bag(
            self.plan,
            self.tap_shape,
            tuple(self.heads[number] for number in heads),
            {name: array[heads] for name, array in self.weights.items()},
            self.seen_classes[heads],
            History(**{name: array[..., heads] for name, array in self.history.mappings().items()}),
        )

    def predict(self, features: npt.NDArray[Any]) -> Float32s:
        """Return (H, n, C) float32 probabilities of `features` (n, h, w, c) or (n, c), read block by block.

        Raises:
            TrainingError: the features have another shape than those trained on; from the other methods, too.
        """
        return self._joined(self._parts(features), len(self.heads), len(features))

    def member_predictions(self, features: npt.NDArray[Any]) -> Float32s:
        """Return (seeds, n, C) float32: the mean over each seed's heads, one of each fold or group.

        The probability of a class that some heads have never seen is the mean over the others, and all are brought to
        the sum 1 again.
        """
        return self._joined(self.member_parts(features), len(self.seeds), len(features))

    def member_parts(self, features: npt.NDArray[Any]) -> Iterator[tuple[slice, Float32s]]:
        """Yield (rows, (seeds, b, C)): what `member_predictions` returns, some rows at a time."""
        by_seed = [[i for i, head in enumerate(self.heads) if head.seed == seed] for seed in self.seeds]
        for rows, block in self._parts(features):  # every head's predictions of all rows would be many times as much
            yield rows, np.stack([self._mean(block[heads], self.seen_classes[heads]) for heads in by_seed])

    def _parts(self, features: npt.NDArray[Any]) -> Iterator[tuple[slice, Float32s]]:
        """Yield (rows, (H, b, C) float32) over all rows."""
        if tuple(features.shape[1:]) != self.tap_shape:
            raise TrainingError(
                f"features of shape={tuple(features.shape[1:])} don't fit heads that were trained on "
                f"{self.tap_shape}: train the heads again"
            )
        width = self.plan.features + len(self.heads) * max((*self.plan.hidden, self.plan.classes))
        for start, block in blocks(features, width):
            yield slice(start, start + len(block)), forward(self.weights, block, len(self.plan.hidden))

    def _joined(self, parts: Iterator[tuple[slice, Float32s]], count: int, rows: int) -> Float32s:
        whole = np.empty((count, rows, self.plan.classes), np.float32)
        for some, block in parts:
            whole[:, some] = block
        return whole

    @staticmethod
    def _mean(probabilities: Float32s, seen: npt.NDArray[np.bool_]) -> Float32s:
        if seen.all():
            mean: Float32s = probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
            return mean
        return normalize(np.einsum("hnc,hc->nc", probabilities, seen / np.maximum(seen.sum(axis=0), 1)))


@dataclass(frozen=True, eq=False)
class TrainedBag(Bag):
    """A bag as it comes from training, with (seeds, n, C) `out_of_fold`.

    Each training row by the heads that haven't seen its fold (or group); NaN for rows without one.
    """

    out_of_fold: Float32s


def write_bag(bag: Bag, path: Path) -> None:
    """Write the bag's arrays as one NumPy archive; the same bag gives the same bytes."""
    plan = {**bag.plan.settings(), "tap_shape": list(bag.tap_shape)}
    header = {"schema": _SCHEMA, "plan": plan, "heads": [[head.seed, head.fold] for head in bag.heads]}
    arrays: dict[str, npt.NDArray[Any]] = {f"weights/{name}": array for name, array in bag.weights.items()}
    arrays |= {f"history/{_STORED_NAMES.get(name, name)}": array for name, array in bag.history.mappings().items()}
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    np.savez(path, allow_pickle=False, header=text, knows=bag.seen_classes, **arrays)


def load_bag(folder: Path) -> Bag:
    """Read the bag that `featcache.training.heads.keras_models.save_bag` wrote to `folder`.

    Raises:
        CacheFormatError: there is none, or it is damaged.
    """
    path = folder / BAG_FILE
    try:
        with open(path, "rb", opener=regular) as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            others = {"header", "out_of_fold"}  # the latter in older bags
            arrays = {name: archive[name] for name in archive.files if name not in others}
        return _bag(header, arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise CacheFormatError(f"{path} is no sound bag of heads: {error}: run TrainHeads with --rerun") from error


def _bag(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Bag:
    if header["schema"] != _SCHEMA:
        raise ValueError(f"schema={header['schema']!r} is not the expected {_SCHEMA}")
    plan = dict(header["plan"])
    tap_shape = tuple(plan.pop("tap_shape"))
    for name in ("training_version", "variants"):  # the latter in older bags, always empty
        plan.pop(name, None)
    for name in ("hidden", "dropouts"):
        plan[name] = tuple(plan[name])
    plan["schedule"] = tuple(Phase(*phase) for phase in plan["schedule"])
    weights = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("weights/")}
    history = {each.name: arrays[f"history/{_STORED_NAMES.get(each.name, each.name)}"] for each in fields(History)}
    heads = tuple(HeadId(seed, fold) for seed, fold in header["heads"])
    return Bag(HeadPlan(**plan), tap_shape, heads, weights, arrays["knows"], History(**history))
