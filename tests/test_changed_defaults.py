"""Whoever has caches of a former default is told what today's costs, before it is computed."""

import json

import numpy as np
import pytest
from projects import small_project

import featcache.stages.features
from featcache.cli import main
from featcache.features.devices import processor
from featcache.inspection.changed_defaults import changed_defaults
from pipeline.config import current_project

BOTH = "taps from block5_pool to auto, image_size from 48 to auto (224)"
KEPT = "taps = block5_pool and image_size = 48 keep the old caches"


class NumpyBackbone:
    batch_size = 64
    device = processor()

    def __init__(self, project, progress):
        self.taps = {tap.name: (8,) for tap in project.spec.taps}

    def forward(self, images):
        return dict.fromkeys(self.taps, images[:, :8, 0, 0].astype(np.float32))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Caches as version 0.1 made them by default; the settings are those that nobody set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
    project = small_project(tmp_path / "project")
    project.set("Features", taps="block5_pool", image_size="48")
    project.run("ExtractFeatures")
    for key in ("taps", "image_size"):
        del project.settings["Features"][key]
    return project


def announced(project):
    with project.in_force():
        return changed_defaults(current_project())


def notices(project, capsys):
    capsys.readouterr()
    project.run("ExtractFeatures")
    assert project.succeeded
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("NOTICE: changed default")]


def test_the_run_says_it_once_before_the_work_and_the_line_that_it_names_keeps_the_caches(project, capsys):
    old = {path.name for path in (project.artifacts / "features").glob("*.h5")}
    (line,) = announced(project)
    assert line.startswith(f"changed defaults of [Features]: {BOTH}: features of 33 images are computed anew (at most ")
    assert line.endswith(f"; {KEPT}")
    assert notices(project, capsys) == [f"NOTICE: {line}"]
    assert announced(project) == [], "the new ones are there"
    assert notices(project, capsys) == []
    project.set("Features", taps="block5_pool", image_size="48")
    assert project.run("ExtractFeatures") == ["ExtractFeatures"], "of the old caches"
    assert old < {path.name for path in (project.artifacts / "features").glob("*.h5")}


def test_status_says_it(project, capsys):
    flags = [f"--set={s}.{key}={text}" for s, section in project.settings.items() for key, text in section.items()]
    assert main(["status", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == announced(project)[0]
    assert main(["status", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["changed_defaults"] == announced(project)


def test_only_the_key_that_nobody_set_is_named(project):
    project.set("Features", taps="block5_pool")
    (line,) = announced(project)
    assert "[Features]: image_size from 48 to auto (224): " in line
    assert line.endswith("; image_size = 48 keeps the old caches")
    project.settings["Features"].update(image_size="48", taps=" auto ")
    (line,) = announced(project)
    assert "[Features]: taps from block5_pool to auto: features of 33 images are computed anew (about " in line


@pytest.mark.parametrize(
    "values",
    [
        {"taps": "block5_pool", "image_size": "48"},
        {"taps": "block5_pool", "image_size": "224"},
        {"taps": "block4_pool:avg", "image_size": "48"},
        {"backbone": "vgg19"},
        {"backbone": "inceptionv3"},
    ],
    ids=str,
)
def test_who_set_it_sees_nothing(project, values):
    project.set("Features", **values)
    assert announced(project) == []


def test_the_recipe_has_its_tap_by_auto_too(project):
    project.set("Heads", preset="recipe", hidden="")
    (line,) = announced(project)
    assert "taps" not in line
    assert "[Features]: image_size from 48" in line


def test_a_new_project_sees_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
    project = small_project(tmp_path / "new")
    for key in ("taps", "image_size"):
        del project.settings["Features"][key]
    assert announced(project) == []
    assert notices(project, capsys) == []
