"""`CompareBackbones`: which rows, what is recorded and shown, and rows that the run reuses. Features are NumPy's."""

import json

import numpy as np
import pytest
from projects import small_project

import featcache.stages.features
from featcache.cache.reader import open_cache
from featcache.cli import main
from featcache.core.rows import Rows
from featcache.features.devices import processor
from featcache.settings.parsing import parse_settings
from featcache.stages.comparison import some_rows

SEEN = []


class NumpyBackbone:
    """Features of ``vgg16`` are the images' colours, those of others noise."""

    batch_size = 64
    device = processor()

    def __init__(self, backbone, progress):
        self.taps = {tap.name: (8,) for tap in backbone.spec.taps}
        self.name = backbone.spec.backbone

    def forward(self, images):
        SEEN.append(len(images))
        noise = np.random.default_rng(images[:, ::7].astype(np.int64).sum()).normal(0, 1, (len(images), 8))
        means = images.mean(axis=(1, 2)).repeat(3, axis=1)[:, :8] / 50 if self.name == "vgg16" else 0
        return dict.fromkeys(self.taps, (noise + means).astype(np.float16))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
    SEEN.clear()
    project = small_project(tmp_path)
    del project.settings["Features"]["taps"]
    project.set("Heads", hidden="4", schedule="1e-2x1", seeds="1")
    project.set("Compare", backbones="resnet50, vgg16@48", rows="12")
    return project


def test_a_comparison_ranks_backbones_and_its_rows_are_reused(project, capsys):
    assert project.run("CompareBackbones") == ["IndexImages", "CompareBackbones"]
    record = json.loads((project.artifacts / "compare/compare.json").read_text())
    best, other = record["entries"]
    assert [best["backbone"], other["backbone"]] == ["vgg16@48", "resnet50@32"]
    assert best["log_loss"] < other["log_loss"]
    assert (best["kept"], best["adds"], best["joint_log_loss"]) == (True, None, best["log_loss"])
    assert other["adds"] == pytest.approx(best["log_loss"] - other["joint_log_loss"])
    assert other["kept"] == (other["adds"] > 0)
    assert best["row_bytes"] == 6 * 8 * 2
    assert best["hours"] == pytest.approx(33 / best["images_per_second"] / 3600)
    assert record["setting"].startswith("vgg16@48")
    shown = capsys.readouterr().out
    assert f"backbone = {record['setting']}" in shown
    assert "weights = random" in shown
    assert SEEN == [12, 12]

    assert project.run("CompareBackbones") == []
    words = [
        f"--set={section}.{key}={value}" for section, own in project.settings.items() for key, value in own.items()
    ]
    project.set("Features", backbone="vgg16@48")
    assert "ExtractFeatures" in project.run("ExtractFeatures")
    assert sum(SEEN) == 24 + 24 - 12 + 9, "rows of the comparison are copied"
    run = open_cache(next(project.artifacts.glob("features/train-*-vgg16-*.h5"))).run
    assert (run["copied"], run["computed"]) == (12, 12)

    capsys.readouterr()
    words[words.index("--set=Features.image_size=32")] = "--set=Features.backbone=vgg16@48"
    words.append("--set=Features.image_size=32")
    assert main(["gc", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == []
    assert main(["gc", "--json", *(word for word in words if "Compare" not in word)]) == 0
    found = json.loads(capsys.readouterr().out)["items"]
    assert {(item["kind"], item["path"].rpartition("/features/")[0][-7:]) for item in found} == {("cache", "compare")}
    assert len(found) == 2


def test_without_backbones_it_says_what_to_write(project, capsys):
    project.set("Compare", backbones="")
    project.run("CompareBackbones")
    assert not project.succeeded


def test_weights_and_taps_are_those_of_features_where_it_has_them():
    texts = {"backbone": "vgg16, own.keras", "weights": "v.h5, auto", "taps": "vgg16/block1_pool", "image_size": "64"}
    compared = parse_settings(
        {"Features": texts, "Compare": {"backbones": "vgg16, vgg16@96, resnet50, own.keras"}}
    ).compare
    assert [spec.weights for spec in compared.backbones] == ["v.h5", "v.h5", "auto", "auto"]
    assert [len(spec.taps) for spec in compared.backbones] == [1, 6, 1, 1]
    random = parse_settings(
        {"Features": {"weights": "random"}, "Compare": {"backbones": "resnet50, own.keras"}}
    ).compare
    assert [spec.weights for spec in random.backbones] == ["random", "auto"]


def test_rows_are_drawn_evenly_of_every_class_and_cases_stay_whole():
    labels = np.repeat([0, 1, 2], [80, 16, 4]).astype(np.int32)
    ids = [f"{number:03}" for number in range(100)]
    rows = Rows(
        ids, labels, [""] * 100, [f"d{number}" for number in ids], ["", "bad"] + [""] * 98, [f"at/{i}" for i in ids]
    )
    some = some_rows(rows, 50)
    assert np.bincount(some.labels).tolist() == [39, 7, 4]
    assert "001" not in some.ids
    assert [f"d{number}" for number in some.ids] == list(some.digests)
    assert some_rows(rows, 50).ids == some.ids
    assert len(some_rows(rows, 1000)) == 99
    cases = Rows(
        ids, labels, rows.groups, rows.digests, rows.reasons, rows.locations, [f"c{i // 4}" for i in range(100)]
    )
    drawn = some_rows(cases, 40)
    assert {case: drawn.cases.count(case) for case in drawn.cases} == {case: 4 - (case == "c0") for case in drawn.cases}
