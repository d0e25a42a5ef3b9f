"""A bag of trained heads: its predictions, and its file. NumPy only."""

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.disk import replacing_folder
from featcache.core.json_records import write_json
from featcache.core.paths import regular
from featcache.errors import CacheFormatError
from featcache.settings import Phase
from featcache.training.heads.forward import Float32s, Weights, blocks, forward, normalize
from featcache.training.heads.inputs import Features, HeadInput
from featcache.training.heads.presets import HeadPlan
from featcache.training.predictions import RECORDED, Predictions

BAG_FILE = "bag.npz"
RECORD_FILE = "bag.json"
_SCHEMA = 3
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
    """Mean losses and accuracies of each epoch, or step of a linear member's path, (epochs, H) float32, but for `best_epoch`.

    Attributes:
        loss, accuracy: over the epoch's training batches, as the weights were at each step: with dropout, and with
            label smoothing where there is any.
        seen_loss, seen_accuracy: after the epoch, without dropout, on some of the plain training rows
            (`featcache.training.heads.evaluation.SEEN_ROWS`): what to compare those of the fold with.
        fold_loss, fold_accuracy: after the epoch, without dropout, on rows of the head's own fold, or of other groups; the
            loss of a path's step is that of the other folds, by which the step is chosen.
        best_epoch: (H,) int32, the epoch whose weights the head has, from 0.
    """

    loss: Float32s
    accuracy: Float32s
    seen_loss: Float32s
    seen_accuracy: Float32s
    fold_loss: Float32s
    fold_accuracy: Float32s
    best_epoch: npt.NDArray[np.int32]

    @classmethod
    def of_path(cls, fold_loss: Float32s, chosen: npt.NDArray[np.int32]) -> "History":
        """Of a path's (steps, H) losses out of fold and each part's `chosen` step; NaN where nothing is computed."""
        unknown = np.full_like(fold_loss, np.nan)
        return cls(unknown, unknown, unknown, unknown, fold_loss, unknown, chosen)

    def mappings(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, eq=False)
class Bag:
    """H trained heads on one input.

    Attributes:
        plan: how they were trained.
        seen_as: the taps that they look at, and how features are normalised.
        heads: H ids, seed by seed, fold by fold.
        weights: the stacked weights, see `featcache.training.heads.forward`.
        seen_classes: (H, C) bool, whether the head was trained on any row of the class.
        history: the epochs.
    """

    plan: HeadPlan
    seen_as: HeadInput
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
            self.seen_as,
            tuple(self.heads[number] for number in heads),
            {name: array[heads] for name, array in self.weights.items()},
            self.seen_classes[heads],
            History(**{name: array[..., heads] for name, array in self.history.mappings().items()}),
        )

    def predict(self, features: Features) -> Float32s:
        """Return (H, n, C) float32 probabilities of `features`, tap name -> (n, ...), read block by block.

        Raises:
            TrainingError: the features lack a tap, or one has another shape than in training; from the other methods, too.
        """
        return self._joined(self._parts(features), len(self.heads), len(self.seen_as.rows(features)))

    def member_predictions(self, features: Features) -> Float32s:
        """Return (seeds, n, C) float32: the mean over each seed's heads, one of each fold or group.

        The probability of a class that some heads have never seen is the mean over the others, and all are brought to
        the sum 1 again.
        """
        return self._joined(self.member_parts(features), len(self.seeds), len(self.seen_as.rows(features)))

    def member_parts(self, features: Features) -> Iterator[tuple[slice, Float32s]]:
        """Yield (rows, (seeds, b, C)): what `member_predictions` returns, some rows at a time."""
        by_seed = [[i for i, head in enumerate(self.heads) if head.seed == seed] for seed in self.seeds]
        for rows, block in self._parts(features):  # every head's predictions of all rows would be many times as much
            yield rows, np.stack([self._mean(block[heads], self.seen_classes[heads]) for heads in by_seed])

    def _parts(self, features: Features) -> Iterator[tuple[slice, Float32s]]:
        """Yield (rows, (H, b, C) float32) over all rows."""
        width = self.plan.features + len(self.heads) * max((*self.plan.hidden, self.plan.classes))
        for start, block in blocks(self.seen_as.rows(features), width):
            yield slice(start, start + len(block)), self._forward(block)

    def _forward(self, block: Float32s) -> Float32s:
        return forward(self.weights, block, len(self.plan.hidden), several=self.plan.several)

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
    taps = [[tap, list(shape)] for tap, shape in bag.seen_as.taps.items()]
    heads = [[head.seed, head.fold] for head in bag.heads]
    header = {"schema": _SCHEMA, "plan": bag.plan.settings(), "taps": taps, "heads": heads}
    arrays: dict[str, npt.NDArray[Any]] = {f"weights/{name}": array for name, array in bag.weights.items()}
    arrays |= {f"history/{_STORED_NAMES.get(name, name)}": array for name, array in bag.history.mappings().items()}
    if bag.seen_as.mean is not None and bag.seen_as.scale is not None:
        arrays |= {"input/mean": bag.seen_as.mean, "input/scale": bag.seen_as.scale}
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    np.savez(path, allow_pickle=False, header=text, knows=bag.seen_classes, **arrays)


def save_bag(
    bag: Bag, folder: Path, record: Mapping[str, object] | None = None, out_of_fold: Predictions | None = None
) -> None:
    """Replace `folder` by the bag, ``bag.npz``.

    With `record`, the stage's facts, its ``key`` above all, go into ``bag.json``; with `out_of_fold`, the members'
    predictions go into ``out_of_fold.npy``.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with replacing_folder(folder) as temporary:
        write_bag(bag, temporary / BAG_FILE)
        recorded = {RECORDED: out_of_fold.save(temporary)} if out_of_fold is not None else {}
        files = {path.name: path.stat().st_size for path in temporary.iterdir()}
        write_json(temporary / RECORD_FILE, {**(record or {}), **recorded, "files": files})


def load_bag(folder: Path) -> Bag:
    """Read the bag that `save_bag` wrote to `folder`.

    Raises:
        CacheFormatError: there is none, or it is damaged.
    """
    path = folder / BAG_FILE
    try:
        with open(path, "rb", opener=regular) as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            arrays = {name: archive[name] for name in archive.files if name != "header"}
        return _bag(header, arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise CacheFormatError(f"{path} is no sound bag of heads: {error}: run TrainHeads with --rerun") from error


def _bag(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Bag:
    if header["schema"] != _SCHEMA:
        raise ValueError(f"schema={header['schema']!r} is not the expected {_SCHEMA}")
    plan = dict(header["plan"])
    plan.pop("training_version")
    taps = {str(tap): tuple(shape) for tap, shape in header["taps"]}
    seen_as = HeadInput(taps, arrays.get("input/mean"), arrays.get("input/scale"))
    for name in ("hidden", "dropouts"):
        plan[name] = tuple(plan[name])
    plan["schedule"] = tuple(Phase(*phase) for phase in plan["schedule"])
    weights = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("weights/")}
    history = {each.name: arrays[f"history/{_STORED_NAMES.get(each.name, each.name)}"] for each in fields(History)}
    heads = tuple(HeadId(seed, fold) for seed, fold in header["heads"])
    return Bag(HeadPlan(**plan), seen_as, heads, weights, arrays["knows"], History(**history))
