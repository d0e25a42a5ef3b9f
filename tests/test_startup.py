"""What Keras finds before it is imported: keras.json, KERAS_BACKEND, and homes of every kind."""

import hashlib
import json
import os
import pwd
import socket
import stat
from pathlib import Path

import pytest
from command import environment, luigi, photos
from notices import Notices
from projects import write_photos

from featcache.core import keras_import
from featcache.core.keras_import import check_keras, keras_backend, keras_fault, keras_folder
from featcache.core.progress import Silent
from featcache.errors import SettingsError, WeightsError, WeightsUnavailableError
from featcache.features import weights
from featcache.features.weights import imagenet_file, known_digest, resolve_weights
from featcache.inspection.doctor import checks, hardware
from featcache.inspection.doctor.checks import FAIL, PASS, WARN
from featcache.settings.architectures import find_architecture
from featcache.settings.specs import FeaturesSpec


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder without network."""
    for name in ("KERAS_HOME", "KERAS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(weights.URL_VARIABLE, f"http://127.0.0.1:{closed.getsockname()[1]}")
    return tmp_path / "home"


def write_json(home: Path, content: object) -> Path:
    path = home / ".keras/keras.json"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# -- keras.json and KERAS_BACKEND -------------------------------------------------------------------------------------

FIRST_PART = {"image_dim_ordering": "tf", "epsilon": 1e-07, "floatx": "float32", "backend": "theano"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FIRST_PART, ["backend='theano'", "tensorflow, jax, torch"]),
        ({"backend": "cntk"}, ["backend='cntk'"]),
        ({"backend": "Tensorflow"}, ["backend='Tensorflow'"]),
        ({"backend": None}, ["backend=None"]),
        ({"backend": ["jax"]}, ["backend=['jax']"]),
        ({"floatx": "float8"}, ["floatx='float8'", "float16, float32, float64"]),
        ({"image_data_format": "th"}, ["image_data_format='th'"]),
        ({"epsilon": 1}, ["epsilon=1"]),
        ("[]", ["is not a JSON object", "list"]),
        ('"theano"', ["is not a JSON object", "str"]),
        ("[" * 100_000, ["nested too deeply"]),
    ],
)
def test_a_keras_json_that_keras_would_fail_by_is_named_with_its_fault_and_the_fix(home, content, words):
    path = write_json(home, content)
    found, fix = keras_fault()
    for word in (*words, str(path)):
        assert word in found
    assert str(path) in fix
    with pytest.raises(SettingsError) as caught:
        check_keras()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["{broken", "", "\x00", {}, {"floatx": "float16", "epsilon": 0.1}, {"backend": "tensorflow", "more": 1}]
)
def test_a_keras_json_that_keras_reads_or_ignores_is_no_fault(home, content):
    assert keras_fault() is None
    write_json(home, content)
    assert keras_fault() is None
    assert keras_backend() == "tensorflow"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_keras_json_that_is_no_file_neither_hangs_nor_passes(home, make):
    (home / ".keras").mkdir()
    make(home / ".keras/keras.json")
    with pytest.raises(SettingsError, match=r"keras\.json can't be read: .* or set KERAS_HOME to another folder"):
        check_keras()
    assert keras_backend() == "tensorflow"


def test_the_environment_decides_before_keras_json(home, monkeypatch):
    write_json(home, FIRST_PART)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert keras_fault() is None
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    with pytest.raises(
        SettingsError, match=r"the environment: unknown KERAS_BACKEND='theano'; known: .*: unset KERAS_BACKEND"
    ):
        check_keras()
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert keras_backend() == "theano"


def test_a_backend_that_is_not_installed_is_told_from_one_that_keras_does_not_know(home, monkeypatch):
    path = write_json(home, {"backend": "jax"})
    monkeypatch.setattr(keras_import, "find_spec", lambda name: None)
    monkeypatch.delitem(keras_import.sys.modules, "jax", raising=False)
    assert keras_fault() == (
        f"{path}: backend='jax' is not installed",
        f"pip install jax, or correct or remove {path}",
    )


def test_doctor_says_so_instead_of_advising_to_install_again(home):
    path = write_json(home, FIRST_PART)
    checks = {
        check.name: check for check in hardware.hardware_checks("float32", Silent(), ("-c", "raise SystemExit(1)"))
    }
    assert "backend" not in checks
    assert (checks["keras"].state, checks["keras"].fix) == (FAIL, f"correct or remove {path}")


def test_a_run_says_so_before_any_work(home, tmp_path):
    path = write_json(home, FIRST_PART)
    write_photos(tmp_path / "photos")
    outcome = luigi(tmp_path, "Submit", **photos(tmp_path / "photos"))
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert f"{path}: unknown backend" in outcome.err
    assert not (tmp_path / "artifacts").exists()
    assert environment()["HOME"] == str(home)


# -- homes ------------------------------------------------------------------------------------------------------------


def nobody(home, monkeypatch):
    """As under ``docker run -u 12345``: no HOME, and no entry for the user."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def a_file(home, monkeypatch):
    home.rmdir()
    home.write_text("")


def keras_is_a_file(home, monkeypatch):
    (home / ".keras").write_text("")


def models_is_a_fifo(home, monkeypatch):
    (home / ".keras").mkdir()
    os.mkfifo(home / ".keras/models")


def weights_are_a_folder(home, monkeypatch):
    imagenet_file(find_architecture("vgg16")).mkdir(parents=True)


