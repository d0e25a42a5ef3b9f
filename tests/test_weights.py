import hashlib
import inspect
import json
import os
import re
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from notices import Notices

from featcache.core import keys
from featcache.core.progress import Silent
from featcache.errors import BackboneError, WeightsError, WeightsUnavailableError
from featcache.features import weights
from featcache.features.weights import known_digest, resolve_weights
from featcache.settings.architectures import Architecture, architectures, backbone_settings, find_architecture
from featcache.settings.specs import FeaturesSpec, Tap

VGG16_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
CONTENT = b"what a server may hold" * 1000


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(weights.URL_VARIABLE, f"http://127.0.0.1:{closed.getsockname()[1]}")


@pytest.fixture
def known_content(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """VGG16, but for the digest: genuine weights are not small."""
    fake = Architecture(**{**vars(find_architecture("vgg16")), "digest": hashlib.sha256(CONTENT).hexdigest()})
    monkeypatch.setattr(weights, "find_architecture", lambda backbone: fake)
    return fake


def test_random_weights_are_known_at_once_and_differ_by_backbone() -> None:
    digests = set()
    for name in ("vgg16", "VGG16", "vgg19"):
        spec = FeaturesSpec(backbone=name, weights="random")
        resolved = resolve_weights(spec, Silent())
        assert (resolved.kind, resolved.path) == ("random", None)
        assert known_digest(spec, None) == resolved.digest
        digests.add(resolved.digest)
    assert len(digests) == 2


def test_keys_of_random_weights_are_those_of_caches_but_of_networks_whose_features_overflowed() -> None:
    def of_version(name: str, version: int) -> str:
        return keys.digest({"weights": "he-normal", "backbone": name, "seed": 0, "version": version})

    for name, version in (("vgg16", 1), ("resnet152v2", 1), ("efficientnetb0", 1), ("efficientnetb4", 2)):
        assert known_digest(FeaturesSpec(name, "random"), None) == of_version(name, version)


def test_cached_imagenet_weights_are_taken(keras_home: Path, offline: None, known_content: Architecture) -> None:
    (keras_home / "models").mkdir(parents=True)
    (keras_home / "models" / VGG16_FILE).write_bytes(CONTENT)
    for setting in ("imagenet", "auto"):
        progress = Notices()
        resolved = resolve_weights(FeaturesSpec(weights=setting), progress)
        assert (resolved.kind, resolved.digest) == ("imagenet", hashlib.sha256(CONTENT).hexdigest())
        assert resolved.path == keras_home / "models" / VGG16_FILE
        assert progress.messages == []


@pytest.mark.parametrize("setting", ["imagenet", "auto"])
def test_a_damaged_cached_file_is_named_and_kept(keras_home: Path, offline: None, setting: str) -> None:
    cached = keras_home / "models" / VGG16_FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(
        WeightsError, match=re.escape(f"{cached} is damaged: digest ") + "[0-9a-f]+, not bfe5187d"
    ) as caught:
        resolve_weights(FeaturesSpec(weights=setting), Silent())
    assert not isinstance(caught.value, WeightsUnavailableError)
    assert cached.read_bytes() == b"half a file"


def test_imagenet_without_network_says_which_file_goes_where(keras_home: Path, offline: None) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        resolve_weights(FeaturesSpec(weights="imagenet"), Silent())
    message = str(caught.value)
    architecture = find_architecture("vgg16")
    assert "\n" not in message
    for part in ("connection refused", VGG16_FILE, architecture.digest, architecture.url, str(keras_home / "models")):
        assert part in message


def test_auto_without_network_takes_random_weights_with_a_notice(keras_home: Path, offline: None) -> None:
    progress = Notices()
    resolved = resolve_weights(FeaturesSpec(), progress)
    assert resolved.kind == "random"
    assert resolved.digest == known_digest(FeaturesSpec(weights="random"), None)
    assert progress.messages == [resolved.note]
    for part in ("RANDOM WEIGHTS", VGG16_FILE, str(keras_home / "models"), "weights = imagenet"):
        assert part in resolved.note
    assert len(resolved.note.splitlines()) == 3


def test_weights_are_downloaded_from_a_mirror(
    tmp_path: Path, keras_home: Path, known_content: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / VGG16_FILE).write_bytes(CONTENT)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv(weights.URL_VARIABLE, f"http://127.0.0.1:{server.server_port}/")
        try:
            resolved = resolve_weights(FeaturesSpec(), Silent())
        finally:
            server.shutdown()
            thread.join()
    assert resolved.kind == "imagenet"
    assert (keras_home / "models" / VGG16_FILE).read_bytes() == CONTENT


def test_what_was_resolved_stands_until_a_setting_changes(keras_home: Path, offline: None) -> None:
    assert known_digest(FeaturesSpec(), None) is None
    recorded = json.loads(json.dumps(resolve_weights(FeaturesSpec(), Silent()).record(FeaturesSpec())))
    assert known_digest(FeaturesSpec(), recorded) == recorded["digest"]
    assert known_digest(FeaturesSpec(backbone="VGG16", image_size=96, taps=(Tap("block4_pool"),)), recorded) is not None
    assert known_digest(FeaturesSpec(weights="imagenet"), recorded) is None
    assert known_digest(FeaturesSpec(backbone="vgg19"), recorded) is None


@pytest.mark.parametrize("kind", ["file", "model"])
def test_a_users_file_counts_by_its_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("net.keras" if kind == "model" else "mine.h5")
    path.write_bytes(b"first")
    spec = FeaturesSpec(backbone=str(path)) if kind == "model" else FeaturesSpec(weights=str(path))
    resolved = resolve_weights(spec, Silent())
    recorded = json.loads(json.dumps(resolved.record(spec)))
    first = hashlib.sha256(b"first").hexdigest()
    assert (resolved.kind, resolved.path, resolved.digest) == (kind, path, first)
    assert known_digest(spec, None) == known_digest(spec, recorded) == first

    os.utime(path, ns=(1, 1))
    assert known_digest(spec, recorded) == first
    path.write_bytes(b"other")
    assert known_digest(spec, recorded) == hashlib.sha256(b"other").hexdigest()
    path.unlink()
    assert known_digest(spec, recorded) == first
    assert known_digest(spec, None) is None


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.h5"
    path.write_bytes(b"large")
    spec = FeaturesSpec(weights=str(path))
    recorded = resolve_weights(spec, Silent()).record(spec)
    monkeypatch.setattr(weights.keys, "file_digest_once", lambda *args: pytest.fail("the file was read"))
    assert known_digest(spec, recorded) == recorded["digest"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("imagnet", "did you mean imagenet"), ("none/weights.h5", "there is no none/weights.h5"), (".", "is a folder")],
)
def test_weights_that_are_not_there(setting: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        resolve_weights(FeaturesSpec(weights=setting), Silent())
    assert "\n" not in str(caught.value)


def test_a_model_file_has_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"weights='random' can't be used: .* has its own weights"):
        known_digest(FeaturesSpec(backbone=str(tmp_path / "net.keras"), weights="random"), None)


