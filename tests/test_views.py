"""How images become squares, and whether their mirror images count: keys, caches, predictions and the exported model."""

import json

import numpy as np
import pytest
from PIL import Image
from projects import flags, small_project, stored_ensemble, stored_predictions

from featcache.cache.layout import MIRROR
from featcache.cache.reader import open_cache
from featcache.cli import main
from featcache.project import Project
from featcache.settings import parse_settings
from featcache.training.heads.bag import load_bag

LISTED = {"class_names": ["a", "b"], "splits": {"train": {"key": "1" * 64}, "test": {"key": "2" * 64}}}
FEATURES = {"weights": "random", "precision": "float32", "taps": "block1_pool:avg", "image_size": "32"}


def project_of(**features):
    return Project(parse_settings({"Features": FEATURES | features, "ConvNet": {"members": "1"}}), LISTED)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_convnets_follow_the_fit_and_keep_their_key_without_one(fit):
    plain, fitted = project_of().convnet(0), project_of(image_fit=fit).convnet(0)
    assert plain.inputs["settings"].keys() == {"ConvNet", "Heads"}
    assert fitted.inputs["settings"] == plain.inputs["settings"] | {"Features": {"image_fit": fit}}


def test_mirrored_caches_are_beside_all_splits_and_copies():
    plain, mirrored = project_of(copies="1"), project_of(copies="1", mirror="true")
    assert [cache[1:] for cache in plain.caches()] == [("train", 0), ("train", 1), ("test", 0)]
    assert [cache[1:] for cache in mirrored.caches()] == [
        ("train", 0),
        ("train", 1),
        ("train", MIRROR),
        ("test", 0),
        ("test", MIRROR),
    ]
    assert mirrored.backbones[0].cache("test", MIRROR).path.name.startswith("test-mirror-vgg16-block1_pool_avg-32-")
    for _, *cache in plain.caches():
        assert mirrored.backbones[0].cache(*cache).key == plain.backbones[0].cache(*cache).key
    assert len({mirrored.backbones[0].cache("train", copy).key for copy in (0, 1, MIRROR)}) == 3
    assert plain.bag("block1_pool_avg", "dense").key != mirrored.bag("block1_pool_avg", "dense").key
    assert plain.convnet(0).key == mirrored.convnet(0).key, "which look at images as they are"
    test = plain.backbones[0].cache("test", 0).key
    assert plain.predictions("test").inputs["upstream"]["ExtractFeatures"] == test
    own = mirrored.backbones[0].cache("test", MIRROR).key
    assert mirrored.predictions("test").inputs["upstream"]["ExtractFeatures"] == [test, own]


def said(project, capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments), *flags(project)]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Photos of 40 x 36 pixels, cut to squares, and mirrored; made from a run without. Heads see two taps side by side."""
    project = small_project(tmp_path_factory.mktemp("views") / "project")
    project.set("Features", image_fit="crop", taps="block1_pool:avg,block2_pool:max")
    project.set("Ensemble", method="mean")  # of all members
    project.run("ExtractFeatures")
    project.set("Features", mirror="true")
    return project


def test_status_and_plan_know_what_is_missing(project, capsys):
    lines = said(project, capsys, "status").splitlines()
    assert next(line for line in lines if "ExtractFeatures" in line).endswith("Features: mirror false -> true")
    plan = said(project, capsys, "plan")
    assert [line.split()[:4] for line in plan.splitlines()[2:6]] == [
        ["train", "0", "24", "0"],
        ["train", "mirror", "24", "24"],
        ["test", "0", "9", "0"],
        ["test", "mirror", "9", "9"],
    ]


def test_predictions_are_the_mean_over_both_views(project):
    project.run()
    assert project.succeeded
    folder = project.artifacts / "features"
    plain, mirrored = (open_cache(next(folder.glob(f"test-{name}-*.h5"))) for name in ("copy0", "mirror"))
    assert (mirrored.copy, mirrored.ids) == (MIRROR, plain.ids)
    tap = "block1_pool_avg"
    assert not np.array_equal(plain[tap], mirrored[tap])
    bag, stored = load_bag(next(project.artifacts.glob("heads/*-fast-*"))), stored_predictions(project)
    assert list(bag.seen_as.taps) == ["block1_pool_avg", "block2_pool_max"]
    views = [bag.member_predictions(reader.features) for reader in (plain, mirrored)]
    places = [place for place, member in enumerate(stored.members) if "/fast/" in member]
    np.testing.assert_allclose(stored.probabilities[places], (views[0] + views[1]) / 2, rtol=1e-6)
    assert abs(views[0] - views[1]).max() > 1e-4, "which one view alone would not be"


def test_commands_understand_mirrored_caches(project, capsys):
    cache = next((project.artifacts / "features").glob("train-mirror-*.h5"))
    assert "train, mirror, complete" in said_of(capsys, "show", cache)
    assert any(line.split()[1] == "mirror" for line in said_of(capsys, "ls", project.artifacts).splitlines())
    assert json.loads(said_of(capsys, "show", "--json", cache))["copy"] == MIRROR
    said_of(capsys, "verify", cache)
    assert str(cache.name) not in said(project, capsys, "gc")
    assert "runs" not in said(project, capsys, "status")


def said_of(capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_predict_and_the_exported_model_do_the_same(project, tmp_path, capsys):
    keras = pytest.importorskip("keras")
    stored = stored_predictions(project)
    expected = stored_ensemble(project).apply(stored)
    photos = project.folder / "photos/test"
    records = json.loads(said(project, capsys, "predict", "--json", photos))
    predicted = np.array([list(record["probabilities"].values()) for record in records])
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    said(project, capsys, "export-model", tmp_path / "photos.keras")
    model = keras.models.load_model(tmp_path / "photos.keras", safe_mode=True)
    images = np.stack([np.array(Image.open(photos / name).convert("RGB")) for name in stored.ids])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), expected, atol=2e-6)
