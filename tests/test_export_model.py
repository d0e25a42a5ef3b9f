"""Exported models against the pipeline: loaded where featcache is not, on raw images."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from projects import copied_project, small_project

from featcache.cli import main
from featcache.ensemble import Ensemble
from featcache.predictions import Predictions

# Keras alone: a finder refuses featcache, whatever the path.
ELSEWHERE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("featcache", "pipeline"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import json, numpy as np
model, images, said = sys.argv[1:]
if model.endswith(".keras"):
    import keras
    loaded = keras.models.load_model(model, safe_mode=True)
    tell = lambda batch: keras.ops.convert_to_numpy(loaded(batch))
else:
    import tensorflow as tf
    loaded = tf.saved_model.load(model)
    tell = lambda batch: loaded.serve(batch).numpy()
with np.load(images) as archive:
    np.savez(said, **{name: tell(archive[name]) for name in archive.files})
"""


def flags(project):
    values = [(f"{s}.{key}={text}") for s, section in project.settings.items() for key, text in section.items()]
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two taps, three members and images of many sizes."""
    project = small_project(tmp_path_factory.mktemp("served"))
    for place, path in enumerate(sorted((project.folder / "photos").rglob("*.png"))):
        Image.open(path).resize((20 + 7 * place, 90 - place)).save(path)
    project.set("Features", taps="block1_pool:avg, block2_pool")
    project.set("Ensemble", method="mean")
    project.set("Submission", format="probabilities")
    project.run()
    assert project.succeeded
    return project


def export(project, path, *arguments):
    assert main(["export-model", str(path), *flags(project), *arguments]) == 0
    return path


def told_elsewhere(model, images, folder):
    np.savez(folder / "images.npz", **images)
    words = [sys.executable, "-c", ELSEWHERE, str(model), str(folder / "images.npz"), str(folder / "said.npz")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "said.npz") as archive:
        return {name: archive[name][0] for name in archive.files}


def raw_images(project):
    """Row id -> (1, h, w, 3) uint8, as any reader would give it."""
    paths = sorted((project.folder / "photos/test").glob("*.png"))
    return {path.name: np.array(Image.open(path).convert("RGB"))[None] for path in paths}


def of_the_pipeline(project, clip=None):
    stored = Predictions.load(project.artifacts / "predictions" / "test.hdf5")
    return dict(zip(stored.ids, Ensemble.load(project.artifacts / "ensemble.json").apply(stored, clip), strict=True))


@pytest.mark.parametrize(("name", "clip"), [("photos.keras", None), ("saved", None), ("clipped.keras", 0.6)])
def test_raw_images_of_any_size_are_told_as_in_the_pipeline_without_featcache(project, tmp_path, name, clip):
    model = export(project, tmp_path / name, *(["--set", f"Submission.clip={clip}"] if clip else []))
    said = told_elsewhere(model, raw_images(project), tmp_path)
    expected = of_the_pipeline(project, clip)
    assert Ensemble.load(project.artifacts / "ensemble.json").temperature != 1
    assert said.keys() == expected.keys()
    for row, probabilities in expected.items():
        assert np.allclose(said[row], probabilities, atol=2e-6), row
    assert len({tuple(np.round(p, 4)) for p in said.values()}) > 1


def test_a_model_of_fixed_size_takes_what_decoding_gives(project, tmp_path):
    from featcache.sources.decode import decode_rgb

    model = export(project, tmp_path / "photos.keras", "--fixed-size")
    paths = sorted((project.folder / "photos/test").glob("*.png"))
    said = told_elsewhere(model, {p.name: decode_rgb(p.read_bytes(), 32)[None] for p in paths}, tmp_path)
    for row, probabilities in of_the_pipeline(project).items():
        assert np.allclose(said[row], probabilities, atol=2e-6)


def test_one_member_alone_is_the_recipes_joined_model(project, tmp_path):
    import keras

    stored = Predictions.load(project.artifacts / "predictions" / "test.hdf5")
    member = stored.members[-1]
    path = export(project, tmp_path / "one.keras", "--member", member, "--fixed-size")
    model = keras.models.load_model(path)
    from featcache.sources.decode import decode_rgb

    images = np.stack([decode_rgb((project.folder / "photos/test" / row).read_bytes(), 32) for row in stored.ids])
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), stored.probabilities[-1], atol=2e-6)
    names = [type(layer).__name__ for layer in model.get_layer(f"{member.replace('/', '-')}-fold0").layers]
    assert names[-4:] == ["Dense", "BatchNormalization", "Dropout", "Dense"]
    assert not model.get_layer("backbone").trainable


def test_what_the_classes_are_called_travels_with_it(project, tmp_path, capsys):
    path = export(project, tmp_path / "photos.keras")
    assert "uint8 RGB images of any size to probabilities of 3 classes (vgg16 in float32, 4 members)" in capsys.readouterr().out
    with zipfile.ZipFile(path) as archive:
        facts = json.loads(archive.read("featcache.json"))
    assert facts["class_names"] == ["disc", "square", "triangle"]
    assert facts["input"] == {"shape": [None, None, None, 3], "dtype": "uint8", "channels": "RGB"}
    assert sum(facts["members"].values()) == pytest.approx(1)
    saved = export(project, tmp_path / "saved")
    assert json.loads((saved / "featcache.json").read_text()) == facts


def test_taps_that_no_chosen_member_sees_are_not_in_it(project, tmp_path):
    member = Predictions.load(project.artifacts / "predictions" / "test.hdf5").members[0]
    path = export(project, tmp_path / "one.keras", "--member", member)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("featcache.json"))["taps"] == ["block1_pool:avg"]
        assert b"block2_conv1" not in archive.read("config.json")


def test_bfloat16_is_kept(finished, tmp_path):
    project = copied_project(finished, tmp_path / "project")
    project.set("Features", precision="bfloat16")
    project.run()
    model = export(project, tmp_path / "photos.keras")
    said = told_elsewhere(model, raw_images(project), tmp_path)
    for row, probabilities in of_the_pipeline(project).items():
        assert np.allclose(said[row], probabilities, atol=2e-6)


def test_mistakes_are_one_line_and_leave_nothing(project, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for words, message in (
        ([str(tmp_path / "there")], "a folder that isn't there yet"),
        ([str(tmp_path / "m.keras"), "--member", "nobody"], "member='nobody'"),
        ([str(tmp_path / "m.keras"), "--set", "Heads.dropout=0.7"], "expected an ensemble of these settings"),
    ):
        assert main(["export-model", *words[:1], *flags(project), *words[1:]]) == 1
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_write_that_fails_leaves_nothing(project, tmp_path, monkeypatch):
    import keras

    def fail(model, path, *_, **__):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        export(project, tmp_path / "photos.keras")
    assert list(tmp_path.iterdir()) == []