def test_settings_of_backbones_need_no_keras() -> None:
    assert backbone_settings(FeaturesSpec(backbone="ResNet50", taps=(Tap("a"), Tap("b", "avg")))) == {
        "backbone": "resnet50",
        "preprocessing": "caffe",
        "image_size": 48,
        "taps": ["a", "b:avg"],
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (FeaturesSpec(backbone="VGG61"), "backbone='VGG61' is neither .*, did you mean VGG1[69] or VGG1[69]"),
        (
            FeaturesSpec(backbone="qqq"),
            "backbone='qqq' is neither a keras.applications network nor a .keras file nor hub:PRESET$",
        ),
        (FeaturesSpec(image_size=31), "image_size=31 is too small: VGG16 needs at least 32 pixels"),
        (
            FeaturesSpec(backbone="xception", image_size=70),
            "image_size=70 is too small: Xception needs at least 71 pixels",
        ),
    ],
)
def test_impossible_backbones_are_known_before_keras_is(spec: FeaturesSpec, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        known_digest(spec, None)
    assert "\n" not in str(caught.value)


# -- the table against the installed Keras ------------------------------------------------------------------------


def test_the_table_has_every_network_that_keras_has() -> None:
    import keras

    networks = {name for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    assert {architecture.name for architecture in architectures().values()} == networks


@pytest.mark.parametrize("key", architectures())
def test_the_table_agrees_with_keras(key: str) -> None:
    import keras

    architecture = architectures()[key]
    network = getattr(keras.applications, architecture.name)
    with pytest.raises(ValueError, match=rf"at least {architecture.minimum}\D"):
        network(include_top=False, weights=None, input_shape=(architecture.minimum - 1,) * 2 + (3,))
    module = inspect.getmodule(network)
    pixels = np.array([[[[0.0, 100.0, 200.0]]]], np.float32)
    expected = pixels
    if architecture.preprocessing != "none":
        expected = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=architecture.preprocessing)
    np.testing.assert_array_equal(module.preprocess_input(pixels.copy()), expected)
    if architecture.digest and key != "vgg16":  # whose SHA-256 Keras does not know
        # the second ResNets are built, and their weights fetched, by the module of the first
        sources = inspect.getsource(module) + inspect.getsource(keras.src.applications.resnet)
        assert architecture.digest in sources


@pytest.mark.parametrize("key", ["vgg16", "vgg19", "resnet50", "resnet50v2", "densenet121", "mobilenet", "mobilenetv2"])
def test_the_table_names_the_file_that_keras_would_fetch(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    from keras.src.utils import file_utils

    class FetchedError(Exception):
        pass

    def get_file(fname: str, origin: str, file_hash: str | None = None, **settings: object) -> str:
        raise FetchedError(fname, origin, file_hash or "")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    architecture = architectures()[key]
    with pytest.raises(FetchedError) as caught:
        getattr(keras.applications, architecture.name)(include_top=False, weights="imagenet", input_shape=(224, 224, 3))
    file, url, digest = caught.value.args
    assert (file, url) == (architecture.file, architecture.url)
    # Keras knows VGG16 by MD5 only; the table has the SHA-256 of the same file
    assert digest == ("6d6bbae143d832006294945121d1f1fc" if key == "vgg16" else architecture.digest)
