"""Exported models against the pipeline: loaded where featcache is not, on raw images."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from images import picture
from PIL import Image
from projects import copied_project, flags, stored_ensemble, stored_predictions

from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.decoding.decode import decode_rgb
from featcache.inference.predictor import Predictor
from featcache.project.config_file import configured_project

keras = pytest.importorskip("keras")

# Keras alone: a finder refuses featcache, whatever the path.
ELSEWHERE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("featcache", "pipeline"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import keras, numpy as np, tensorflow as tf
images, archive, folder = sys.argv[1:]
tells = {
    "keras": lambda batch, model=keras.models.load_model(archive, safe_mode=True): keras.ops.convert_to_numpy(model(batch)),
    "saved": lambda batch, model=tf.saved_model.load(folder): model.serve(batch).numpy(),
}
with np.load(images) as raw:
    np.savez("said.npz", **{f"{name}/{row}": tell(raw[row])[0] for name, tell in tells.items() for row in raw.files})
"""


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    return copied_project(finished, tmp_path_factory.mktemp("served") / "project")


def export(project, path, *arguments):
    assert main(["export-model", str(path), *flags(project), *arguments]) == 0
    return path


def of_the_pipeline(project):
    """Test row id -> (C,) probabilities."""
    stored = stored_predictions(project)
    return dict(zip(stored.ids, stored_ensemble(project).apply(stored), strict=True))


def raw(path):
    """(1, h, w, 3) uint8, as any reader would give it."""
    return np.array(Image.open(path).convert("RGB"))[None]


@pytest.fixture(scope="module")
def elsewhere(project, tmp_path_factory):
    """What a process without featcache says of raw images, by form and row id; and what featcache says of other sizes."""
    folder = tmp_path_factory.mktemp("elsewhere")
    images = {path.name: raw(path) for path in (project.folder / "photos/test").glob("*.png")}
    for seed, (height, width) in enumerate([(32, 32), (7, 90), (150, 20), (64, 33), (45, 45)]):
        Image.fromarray(picture(height, width, seed)).save(folder / f"other-{seed}.png")
    others = sorted(folder.glob("other-*.png"))
    predictor = Predictor(configured_project(flags(project)[1::2]), Silent())
    told = {item.file.name: item.probabilities for item in predictor.predict(others, len(others))}
    np.savez(folder / "images.npz", **images, **{path.name: raw(path) for path in others})
    models = [str(export(project, folder / name)) for name in ("photos.keras", "saved")]
    words = [sys.executable, "-c", ELSEWHERE, "images.npz", *models]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "said.npz") as archive:
        return dict(archive), {**of_the_pipeline(project), **told}


@pytest.mark.parametrize("form", ["keras", "saved"])
def test_raw_images_of_any_size_are_told_as_in_the_pipeline_without_featcache(elsewhere, form):
    said, expected = elsewhere
    assert len(expected) == 14
    for row, probabilities in expected.items():
        assert np.allclose(said[f"{form}/{row}"], probabilities, atol=2e-6), row
    assert len({tuple(np.round(probabilities, 4)) for probabilities in said.values()}) > 5


def test_a_model_of_fixed_size_takes_what_decoding_gives(project, tmp_path):
    model = keras.models.load_model(export(project, tmp_path / "photos.keras", "--fixed-size"))
    assert model.input_shape == (None, 32, 32, 3)
    expected = of_the_pipeline(project)
    images = np.stack([decode_rgb((project.folder / "photos/test" / row).read_bytes(), 32) for row in expected])
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), np.stack(list(expected.values())), atol=2e-6)


def test_a_clip_of_the_settings_is_in_it(project, tmp_path):
    model = keras.models.load_model(export(project, tmp_path / "photos.keras", "--set", "Submission.clip=0.6"))
    images = raw(project.folder / "photos/test/disc-0.png")
    stored = stored_predictions(project)
    stored = stored.take(np.array([stored.ids.index("disc-0.png")]))
    expected = stored_ensemble(project).apply(stored, 0.6)
    assert expected.max() == pytest.approx(0.6)
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), expected, atol=2e-6)


