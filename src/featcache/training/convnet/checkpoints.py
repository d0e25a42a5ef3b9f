"""The folder of one member's networks, one a fold: what is finished in it is never lost. No Keras.

While it is made it is called ``<name>.partial``. There each finished fold has its model and, written after it, its own
record, and each fold at work a checkpoint. It gets its name when all folds are done.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


class Savable(Protocol):
    """A Keras model, as far as this module knows it."""

    def save(self, filepath: Path) -> None:
        """Write the model as one file."""


def model_path(folder: Path, fold: int) -> Path:
    """Where the network that hasn't seen `fold` is."""
    return folder / f"fold{fold}.keras"


def model_paths(folder: Path) -> list[Path]:
    """The networks in a member's folder, fold by fold."""
    found = {int(match[1]): path for path in folder.glob("*.keras") if (match := _MODEL.fullmatch(path.name))}
    return [found[fold] for fold in sorted(found)]


@dataclass(frozen=True)
class PartialFolder:
    """A member's folder while it is made.

    Attributes:
        folder: what it will be called.
        key: what the member must carry; folds of another key are not its own.
    """

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """Where the unfinished work is."""
        return self.folder.with_name(self.folder.name + PARTIAL_SUFFIX)

    def begin(self, *, fresh: bool) -> None:
        """Make the folder; `fresh` throws away what an earlier try finished."""
        if fresh:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)

    def finished(self, fold: int) -> dict[str, list[float]] | None:
        """The history of a fold that is done, None for one that isn't."""
        record: dict[str, Any] = read_json(self._record(fold)) or {}
        model = model_path(self.path, fold)
        sound = record.get("key") == self.key and is_file(model) and model.stat().st_size == record.get("bytes")
        return dict(record["history"]) if sound else None

    def finish(self, fold: int, model: Savable, history: EpochRecord) -> None:
        """Keep a fold's network; only its record, written last, makes it count.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        path = model_path(self.path, fold)
        with replacing(path) as temporary:
            model.save(temporary)
        write_json(self._record(fold), {"key": self.key, "bytes": path.stat().st_size, "history": history})
        self._checkpoint(fold).unlink(missing_ok=True)

    def keep(self, fold: int, state: State, history: EpochRecord) -> None:
        """Replace the fold's checkpoint by its state now.

        Raises:
            StorageError: the disk is full, read-only or not permitted.
        """
        about = json.dumps({"key": self.key, "fold": fold, "history": history})
        with replacing(self._checkpoint(fold)) as temporary:
            np.savez(
                temporary,
                allow_pickle=False,
                about=np.array(about),
                **{f"{i:04}": value for i, value in enumerate(state)},
            )

    def kept(self, fold: int) -> tuple[list[npt.NDArray[Any]], dict[str, list[float]]] | None:
        """The state and history that `keep` left of this fold; None where there is none, or it is damaged."""
        try:
            with (
                open(self._checkpoint(fold), "rb", opener=regular) as stream,
                np.load(stream, allow_pickle=False) as archive,
            ):
                about = json.loads(str(archive["about"]))
                if (about["key"], about["fold"]) != (self.key, fold):
                    return None
                return [archive[name] for name in sorted(archive.files) if name != "about"], about["history"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def publish(self, record: Mapping[str, object], out_of_fold: Predictions) -> None:
        """Add out-of-fold predictions and the record, and give the folder its name, replacing what has it.

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

    def _record(self, fold: int) -> Path:
        return self.path / f"fold{fold}.json"

    def _checkpoint(self, fold: int) -> Path:
        return self.path / f"checkpoint{fold}.npz"
