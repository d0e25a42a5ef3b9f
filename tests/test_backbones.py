"""Several backbones in one run: settings, keys, inputs, and whole runs that follow them. Features are NumPy's, but for one test."""

import json
import shutil

import numpy as np
import pytest
from projects import small_project, write_image

import featcache.stages.features
from featcache.cache.reader import open_cache
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.errors import BackboneError, SettingsError, WeightsUnavailableError
from featcache.features.devices import processor
from featcache.inference.predictor import Predictor
from featcache.project.project import Project
from featcache.report.provenance import settings_text
from featcache.settings.parsing import parse_settings
from featcache.settings.tap import Tap
from featcache.training.heads.inputs import fit_input, joined_inputs
from featcache.training.predictions import Predictions
from pipeline.config import current_project

TWO = {"backbone": "vgg16@32, resnet50", "taps": "vgg16/block1_pool:avg, resnet50/output:avg"}


class NumpyBackbone:
    batch_size = 64
    device = processor()

    def __init__(self, backbone, progress):
        self.side = backbone.spec.image_size
        self.taps = {tap.name: (8,) for tap in backbone.spec.taps}

    def forward(self, images):
        assert images.shape[1] == self.side
        means = images.mean(axis=(1, 2), dtype=np.float32)
        return dict.fromkeys(self.taps, np.concatenate([means, images[:, :5, 0, 0]], axis=1).astype(np.float16))


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(featcache.stages.features, "resolved_backbone", NumpyBackbone)
        patch.setattr("featcache.inference.predictor.resolved_backbone", NumpyBackbone)
        yield patch


@pytest.fixture(scope="module")
def joint(tmp_path_factory, patched):
    """A run with two backbones, of photos in three colours, and its report."""
    project = small_project(tmp_path_factory.mktemp("joint"))
    project.set("Features", **TWO)
    project.set("Heads", hidden="4", schedule="1e-2x1", seeds="1")
    project.set("Report", enabled="true")
    project.run()
    assert project.succeeded
    return project


def specs_of(**features):
    return parse_settings({"Features": {"image_size": "64", **features}}).backbones


def project_in(folder, **features):
    texts = {"image_size": "64", "weights": "random", "precision": "float32", **features}
    return Project(parse_settings({"Features": texts, "Paths": {"artifacts": str(folder)}}))


def test_a_list_of_backbones_is_a_spec_each():
    specs = specs_of(backbone="vgg16, VGG16@320, /some,where/my own.keras@96", mirror="true")
    assert [spec.label for spec in specs] == ["vgg16@64", "vgg16@320", "my_own@96"]
    assert [spec.backbone for spec in specs] == ["vgg16", "VGG16", "/some,where/my own.keras"]
    assert all(spec.mirror for spec in specs)
    assert [len(spec.taps) for spec in specs] == [6, 6, 1]


def test_one_backbone_may_have_its_size_behind_it():
    (spec,) = specs_of(backbone="resnet50@96", taps="resnet50/output")
    assert (spec.backbone, spec.image_size, spec.taps) == ("resnet50", 96, (Tap("output"),))


@pytest.mark.parametrize(
    ("weights", "backbone", "expected"),
    [
        ("auto", "vgg16, resnet50", ["auto", "auto"]),
        ("random", "vgg16, own.keras", ["random", "auto"]),
        ("v.h5, imagenet", "vgg16, resnet50", ["v.h5", "imagenet"]),
        ("v.h5", "vgg16, vgg16@96, own.keras", ["v.h5", "v.h5", "auto"]),
    ],
)
def test_weights_are_for_all_or_listed(weights, backbone, expected):
    assert [spec.weights for spec in specs_of(backbone=backbone, weights=weights)] == expected


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"backbone": "vgg16, resnet50", "weights": "v.h5"}, "v.h5' doesn't say which of 2 backbones.*v.h5, auto"),
        ({"backbone": "vgg16, resnet50", "weights": "auto, auto, auto"}, "doesn't say which of 2 backbones"),
        ({"backbone": "vgg16, resnet50", "taps": "block5_pool"}, "of 2 backbones.*vgg16@64/block5_pool"),
        ({"backbone": "vgg16, resnet50", "taps": "resnet/output"}, "is of no backbone, did you mean resnet50"),
        ({"backbone": "vgg16, VGG16@64"}, "names vgg16@64 twice"),
        ({"backbone": "a/own.keras, b/own.keras"}, "names own@64 twice"),
        ({"backbone": "vgg61, resnet50"}, "backbone='vgg61' is neither"),
        ({"backbone": "vgg16, resnet50@16"}, "image_size=16 is too small: ResNet50"),
        ({"backbone": "vgg16, own.keras", "weights": "auto, w.h5"}, "own.keras has its own weights"),
    ],
)
def test_what_cannot_be_meant_is_a_line_that_says_what_to_write(features, message):
    with pytest.raises((SettingsError, BackboneError), match=message):
        specs_of(**features)