def test_one_member_alone_is_the_recipes_joined_model(project, tmp_path):
    stored = stored_predictions(project)
    place, member = next((place, name) for place, name in enumerate(stored.members) if "/fast/" in name)
    model = keras.models.load_model(export(project, tmp_path / "one.keras", "--member", member, "--fixed-size"))
    images = np.stack([decode_rgb((project.folder / "photos/test" / row).read_bytes(), 32) for row in stored.ids])
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), stored.probabilities[place], atol=2e-6)
    name, _, seed = member.replace("/", "-").rpartition("-")
    parts = [
        {type(each).__name__ for each in model.get_layer(f"{name}-{end}").layers} for end in ("input", f"{seed}-fold0")
    ]
    assert "Flatten" in parts[0]
    assert {"Dropout", "Dense", "BatchNormalization"} <= parts[1]
    assert not model.get_layer("backbone").trainable


def test_what_the_classes_are_called_travels_with_it(project, tmp_path, capsys):
    path = export(project, tmp_path / "photos.keras")
    assert "uint8 RGB images of any size to probabilities of 3 classes (vgg16 in float32," in capsys.readouterr().out
    with zipfile.ZipFile(path) as archive:
        facts = json.loads(archive.read("featcache.json"))
    assert facts["class_names"] == ["disc", "square", "triangle"]
    assert facts["input"] == {"shape": [None, None, None, 3], "dtype": "uint8", "channels": "RGB"}
    assert sum(facts["members"].values()) == pytest.approx(1)


def test_mistakes_are_one_line_and_leave_nothing(project, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there.keras").mkdir()
    (tmp_path / "there-1.2").symlink_to("nowhere")
    for words, message in (
        ([str(tmp_path / "there")], "a folder that isn't there yet"),
        ([str(tmp_path / "there.keras")], "there.keras is a folder: remove it"),
        ([str(tmp_path / "there-1.2")], "a folder that isn't there yet"),
        *(
            (
                [str(tmp_path / f"m{suffix}")],
                "is of a format that isn't written: name a file m.keras, or a folder m for a SavedModel",
            )
            for suffix in (
                ".h5",
                ".hdf5",
                ".tflite",
                ".onnx",
                ".pb",
                ".pt",
                ".pth",
                ".safetensors",
                ".Keras",
                ".keras.zip",
            )
        ),
        ([str(tmp_path / "m.keras"), "--member", "nobody"], "member='nobody'"),
        ([str(tmp_path / "m.keras"), "--set", "Heads.dropout=0.7"], "has no ensemble of these settings"),
    ):
        assert main(["export-model", *words[:1], *flags(project), *words[1:]]) == 1
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"there", "there.keras", "there-1.2"}


def test_a_write_that_fails_leaves_nothing(project, tmp_path, monkeypatch):
    def fail(model, path, *_, **__):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", fail)
    assert main(["export-model", str(tmp_path / "photos.keras"), *flags(project)]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
# of one image and of a batch the processor's library may add up in another order, which rounds 16 bits otherwise
@pytest.mark.parametrize(("precision", "near"), [("float32", 2e-5), ("bfloat16", 2e-3)])
def test_real_photos_and_weights(shared, tmp_path, precision, near):
    """The pipeline, `featcache predict` and the exported model agree on photos of any size up to four times image_size."""
    from projects import LuigiProject

    size, source = 128, shared / "data/hymenoptera"
    for split, count in (("train", 12), ("test", 6)):
        for folder in sorted((source / split).iterdir()):
            (tmp_path / "photos" / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, tmp_path / "photos" / split / folder.name / path.name)
    project = LuigiProject(
        tmp_path,
        {
            "Dataset": {"name": "photos", "source": "folder", "path": str(tmp_path / "photos")},
            "Features": {
                "weights": str(shared / "weights/vgg16_imagenet_notop.h5"), "taps": "block4_pool:avg, block5_pool",
                "image_size": str(size), "precision": precision,
            },
            "Heads": {"preset": "fast", "seeds": "1", "folds": "2"},
            "Paths": {"artifacts": str(tmp_path / "artifacts")},
        },
    )  # fmt: skip
    project.run()
    assert project.succeeded
    expected = of_the_pipeline(project)
    files = [tmp_path / "photos/test" / row for row in expected]
    predictor = Predictor(configured_project(flags(project)[1::2]), Silent())
    told = [item.probabilities for item in predictor.predict(files, len(files))]
    assert np.allclose(told, list(expected.values()), atol=1e-6)
    model = keras.models.load_model(export(project, tmp_path / "photos.keras"))
    for file, probabilities in zip(files, expected.values(), strict=True):
        image = raw(file)
        assert min(image.shape[1:3]) < 4 * size, "larger JPEGs are decoded at a fraction of their size"
        assert np.allclose(keras.ops.convert_to_numpy(model(image))[0], probabilities, atol=near), file.name
