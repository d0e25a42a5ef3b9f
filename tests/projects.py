"""A small project in a folder of its own, run by Luigi in this process; says which stages really worked."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import luigi
import numpy as np
from luigi.task_register import Register
from PIL import Image

import pipeline
from featcache.dataset.manifest import Manifest
from featcache.ensemble.ensemble import Ensemble
from featcache.training.predictions import Predictions
from pipeline import config, stage_progress

CLASSES = {"disc": (200, 60, 60), "square": (60, 200, 60), "triangle": (60, 60, 200)}


def write_image(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a 40x36 PNG: noise around one colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (36, 40, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)


def write_photos(folder: Path, train: int = 8, test: int = 3) -> Path:
    """Write `train` images a class below ``train/<class>`` and `test` a class, flat, below ``test``."""
    for number, (name, colour) in enumerate(CLASSES.items()):
        for i in range(train):
            write_image(folder / "train" / name / f"{i}.png", colour, 100 * number + i)
        for i in range(test):
            write_image(folder / "test" / f"{name}-{i}.png", colour, 1000 + 100 * number + i)
    return folder


@dataclasses.dataclass
class LuigiProject:
    """Settings as luigi.cfg would have them, and a way to run stages under them."""

    folder: Path
    settings: dict[str, dict[str, str]]
    exit_code: int = 0

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts" / "photos"

    def set(self, section: str, **values: str) -> None:
        self.settings.setdefault(section, {}).update(values)

    @contextlib.contextmanager
    def in_force(self):
        """Luigi's configuration holds these settings, and nothing is remembered from before."""
        configuration = luigi.configuration.get_config()
        for section in config.SECTIONS:
            configuration.remove_section(section)
        for section, values in self.settings.items():
            for key, value in values.items():
                configuration.set(section, key, value)
        Register.clear_instance_cache()
        config.forget_projects()
        try:
            yield
        finally:
            for section in config.SECTIONS:
                configuration.remove_section(section)
            Register.clear_instance_cache()
            config.forget_projects()

    def run(self, stage: str = "Submit", **parameters: object) -> list[str]:
        """Run a stage and everything it needs; return the families of the stages that worked, in order."""
        worked: list[str] = []
        result = stage_progress.StageProgress.result

        def note(progress: stage_progress.StageProgress, line: str) -> None:
            worked.append(progress.task.task_family)
            result(progress, line)

        stage_progress.StageProgress.result = note
        try:
            with self.in_force():
                # else all sections are read again at every question, which is half of a small run
                config.keep_project(config.current_project())
                task = getattr(pipeline, stage)(**parameters)
                outcome = luigi.build([task], local_scheduler=True, detailed_summary=True, log_level="ERROR", workers=1)
        finally:
            stage_progress.StageProgress.result = result
        self.succeeded = outcome.scheduling_succeeded and outcome.status.name == "SUCCESS"
        return worked


def small_project(folder: Path) -> LuigiProject:
    """Photos in three colours, VGG16's first block with random weights as backbone, two small heads a fold."""
    write_photos(folder / "photos")
    return LuigiProject(folder, _settings(folder))


def copied_project(finished: LuigiProject, folder: Path) -> LuigiProject:
    """A copy of a small project as it stands; neither the artifacts' nor the images' place is part of any key."""
    shutil.copytree(finished.folder, folder)
    return LuigiProject(folder, _settings(folder))


def _settings(folder: Path) -> dict[str, dict[str, str]]:
    return {
        "Dataset": {"name": "photos", "source": "folder", "path": str(folder / "photos")},
        "Features": {
            "weights": "random", "taps": "block1_pool:avg", "image_size": "32", "precision": "float32",
        },
        "Heads": {"preset": "fast", "hidden": "8", "schedule": "1e-2x2", "seeds": "2", "folds": "2"},
        "Report": {"enabled": "false"},  # test_pipeline_report.py and test_report_page.py have one
        "Paths": {"artifacts": str(folder / "artifacts")},
    }  # fmt: skip


def stored_predictions(project: LuigiProject, record: str = "predictions/test-*/predictions.json") -> Predictions:
    """The predictions that the newest record of this pattern is of."""
    path = newest(project, record)
    key = json.loads(path.read_text())["predictions"]["rows"]
    splits = Manifest.load(project.artifacts).splits.values()
    return Predictions.load(path, next(rows for rows in splits if rows.key == key))


def stored_ensemble(project: LuigiProject) -> Ensemble:
    """The ensemble that was built last."""
    return Ensemble.load(newest(project, "ensembles/*/ensemble.json"))


def newest(project: LuigiProject, pattern: str) -> Path:
    """The file of this pattern that was written last."""
    return max(project.artifacts.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def flags(project):
    """A project's settings as a command takes them."""
    values = [(f"{s}.{key}={text}") for s, section in project.settings.items() for key, text in section.items()]
    return [word for value in values for word in ("--set", value)]