def test_settings_as_text_are_the_same_settings():
    settings = parse_settings(
        {"Features": {"backbone": "vgg16@96, resnet50, own.keras", "weights": "random", "mirror": "true"}}
    )
    sections, section = {}, ""
    for line in settings_text(settings).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            key, _, value = line.partition("=")
            sections.setdefault(section, {})[key.strip()] = value.strip()
    assert parse_settings(sections).backbones == settings.backbones


def test_inputs_are_each_backbone_alone_and_all_side_by_side():
    pooled, flat = (Tap("a", "avg"), Tap("a", "max")), (Tap("b"),)
    assert joined_inputs({"": pooled}, joined=True) == {"pooled": ("a_avg", "a_max")}
    taps = {"x@1": pooled, "y@2": (Tap("c", "avg"), *flat)}
    assert joined_inputs(taps, joined=True) == {
        "x@1": ("x@1-a_avg", "x@1-a_max"),
        "y@2-c_avg": ("y@2-c_avg",),
        "y@2-b": ("y@2-b",),
        "x@1+y@2": ("x@1-a_avg", "x@1-a_max", "y@2-c_avg"),
    }
    assert joined_inputs({"x@1": flat, "y@2": flat}, joined=False) == {"x@1": ("x@1-b",), "y@2": ("y@2-b",)}


def test_backbones_side_by_side_count_the_same_whatever_their_widths():
    draw = np.random.default_rng(0)
    features = {"x-a": draw.gamma(1, 5, (50, 6)), "x-b": draw.gamma(1, 5, (50, 30)), "y-a": draw.normal(0, 1, (50, 4))}
    seen = fit_input([*features], [features], np.ones(50, bool), normalise=True, backbones=["x", "x", "y"])
    variances = seen.rows(features)[:].var(axis=0)
    assert variances[:36].sum() == pytest.approx(variances[36:].sum(), rel=1e-4)
    assert variances.mean() == pytest.approx(1, rel=1e-4)
    one, same = (
        fit_input(["x-a", "x-b"], [features], np.ones(50, bool), normalise=True, backbones=b) for b in ((), ["x", "x"])
    )
    assert np.array_equal(one.scale, same.scale)


def test_a_backbone_has_the_same_caches_alone_and_among_others(tmp_path):
    alone, several = project_in(tmp_path, backbone="resnet50@96"), project_in(tmp_path, backbone="vgg16, resnet50@96")
    mine, (_, same) = alone.backbones[0], several.backbones
    assert same.tap_keys(0) == mine.tap_keys(0)
    assert same.cache("train", 0).path == mine.cache("train", 0).path
    assert (mine.label, same.label) == ("", "resnet50@96")


def test_what_was_resolved_for_one_counts_among_several_and_back(tmp_path):
    texts = {"weights": "auto", "precision": "auto"}
    alone = project_in(tmp_path, backbone="vgg16", **texts).backbones[0]
    record = {"setting": "auto", "backbone": "vgg16", "kind": "imagenet", "digest": "d" * 64, "stat": None}
    alone.record_resolved("weights", record)
    alone.record_resolved("precision", {"setting": "auto", "value": "bfloat16"})
    first, second = project_in(tmp_path, backbone="vgg16, resnet50", **texts).backbones
    assert (first.weights_digest(), first.precision(), second.precision()) == ("d" * 64, "bfloat16", "bfloat16")
    assert second.weights_digest() is None
    second.record_resolved("weights", {**record, "backbone": "resnet50", "digest": "e" * 64})
    second.record_resolved("precision", {"setting": "auto", "value": "float32"})
    assert (second.weights_digest(), second.precision(), first.precision()) == ("e" * 64, "float32", "bfloat16")
    other = project_in(tmp_path, backbone="resnet50", **texts).backbones[0]
    assert (other.weights_digest(), alone.weights_digest()) == ("e" * 64, "d" * 64)
    assert list(json.loads((other.folder / "resolved.json").read_text())["backbones"]) == ["resnet50@64"]


def test_random_weights_that_one_backbone_came_to_do_not_count_among_several(tmp_path):
    alone = project_in(tmp_path, weights="auto").backbones[0]
    record = {"setting": "auto", "backbone": "vgg16", "kind": "random", "digest": "d" * 64, "stat": None}
    alone.record_resolved("weights", record)
    assert alone.weights_digest() == "d" * 64
    assert project_in(tmp_path, weights="auto", backbone="vgg16, resnet50").backbones[0].weights_digest() is None


