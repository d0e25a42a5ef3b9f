"""The folder of one member's convnets, one a fold: a finished fold is never lost. No Keras.

Until all folds are done it is called ``<name>.partial``. Each finished fold has its model there and, written after it,
its record; each fold in training has a checkpoint.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.disk import replace_folder, replacing, storage_errors
from featcache.core.json_records import read_json, write_json
from featcache.core.paths import is_file, regular
from featcache.training.predictions import RECORDED, Predictions

RECORD_FILE = "convnet.json"
PARTIAL_SUFFIX = ".partial"
_MODEL = re.compile(r"fold(\d+)\.keras")

State = Sequence[npt.NDArray[Any]]
EpochRecord = Mapping[str, Sequence[float]]


def model_path(folder: Path, fold: int) -> Path:
    """Where the convnet that was trained without `fold` is."""
    return folder / f"fold{fold}.keras"


def model_paths(folder: Path) -> list[Path]:
    """The convnets in a member's folder, fold by fold."""
    found = {int(match[1]): path for path in folder.glob("*.keras") if (match := _MODEL.fullmatch(path.name))}
    return [found[fold] for fold in sorted(found)]


@dataclass(frozen=True)
class Checkpoint:
    """A training that is not finished, as one file: all variables, optimizer included, and the epochs so far.

    A checkpoint of another `key` than the member's does not count.
    """

    path: Path
    key: str

    def save(self, state: State, history: EpochRecord) -> None:
        """Replace the file.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        about = np.array(json.dumps({"key": self.key, "history": history}))
        arrays: dict[str, Any] = {f"{number:04}": value for number, value in enumerate(state)}
        with replacing(self.path) as temporary:
            np.savez(temporary, about=about, **arrays)

    def load(self) -> tuple[list[npt.NDArray[Any]], dict[str, list[float]]] | None:
        """What `save` wrote; None where there is nothing, or it is damaged."""
        try:
            with open(self.path, "rb", opener=regular) as stream, np.load(stream, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
                if about["key"] != self.key:
                    return None
                return [archive[name] for name in sorted(archive.files) if name != "about"], about["history"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None


@dataclass(frozen=True)
class PartialFolder:
    """A member's `folder`, by its final name, until it is complete; folds of another `key` do not count."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """Where it is until then."""
        return self.folder.with_name(self.folder.name + PARTIAL_SUFFIX)

    def begin(self, *, fresh: bool) -> None:
        """Make the folder; `fresh` removes what an earlier run finished."""
        if fresh:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, fold: int) -> Checkpoint:
        """The checkpoint of a fold in training."""
        return Checkpoint(self.path / f"checkpoint{fold}.npz", self.key)

    def finished(self, fold: int) -> dict[str, list[float]] | None:
        """The history of a finished fold, None for any other."""
        model = model_path(self.path, fold)
        record: dict[str, Any] = read_json(model.with_suffix(".json")) or {}
        sound = record.get("key") == self.key and is_file(model) and model.stat().st_size == record.get("bytes")
        return dict(record["history"]) if sound else None

    def finish(self, fold: int, model: Any, history: EpochRecord) -> None:
        """Store a fold's Keras model; it counts once its record, written last, is there.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        path = model_path(self.path, fold)
        with replacing(path) as temporary:
            model.save(temporary)
        write_json(path.with_suffix(".json"), {"key": self.key, "bytes": path.stat().st_size, "history": history})
        self.checkpoint(fold).path.unlink(missing_ok=True)

    def publish(self, record: Mapping[str, object], out_of_fold: Predictions) -> None:
        """Add out-of-fold predictions and the record, and rename the folder, replacing an older one.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        with storage_errors(self.folder, "could not write"):
            recorded = {RECORDED: out_of_fold.save(self.path)}
            kept = [path for path in sorted(self.path.iterdir()) if path.suffix in (".keras", ".npy")]
            files = {path.name: path.stat().st_size for path in kept}
            write_json(self.path / RECORD_FILE, {**record, **recorded, "files": files})
            replace_folder(self.path, self.folder)
            # only now: a kill in between must find the records of the finished folds
            for path in set(self.folder.iterdir()) - {self.folder / name for name in (RECORD_FILE, *files)}:
                path.unlink()
