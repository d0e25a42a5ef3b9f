"""Small CNNs in the ensemble, put to use: `featcache predict` and `featcache export-model` against the pipeline."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import flags, small_project, stored_ensemble, stored_predictions

from featcache.cli import main
from featcache.core.progress import Silent
from featcache.project.config_file import configured_project

CONVNET = "convnet/seed0"


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
    return stored_predictions(project)


@pytest.fixture
def ensemble(project):
    built = stored_ensemble(project)
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
    from featcache.inference import predictor as predict, served_ensemble

    chosen = served_ensemble.load_served(configured_project(flags(project)[1::2]), CONVNET)
    assert chosen.bags == ()
    assert chosen.convnets[0].is_grey
    monkeypatch.setattr(predict, "load_served", lambda project: chosen)
    monkeypatch.setattr(predict, "resolved_backbone", lambda *_: pytest.fail("nothing asks for features"))
    predictor = predict.Predictor(configured_project(flags(project)[1::2]), Silent())
    files = [project.folder / "photos/test" / row for row in stored.ids]
    told = [item.probabilities for item in predictor.predict(files, len(files))]
    assert np.allclose(told, stored.probabilities[stored.members.index(CONVNET)], atol=1e-6)


# Keras alone: a finder refuses featcache, whatever the path.
ELSEWHERE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("featcache", "pipeline"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import keras, numpy as np, tensorflow as tf
from PIL import Image
archive, folder, *files = sys.argv[1:]
saved = tf.saved_model.load(folder)
models = {"whole": keras.models.load_model(archive, safe_mode=True), "alone": saved.serve}
images = [np.array(Image.open(file).convert("RGB"))[None] for file in files]
np.savez("said.npz", **{name: np.concatenate([np.asarray(model(image)) for image in images]) for name, model in models.items()})
"""


def export(project, path, *arguments, status=0):
    assert main(["export-model", str(path), *flags(project), *arguments]) == status
    return path


def test_the_exported_model_says_the_same_where_featcache_is_not(project, stored, ensemble, tmp_path, capsys):
    paths = [export(project, tmp_path / "photos.keras"), export(project, tmp_path / "alone", "--member", CONVNET)]
    whole, alone = capsys.readouterr().out.splitlines()
    assert "(vgg16 in float32, convnets, 5 members)" in whole
    assert "(convnets, 1 member)" in alone
    files = [project.folder / "photos/test" / row for row in stored.ids]
    words = [sys.executable, "-c", ELSEWHERE, *map(str, [*paths, *files])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "said.npz") as said:
        assert np.allclose(said["whole"], ensemble.apply(stored), atol=2e-6)
        assert np.allclose(said["alone"], stored.probabilities[stored.members.index(CONVNET)], atol=2e-6)
    with zipfile.ZipFile(paths[0]) as archive:
        facts = json.loads(archive.read("featcache.json"))
    assert (facts["image_size"], facts["convnet_image_size"]) == (32, 16)


def test_a_fixed_size_needs_members_that_look_at_one_size(project, stored, tmp_path, capsys):
    export(project, tmp_path / "both.keras", "--fixed-size", status=1)
    error = capsys.readouterr().err
    assert "[Features] image_size=32, [ConvNet] image_size=16" in error
    assert "--member" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    import keras

    path = export(project, tmp_path / "alone.keras", "--fixed-size", "--member", CONVNET)
    assert keras.models.load_model(path).input_shape == (None, 16, 16, 3)