def test_weights_that_cannot_be_had_are_an_error_that_names_their_backbone(tmp_path, monkeypatch):
    project = project_in(tmp_path, weights="auto", backbone="vgg16, resnet50")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("FEATCACHE_WEIGHTS_URL", "http://127.0.0.1:1")
    with pytest.raises(WeightsUnavailableError, match=r"ImageNet weights of VGG16.*leave vgg16@64 out"):
        featcache.stages.features._found_weights(project.backbones[0], None)


def test_a_run_has_members_of_each_backbone_and_of_both(joint):
    with joint.in_force():
        project = current_project()
        inputs = ["vgg16@32", "resnet50@32", "vgg16@32+resnet50@32"]
        assert list(project.inputs()) == inputs
        caches = {backbone.label: backbone.cache("train", 0).path for backbone in project.backbones}
        assert [open_cache(path).taps.keys() for path in caches.values()] == [{"block1_pool_avg"}, {"output_avg"}]
        record = project.bag(inputs[2], "linear").path
        members = json.loads(record.read_text())["predictions"]["members"]
        assert members == ["vgg16@32+resnet50@32/linear/seed0"]
        assert project.bags() == [
            *((name, kind) for name in inputs[:2] for kind in ("linear", "lda")),
            *((inputs[2], kind) for kind in ("fast", "linear", "lda")),
        ]
    assert list(json.loads((joint.artifacts / "resolved.json").read_text())["backbones"]) == list(caches)
    page = (joint.artifacts / "report/index.html").read_text()
    assert "vgg16@32+resnet50@32/linear/seed0" in page


@pytest.mark.parametrize("command", ["leaderboard", "status", "plan", "du", "gc"])
def test_commands_follow_both_backbones(joint, command, capsys):
    words = [f"--set={section}.{key}={value}" for section, own in joint.settings.items() for key, value in own.items()]
    assert main([command, "--json", *words]) == 0
    record = json.loads(capsys.readouterr().out)
    if command == "leaderboard":
        assert {entry["tap"] for entry in record["entries"]} >= {"vgg16@32", "resnet50@32", "vgg16@32+resnet50@32"}
    elif command == "status":
        assert all(stage["complete"] for stage in record["stages"])
        assert len(record["stages"][1]["paths"]) == 5
    elif command == "plan":
        assert {cache["backbone"] for cache in record["caches"]} == {"vgg16@32", "resnet50@32"}
    elif command == "gc":
        assert record["items"] == []
    assert main([command, *words]) == 0


def test_predictions_of_files_are_those_of_the_run(joint):
    with joint.in_force():
        project = current_project()
        files = sorted((joint.folder / "photos/test").iterdir())
        found = list(Predictor(project, Silent()).predict(iter(files), len(files)))
    rows = (joint.artifacts / "submission.csv").read_text().split()[1:]
    names = ["disc", "square", "triangle"]
    assert [f"{each.file.name},{names[each.probabilities.argmax()]}" for each in found] == rows


def test_another_backbone_is_the_only_one_that_is_computed(joint, tmp_path, capsys):
    copied = shutil.copytree(joint.folder, tmp_path / "copied")
    project = small_project(copied)
    project.settings |= {"Heads": joint.settings["Heads"]}
    project.set("Features", backbone="vgg16@32, resnet50, resnet50@48", taps="vgg16/block1_pool:avg")
    words = [
        f"--set={section}.{key}={value}" for section, own in project.settings.items() for key, value in own.items()
    ]
    assert main(["status", *words]) == 0
    assert "resnet50@48: Features: image_size 32 -> 48" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in project.artifacts.glob("features/*.h5")}
    assert project.run("ExtractFeatures").count("ExtractSplit") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    project.set("Features", backbone="resnet50", taps="output:avg")
    assert project.run("ExtractFeatures") == ["ExtractFeatures"]


def test_a_row_that_one_backbone_could_not_use_is_used_by_none(joint, tmp_path):
    project = small_project(tmp_path)
    (tmp_path / "photos/train/disc/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    write_image(tmp_path / "photos/train/disc/9.png", (200, 60, 60), 9)
    project.settings |= {"Heads": joint.settings["Heads"]}
    project.set("Features", **TWO)
    project.run()
    assert project.succeeded
    assert (project.artifacts / "rejected.csv").read_text().count("0.png") == 1
    with project.in_force():
        made = current_project()
        for bag in made.bags():
            record = made.bag(*bag).path
            rows = Manifest.load(made.folder).splits["train"]
            assert np.isnan(Predictions.load(record, rows).probabilities).any(axis=(0, 2)).sum() == 1
