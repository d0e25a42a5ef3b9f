"""Small CNNs in the ensemble, put to use: `featcache predict` and `featcache export-model` against the pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import small_project

from featcache.cli import main
from featcache.configuration import configured_project
from featcache.ensemble import Ensemble
from featcache.predictions import Predictions
from featcache.progress import Silent

CONVNET = "convnet/seed0"


def flags(project):
    values = [(f"{s}.{key}={text}") for s, section in project.settings.items() for key, text in section.items()]
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Grey images to train on, coloured ones to predict, and an ensemble of two heads and a small CNN of another size."""
    project = small_project(tmp_path_factory.mktemp("convnets"))
    for path in (project.folder / "photos/train").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    project.set("ConvNet", members="1", image_size="16", schedule="3e-3x2", batch_size="8")
    project.set("Ensemble", method="mean")
    project.run()
    assert project.succeeded
    return project


@pytest.fixture(scope="module")
def stored(project):
    """All members' predictions of the test images."""
    return Predictions.load(project.artifacts / "predictions/test.hdf5")


@pytest.fixture
def ensemble(project):
    built = Ensemble.load(project.artifacts / "ensemble.json")
    assert CONVNET in built.members
    assert len(built.members) > 1
    return built


def test_predict_says_of_the_test_images_what_the_pipeline_said(project, stored, ensemble, capsys):
    assert main(["predict", "--json", str(project.folder / "photos/test"), *flags(project)]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [Path(record["file"]).name for record in records] == list(stored.ids)
    said = [list(record["probabilities"].values()) for record in records]
    assert np.allclose(said, ensemble.apply(stored), atol=1e-6)
    heads = stored.probabilities[[member != CONVNET for member in stored.members]]
    assert not np.allclose(said, heads.mean(axis=0), atol=1e-3), "the network's word counts"


def test_without_heads_in_the_ensemble_no_backbone_is_loaded(project, stored, monkeypatch):
    from featcache import predict, serving

    chosen = serving.load_served(configured_project(flags(project)[1::2]), CONVNET)
    assert chosen.bags == ()
    assert chosen.convnets[0].is_grey
    monkeypatch.setattr(predict, "load_served", lambda project: chosen)
    monkeypatch.setattr(predict, "resolved_backbone", lambda *_: pytest.fail("nothing asks for features"))
    predictor = predict.Predictor(configured_project(flags(project)[1::2]), Silent())
    files = [project.folder / "photos/test" / row for row in stored.ids]
    told = [item.probabilities for item in predictor.predict(files, len(files))]
    assert np.allclose(told, stored.probabilities[stored.members.index(CONVNET)], atol=1e-6)
