"""Rows with several labels from a table to feature caches and what looks into these; a backbone of NumPy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from means_backbone import Means
from projects import write_image

import featcache
from featcache import stages
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.inspection.staleness import cached_rows_changed
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings
from featcache.stages.preflight import check_heads

TAGS = ["red", "red blue", "blue", "", "red green", "green blue"] * 2
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    for row, tags in enumerate([*TAGS, "", ""]):
        colour = np.sum([(0, 0, 0), *(COLOURS[tag] for tag in tags.split())], axis=0)
        write_image(folder / f"images/{row}.png", tuple(colour), row)
    (folder / "images/2.png").write_bytes(b"no image")
    lines = [f"{row},{tags}" for row, tags in enumerate(TAGS)]
    (folder / "train.csv").write_text("\n".join(["id,tags", *lines, ""]))
    (folder / "test.csv").write_text("id\n12\n13\n")
    own = {"name": "flags", "source": "table", "path": str(folder), "table": "train.csv", "label": "tags"}
    own |= {"separator": "blank", "test": "test.csv"}
    features = {"weights": "random", "taps": "block1_pool:avg", "image_size": "32", "precision": "float32"}
    paths = {"artifacts": str(folder / "artifacts")}
    made = Project(parse_settings({"Dataset": own, "Features": features, "Paths": paths}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.stages.features.resolved_backbone", lambda backbone, _: Means(backbone))
        assert stages.index_images(made, Silent()) == "3 labels · train 12 · test 2 · 3 rejected"
        stages.resolve_features(made, Silent())
        for split in ("train", "test"):
            stages.extract_split(made, split, Silent())
        stages.finish_features(made, Silent())
    return made


@pytest.fixture
def train(project):
    return project.backbones[0].cache("train", 0).path


def test_the_caches(project, train):
    manifest, reader = Manifest.load(project.folder), featcache.open(train)
    assert reader.several
    assert reader.class_names == ("blue", "green", "red")
    assert reader.labels.tolist()[:4] == [[0, 0, 1], [1, 0, 1], [1, 0, 0], [-1, -1, -1]]
    assert reader.labels.tolist() == manifest.splits["train"].labels.tolist()
    assert np.flatnonzero(reader.status != 1).tolist() == [2, 3, 9]
    assert featcache.open(project.backbones[0].cache("test", 0).path).labels.tolist() == [[-1] * 3] * 2
    assert "train,3,it has no label" in (project.folder / "rejected.csv").read_text()
    assert len(check_heads(project)) == 0 or check_heads(project)[0].startswith("folds=")


def test_what_became_of_the_labels(project, train):
    reader, manifest = featcache.open(train), Manifest.load(project.folder)
    assert not cached_rows_changed(reader, manifest)
    rows = manifest.splits["train"]
    labels = rows.labels.copy()
    labels[0, 0] = 1
    changed = replace(manifest, splits={**manifest.splits, "train": replace(rows, labels=labels)})
    assert cached_rows_changed(reader, changed) == "Manifest: 1 relabelled"


def test_the_commands(project, train, capsys, tmp_path):
    def said(*arguments):
        assert main([*arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "blue|red" in said("show", str(train))
    rows = json.loads(said("show", str(train), "--json"))["first_rows"]
    assert [row["labels"] for row in rows[:4]] == [["red"], ["blue", "red"], ["blue"], None]
    assert "blue|red" in said("neighbours", str(train), "1")
    said("export", str(train), str(tmp_path / "npy"))
    assert np.load(tmp_path / "npy/labels.npy").shape == (12, 3)
    said("pca", str(train), "--csv", str(tmp_path / "pca.csv"))
    assert "1,1,blue|red," in Path(tmp_path / "pca.csv").read_text()
    said("verify", str(train.parent))
