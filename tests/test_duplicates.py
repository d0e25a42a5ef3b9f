"""Images that are nearly the same: found by their features, listed, and kept in one fold where the settings say so."""

import json

import numpy as np
import pytest
from PIL import Image
from projects import small_project

import featcache.stages.features
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.errors import SettingsError
from featcache.features import processor
from featcache.inspection import twins
from featcache.settings.parsing import parse_settings
from featcache.training.predictions import Predictions
from pipeline.config import current_project


@pytest.mark.parametrize("block", [3, 2048])
def test_rows_are_joined_over_blocks_and_by_way_of_others(monkeypatch, block):
    monkeypatch.setattr(twins, "_BLOCK", block)
    angles = np.deg2rad([0, 90, 180, 10, 20, 91, 270])
    units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    first, alike = twins.joined_rows(units, Silent(), least=np.cos(np.deg2rad(11)))
    assert first.tolist() == [0, 1, 2, 0, 0, 1, 6], "0 and 20 degrees by way of 10"
    assert alike == pytest.approx(np.cos(np.deg2rad([10, 1, 90, 10, 10, 1, 90])), abs=1e-6)


def test_a_row_of_zeros_is_like_nothing():
    assert twins.joined_rows(np.zeros((3, 4)), Silent())[0].tolist() == [0, 1, 2]


def test_an_unknown_word_is_refused():
    with pytest.raises(SettingsError, match=r"\[Dataset\] near_duplicates='groups' is unknown, did you mean group"):
        parse_settings({"Dataset": {"near_duplicates": "groups"}})


class NumpyBackbone:
    """Features are the pixels of a corner: noise, which tells images apart."""

    batch_size = 64
    device = processor()

    def __init__(self, backbone, progress):
        self.taps = {tap.name: (192,) for tap in backbone.spec.taps}

    def forward(self, images):
        return dict.fromkeys(self.taps, images[:, :8, :8].reshape(len(images), -1).astype(np.float16))


def resaved(source, target):
    """The same photo as a JPEG: other bytes, nearly the same features."""
    Image.open(source).save(target, quality=98, subsampling=0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Four photos of each class are also there as JPEGs, one of them among the test images."""
    monkeypatch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
    project = small_project(tmp_path)
    photos = tmp_path / "photos"
    for name in ("disc", "square", "triangle"):
        for number in range(4):
            resaved(photos / f"train/{name}/{number}.png", photos / f"train/{name}/{number}-again.jpg")
    resaved(photos / "train/disc/5.png", photos / "test/leak.jpg")
    project.set("Heads", hidden="4", schedule="1e-2x1", seeds="1")
    project.set("Ensemble", method="mean")
    return project


def folds(project):
    with project.in_force():
        made = current_project()
        rows = Manifest.load(made.folder).splits["train"]
        return dict(zip(rows.ids, Predictions.load(made.bag(*made.bags()[0]).path, rows).folds.tolist(), strict=True))


def test_twins_are_found_listed_and_as_groups_enter_the_keys_of_folds_alone(project, capsys):
    first = project.run()
    assert "FindDuplicates" not in first, "without a report nobody asks"
    assert project.run("FindDuplicates") == ["FindDuplicates"]
    settings = [
        f"--set={section}.{key}={value}" for section, own in project.settings.items() for key, value in own.items()
    ]
    path = project.folder / "twins.csv"
    capsys.readouterr()
    assert main(["duplicates", "--json", f"--csv={path}", *settings]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["leaks"] == 1
    assert record["groups"][0]["leaks"]
    assert {"disc/5.png", "leak.jpg"} <= {each["id"] for each in record["groups"][0]["images"]}
    pairs = [{each["id"] for each in group["images"]} for group in record["groups"]]
    for name in ("disc/0", "square/1", "triangle/3"):
        assert any({f"{name}.png", f"{name}-again.jpg"} <= pair for pair in pairs)
    assert path.read_text().startswith("group,split,id,label,similarity,exact,leaks\n1,")

    before = folds(project)
    apart = [name for name in before if "again" in name and before[name] != before[name.replace("-again.jpg", ".png")]]
    assert apart, "twins straddle folds"
    with project.in_force():
        manifest, bag = current_project().manifest().key, current_project().bag(*current_project().bags()[0]).key
    project.set("Dataset", near_duplicates="group")
    worked = project.run()
    assert project.succeeded
    assert {*worked} == {"TrainBag", "BuildEnsemble", "PredictRows", "WriteSubmission"}
    after = folds(project)
    assert not [name for name in after if "again" in name and after[name] != after[name.replace("-again.jpg", ".png")]]
    with project.in_force():
        made = current_project()
        assert made.manifest().key == manifest
        assert made.bag(*made.bags()[0]).key != bag
    resaved(project.folder / "photos/train/square/6.png", project.folder / "photos/test/another.jpg")
    worked = project.run()
    assert "FindDuplicates" in worked
    assert "TrainBag" not in worked, "a test image is in no fold"
    assert project.run() == []


def test_ignored_they_are_not_looked_for(project, capsys):
    project.set("Dataset", near_duplicates="ignore")
    with project.in_force():
        assert "FindDuplicates" not in current_project().report().inputs["upstream"]
    settings = [
        f"--set={section}.{key}={value}" for section, own in project.settings.items() for key, value in own.items()
    ]
    project.run("IndexImages")
    assert main(["duplicates", *settings]) == 1
    assert "duplicates.json is missing, damaged or of other features: run luigi" in capsys.readouterr().err