def keras_home_is_a_circle(home, monkeypatch):
    (home / "circle").symlink_to(home / "circle")
    monkeypatch.setenv("KERAS_HOME", str(home / "circle"))


HOMES = {
    "nobody": nobody,
    "a file": a_file,
    ".keras a file": keras_is_a_file,
    "models a FIFO": models_is_a_fifo,
    "weights a folder": weights_are_a_folder,
    "KERAS_HOME a circle": keras_home_is_a_circle,
    "HOME empty": lambda home, monkeypatch: monkeypatch.setenv("HOME", ""),
    "HOME relative": lambda home, monkeypatch: monkeypatch.setenv("HOME", "no/such/home"),
    "HOME in /proc": lambda home, monkeypatch: monkeypatch.setenv("HOME", "/proc"),
    "HOME not there": lambda home, monkeypatch: home.rmdir(),
    "KERAS_HOME empty": lambda home, monkeypatch: monkeypatch.setenv("KERAS_HOME", ""),
    "KERAS_HOME of nobody": lambda home, monkeypatch: monkeypatch.setenv("KERAS_HOME", "~no-such-user/keras"),
    "KERAS_HOME no folder": lambda home, monkeypatch: monkeypatch.setenv("KERAS_HOME", "/dev/null/keras"),
}


@pytest.mark.parametrize("kind", HOMES)
def test_auto_goes_on_in_any_home_and_imagenet_ends_in_one_line(home, monkeypatch, kind):
    monkeypatch.chdir(home.parent)
    HOMES[kind](home, monkeypatch)
    check_keras()
    progress = Notices()
    assert resolve_weights(FeaturesSpec(), progress).kind == "random"
    assert len(progress.messages) == 1
    assert progress.messages[0].startswith("RANDOM WEIGHTS: ")
    with pytest.raises(WeightsUnavailableError) as caught:
        resolve_weights(FeaturesSpec(weights="imagenet"), Silent())
    assert "\n" not in str(caught.value)
    states = [checks.weights_check(FeaturesSpec(weights=setting)).state for setting in ("auto", "imagenet")]
    assert states == [WARN, FAIL]


@pytest.mark.parametrize("kind", ["a file", ".keras a file", "models a FIFO", "KERAS_HOME no folder"])
def test_doctor_does_not_promise_a_download_that_can_not_be_kept(home, monkeypatch, kind):
    monkeypatch.setattr(checks, "check_reachable", lambda url, limits: None)
    assert checks.weights_check(FeaturesSpec()).state == PASS
    HOMES[kind](home, monkeypatch)
    told = checks.weights_check(FeaturesSpec())
    assert (told.state, "can't be written" in told.found, "KERAS_HOME" in told.fix) == (WARN, True, True)


def test_a_download_that_can_not_be_kept_is_told_with_the_way_out(home, monkeypatch):
    def refused(url, path, **settings):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(weights, "download", refused)
    told = resolve_weights(FeaturesSpec(), Silent()).note
    assert f"{home / '.keras/models'} can't be written (permission denied): set KERAS_HOME to a folder that can" in told


def test_weights_in_a_home_that_can_not_be_written_are_found(home, monkeypatch):
    path = home / ".keras/models" / find_architecture("vgg16").file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    monkeypatch.setattr(keras_import.os, "access", lambda path, mode: False)
    assert keras_folder() == Path("/tmp/.keras")
    assert imagenet_file(find_architecture("vgg16")) == path


def test_a_page_for_logging_in_is_not_taken_for_weights_that_nobody_knows_the_digest_of(home):
    path = imagenet_file(find_architecture("mobilenet"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<!DOCTYPE html><title>Hotel</title>")
    with pytest.raises(WeightsError, match=r"is damaged: it begins with b'<!DOCTYP', not as HDF5; remove it"):
        resolve_weights(FeaturesSpec(backbone="mobilenet"), Silent())


# -- a user's own file ------------------------------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)


def circle(path):
    path.symlink_to(path)


def link_to_nothing(path):
    path.symlink_to(path.with_name("gone"))


def socket_file(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a folder"),
        (fifo, "is a FIFO"),
        (circle, "is a link that leads in a circle"),
        (link_to_nothing, "there is no "),
        (socket_file, "is a socket"),
    ],
)
def test_a_users_file_that_is_none_is_one_line_and_no_wait(tmp_path, monkeypatch, suffix, make, words):
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    path = Path(f"mine{suffix}")
    make(path)
    key = "backbone" if suffix == ".keras" else "weights"
    spec = FeaturesSpec(**{key: str(path)})
    assert known_digest(spec, None) is None
    with pytest.raises(WeightsError, match=words) as caught:
        resolve_weights(spec, Silent())
    assert str(caught.value).startswith(f"[Features] {key}: ")
    assert "\n" not in str(caught.value)
    assert checks.weights_check(spec).state == FAIL


def test_a_home_that_nobody_has_is_named(tmp_path):
    for spec in (FeaturesSpec(weights="~no-such-user/w.h5"), FeaturesSpec(backbone="~no-such-user/net.keras")):
        with pytest.raises(SettingsError, match="'~no-such-user' has no home folder"):
            resolve_weights(spec, Silent())
        assert checks.weights_check(spec).state == FAIL


def test_a_file_of_weights_is_digested_as_it_was(tmp_path):
    (tmp_path / "mine.h5").write_bytes(b"weights")
    found = resolve_weights(FeaturesSpec(weights=str(tmp_path / "mine.h5")), Silent())
    assert found.digest == hashlib.sha256(b"weights").hexdigest()
