"""A user's own network and weights: whatever the file is, one line that names it and the setting."""

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("keras")

import keras_values  # after importorskip

from featcache.core.progress import Silent
from featcache.errors import FeatcacheError
from featcache.features.backbone import load_backbone
from featcache.features.weights import resolve_weights
from featcache.settings.specs import FeaturesSpec, Tap

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><title>404</title>"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return keras_values.own_backbone(tmp_path_factory.mktemp("own") / "net.keras").read_bytes()


def load(path: Path) -> None:
    """As extraction does."""
    named = {"backbone": str(path)} if path.suffix == ".keras" else {"weights": str(path)}
    tap = Tap("normal") if path.suffix == ".keras" else Tap("block1_pool")
    spec = FeaturesSpec(**named, taps=(tap,), image_size=32)
    load_backbone(spec, resolve_weights(spec, Silent()), "float32", 2)


def refused(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(FeatcacheError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def with_part(archive: bytes, name: str, content: bytes) -> bytes:
    """The archive with one of its files changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.namelist():
            new.writestr(part, content if part == name else old.read(part))
    return out.getvalue()


def hdf5(fill) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        fill(file)
    return stream.getvalue()


def test_a_sound_one_is_loaded(tmp_path, sound):
    (tmp_path / "net.keras").write_bytes(sound)
    load(tmp_path / "net.keras")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda sound: b"", "is empty"),
        (lambda sound: PAGE, "a page of HTML"),
        (lambda sound: POINTER, "git lfs pull"),
        (lambda sound: hdf5(lambda file: None), "save it as .keras"),
        (lambda sound: bytes(range(256)), "no .keras archive, or was cut short"),
        (lambda sound: sound[: len(sound) // 2], "no .keras archive, or was cut short"),
        (lambda sound: sound[:900] + bytes([sound[900] ^ 255]) + sound[901:], "can't be loaded"),
        (lambda sound: with_part(sound, "config.json", b"{"), "can't be loaded"),
        (lambda sound: with_part(sound, "config.json", b"null"), "can't be loaded"),
        (lambda sound: with_part(sound, "config.json", b"[" * 100_000), "can't be loaded"),
        (lambda sound: with_part(sound, "config.json", json.dumps({"module": "gone", "class_name": "X"}).encode()), "loaded"),
        (lambda sound: with_part(sound, "model.weights.h5", b"noise"), "can't be loaded"),
    ],
    ids=[
        "empty", "page", "pointer", "hdf5", "noise", "cut", "flipped", "no json", "null", "deep", "class", "weights",
    ],
)  # fmt: skip
def test_a_network_that_is_none(tmp_path, sound, make, words):
    refused(tmp_path / "net.keras", make(sound), words)


def names(file, value) -> None:
    file.attrs["layer_names"] = value


def without_weights(file) -> None:
    names(file, [b"a"])
    file.create_group("a").attrs["weight_names"] = [b"gone"]


def texts(file) -> None:
    names(file, [b"a"])
    group = file.create_group("a")
    group.attrs["weight_names"] = [b"kernel", b"bias"]
    group["kernel"], group["bias"] = np.zeros((3, 3, 3, 64), np.float32), np.array([b"x"] * 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (PAGE, "a page of HTML"),
        (POINTER, "git lfs pull"),
        (b"PK\x03\x04", "goes into .Features. backbone"),
        (bytes(range(256)), "can't be read as a Keras HDF5 weights file"),
        (hdf5(lambda file: names(file, 3)), "can't be read as a Keras HDF5 weights file"),
        (hdf5(lambda file: names(file, [b"\xff"])), "can't be read as a Keras HDF5 weights file"),
        (hdf5(without_weights), "can't be read as a Keras HDF5 weights file"),
        (hdf5(lambda file: file.create_dataset("model_weights", data=1)), "holds no Keras weights"),
        (hdf5(texts), "does not fit VGG16 without top|can't be read"),
    ],
    ids=["empty", "page", "pointer", "archive", "noise", "number", "no text", "gone", "dataset", "texts"],
)
def test_weights_that_are_none(tmp_path, content, words):
    refused(tmp_path / "mine.h5", content, words)
