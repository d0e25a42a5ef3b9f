"""Values come from settings and inputs alone: not from keras.json, nor from the environment or the program around."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command import environment

keras = pytest.importorskip("keras")

import keras_values  # noqa: E402  # after importorskip

from featcache.core.keras_import import plain_keras  # noqa: E402

TESTS = Path(__file__).parent
NAMES = ("floatx", "epsilon", "image_data_format")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras_values.own_backbone(tmp_path_factory.mktemp("own") / "net.keras")


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, str]:
    return keras_values.values(model)


@pytest.fixture
def restored():
    """What a test sets is put back."""
    kept = {name: getattr(keras.config, name)() for name in NAMES}
    policy = keras.config.dtype_policy()
    printed = np.get_printoptions()
    yield
    for name, value in kept.items():
        getattr(keras.config, f"set_{name}")(value)
    keras.config.set_dtype_policy(policy)
    np.set_printoptions(**printed)


IMPORT = """
import sys
from pathlib import Path
from featcache.core.keras_import import import_keras, own_process
if {own}:
    own_process()
import_keras(Path({log!r}))
print(sorted({{"pandas", "sklearn"}} & {{*sys.modules}}))
import pandas, sklearn.base
print(pandas.DataFrame({{"a": [1]}}).shape, sklearn.base.BaseEstimator.__name__)
"""


@pytest.mark.parametrize(("own", "imported"), [(True, "[]"), (False, "['pandas', 'sklearn']")])
def test_keras_comes_alone_in_a_process_of_featcache_and_anything_can_be_imported_afterwards(tmp_path, own, imported):
    script = IMPORT.format(own=own, log=str(tmp_path / "log"))
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines() == [imported, "(1, 1) BaseEstimator"], done.stderr


def in_force() -> list[object]:
    return [*(getattr(keras.config, name)() for name in NAMES), keras.config.dtype_policy().name]


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"floatx": "float16", "epsilon": 0.25}, "mixed_float16"),
        ({"floatx": "float64", "image_data_format": "channels_first"}, "float64"),
    ],
    ids=["half", "double"],
)
def test_a_program_that_set_keras_otherwise_gets_the_same_values_and_keeps_its_settings(
    model, expected, restored, settings, policy
):
    for name, value in settings.items():
        getattr(keras.config, f"set_{name}")(value)
    keras.config.set_dtype_policy(policy)
    np.set_printoptions(precision=2, legacy="1.13")
    before = in_force()
    assert keras_values.values(model) == expected
    assert in_force() == before


def test_neither_keras_json_nor_the_environment_shows_in_any_value(tmp_path, model, expected):
    """One process: whatever of it shows would show in one of the values."""
    odd = {"floatx": "float16", "epsilon": 0.25, "image_data_format": "channels_first", "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(odd))
    more = {
        "KERAS_HOME": str(tmp_path),
        "KERAS_MAX_EPOCHS": "0",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "TF_ENABLE_AUTO_MIXED_PRECISION": "1",
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "PYTHONOPTIMIZE": "1",
    }
    path = os.pathsep.join([environment()["PYTHONPATH"], str(TESTS)])
    done = subprocess.run(
        [sys.executable, TESTS / "keras_values.py", model],
        env=environment(**more, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_settings_are_put_back_by_the_last_of_several_threads(restored):
    keras.config.set_floatx("float16")
    inside, leave = threading.Event(), threading.Event()

    def compute():
        with plain_keras():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=compute)
    with plain_keras():
        other.start()
        inside.wait(10)
        with plain_keras():
            assert keras.config.dtype_policy().name == "float32"
    assert keras.config.floatx() == "float32", "the other thread still computes"
    leave.set()
    other.join()
    assert keras.config.floatx() == "float16"


def test_they_are_put_back_after_a_failure(restored):
    keras.config.set_floatx("float64")
    with pytest.raises(RuntimeError), plain_keras():
        raise RuntimeError
    assert keras.config.floatx() == "float64"


def test_garbage_is_neither_searched_for_while_keras_is_imported_nor_at_the_end(tmp_path):
    """With a module of that name in its place, which sees what is in force."""
    (tmp_path / "keras.py").write_text(
        "import gc, types; seen = gc.isenabled(); backend = types.SimpleNamespace(backend=str)"
    )
    program = f"""
import atexit, gc, sys
sys.path.insert(0, {str(tmp_path)!r})
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # called last
from pathlib import Path
from featcache.core.keras_import import import_keras
import_keras(Path({str(tmp_path / "log")!r}))
import keras
print(keras.seen, gc.isenabled(), gc.get_freeze_count() > 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False", "True"], done.stderr
