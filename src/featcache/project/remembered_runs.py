"""Runs that are remembered, in `runs/` of the artifacts: settings, scores, times, submission and out-of-fold probabilities.

A run has the key of its result, so one that changed nothing is not there twice.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from featcache.core import keys
from featcache.core.json_records import read_json
from featcache.core.texts import FixedTexts
from featcache.errors import CacheFormatError, SettingsError
from featcache.project.artifact import Artifact
from featcache.project.project import Project

RUNS = "runs"
RUN_FILE = "run.json"
ROWS_FILE = "out_of_fold.npz"


@dataclass(frozen=True, eq=False)
class RememberedRows:
    """The n training rows that a run was scored on, each predicted by what was fitted without its fold.

    Attributes:
        ids: n row ids.
        labels: as they were then, (n,) class indices, or (n, C) of 0 and 1 where a row may have several.
        predicted: what was decided for, in the same shape.
        probabilities: (n, C) float32 of the ensemble, rows sum to 1 but of several labels.
        groups: n texts, "" where there is none; empty where no row has one.
        class_names: C names.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.integer]
    predicted: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    groups: Sequence[str]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RememberedRun:
    """One run: the `folder` whose name it has, and its `record`, `RUN_FILE`."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Eight digits of its key."""
        return self.folder.name

    @cached_property
    def settings(self) -> Mapping[str, Mapping[str, str]]:
        """Section -> key -> text of every setting, defaults of then among them."""
        settings: Mapping[str, Mapping[str, str]] = self.record["settings"]
        return settings

    def needs(self) -> set[Path]:
        """Its own folder, and the artifacts that it is made of: files, and folders of results."""
        artifacts = self.folder.parents[1]
        return {self.folder, *(artifacts / name for name in self.record["needs"])}

    def rows(self) -> RememberedRows:
        """Read its out-of-fold predictions; a `CacheFormatError` where they are absent or damaged."""
        path = self.folder / ROWS_FILE
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            ids, groups = FixedTexts(arrays.pop("ids")), FixedTexts(arrays.pop("groups"))
            return RememberedRows(ids=ids, groups=groups, class_names=tuple(self.record["class_names"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError, BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            forget = f"featcache runs --forget {self.name}"
            raise CacheFormatError(f"{path}: these predictions can't be used: {reason}: {forget}") from error


def run_artifact(project: Project) -> Artifact:
    """What a run of `project` ends with, whose key is the run's: its submission, or without test images its ensemble."""
    return project.submission() if "test" in project.splits() else project.ensemble()


def run_folder(project: Project) -> Path:
    """Where the run of the settings in force is remembered, or would be."""
    return project.folder / RUNS / keys.short(run_artifact(project).key or "unknown")


def remembered_runs(project: Project) -> list[RememberedRun]:
    """Return all remembered runs, the newest first; folders without a sound record are passed over."""
    folders = (path.parent for path in (project.folder / RUNS).glob(f"[!.]*/{RUN_FILE}"))
    read = ((folder, read_json(folder / RUN_FILE)) for folder in folders)
    found = [RememberedRun(folder, record) for folder, record in read if record and "finished" in record]
    return sorted(found, key=lambda run: (str(run.record["finished"]), run.name), reverse=True)


def last_run(project: Project) -> RememberedRun | None:
    """Return the newest run that isn't the one of the settings in force, so that this one can be compared with it."""
    current = run_folder(project).name
    return next((run for run in remembered_runs(project) if run.name != current), None)


def find_run(project: Project, name: str) -> RememberedRun:
    """Return the run whose name begins with `name`; a `SettingsError` where that is none or several."""
    runs = remembered_runs(project)
    found = [run for run in runs if name and run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(run.name for run in runs) or "none"
    raise SettingsError(f"RUN={name!r} is {'several runs' if found else 'no run'} of {project.folder}; known: {known}")
