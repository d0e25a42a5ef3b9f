"""Features and heads on JAX, with four devices, as on a machine with several GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import environment

pytest.importorskip("jax", reason="pip install jax")

PROGRAM = """
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.core.keras_import import import_keras

import_keras(Path(os.devnull))
import jax
import keras
from test_engines import RATE, plan, setting

from featcache.core.progress import Silent
from featcache.features.backbone import load_backbone
from featcache.features.devices import find_device
from featcache.features.self_check import check_images, compared
from featcache.features.weights import resolve_weights
from featcache.settings.specs import FeaturesSpec, Tap
from featcache.training.heads.keras_engine import KerasEngine

assert (keras.backend.backend(), len(jax.devices()), find_device().capability) == ("jax", 4, None)
keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Conv2D(8, 3, name="conv")]).save("net.keras")
spec = FeaturesSpec("net.keras", taps=(Tap("conv", "avg"), Tap("conv", "max")))
images = check_images(48)
rows = [
    load_backbone(spec, resolve_weights(spec, Silent()), precision, batch).forward(images)
    for precision, batch in (("float32", 4), ("bfloat16", 4), ("float16", 2))
]
assert [compared(found, rows[0]) for found in rows] == ["", "", ""]
of = plan(0.3)
_, batches, there = setting(of, KerasEngine)
_, _, here = setting(of)
for batch in batches.epoch():
    assert np.allclose(there.train_step(batch, RATE), here.train_step(batch, RATE), atol=1e-4)
assert all(np.allclose(there.weights[name], array, atol=3e-4) for name, array in here.weights.items())
"""


def test_four_devices_compute_what_one_processor_does(tmp_path):
    paths = f"{environment()['PYTHONPATH']}{os.pathsep}{Path(__file__).parent}"
    variables = environment(
        PYTHONPATH=paths, KERAS_BACKEND="jax", XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu"
    )
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
