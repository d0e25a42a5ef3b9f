"""What computes: the backend imports and computes in a child process with a time limit; GPU and precision.

``python -m featcache.inspection.doctor.hardware`` is the child; it prints what it found as one line of JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from featcache.core.keras_import import keras_fault
from featcache.core.progress import Progress
from featcache.features import choose_precision
from featcache.inspection.child_process import environment, failure
from featcache.inspection.doctor.checks import FAIL, PASS, WARN, Check

_SECONDS = 90.0
_CHILD = ("-m", "featcache.inspection.doctor.hardware")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def hardware_checks(
    setting: str, progress: Progress, command: Sequence[str] = _CHILD, seconds: float = _SECONDS
) -> Iterator[Check]:
    """Yield checks of the backend, the device that it computes on, and the precision, of which `setting` is luigi.cfg's.

    The child that imports the backend is Python with the arguments `command`; it has so many `seconds`.
    """
    capability, fault = None, keras_fault()
    if fault is not None:
        yield Check("keras", FAIL, *fault)
    else:
        progress.start("importing the backend", 1, "process")
        failed, output, complaints = _run(command, seconds)
        progress.finish()
        if failed:
            found = ": ".join([f"importing it and computing a small convolution {failed}", *complaints[-1:]])
            yield Check("backend", FAIL, found, "pip install --force-reinstall tensorflow keras")
        else:
            facts = json.loads(output[-1])
            yield Check("backend", PASS, f"Keras on {facts['backend']} computes a convolution and its gradient")
            yield device_check(facts, complaints)
            capability = tuple(facts["capability"]) if facts["capability"] else None
    chosen = choose_precision(setting, capability)
    yield Check("precision", PASS, f"{chosen.name}: {chosen.reason}")


def _run(command: Sequence[str], seconds: float) -> tuple[str, list[str], list[str]]:
    """How a child failed ("": it didn't), and the lines of its output and of its standard error."""
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            [sys.executable, *command], capture_output=True, timeout=seconds, env=environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        return f"took longer than {seconds:.0f} s", [], _lines(error.stderr)
    return failure(done.returncode) if done.returncode else "", _lines(done.stdout), _lines(done.stderr)


def _lines(stream: bytes | None) -> list[str]:
    return [line for line in (stream or b"").decode("utf-8", "replace").splitlines() if line.strip()]


def device_check(facts: dict[str, Any], complaints: Sequence[str], driver: Path = _NVIDIA_DRIVER) -> Check:
    """Check whether the backend uses the GPU, if there is one, by what the child found and complained of."""
    if facts["gpus"] or facts["capability"]:
        number = ".".join(map(str, facts["capability"] or ["unknown"]))
        return Check("device", PASS, f"{', '.join(facts['gpus']) or 'GPU'}; compute capability {number}")
    if not driver.exists():
        return Check("device", PASS, "the processor; no NVIDIA driver is loaded")
    reasons = [line for line in complaints if any(word in line for word in ("dlopen", "cuda", "CUDA", "GPU"))]
    why = reasons[-1].rpartition("] ")[2] if reasons else "it lists none"
    fix = "unset CUDA_VISIBLE_DEVICES, or pip install 'featcache[gpu]' for CUDA's libraries"
    return Check("device", WARN, f"the processor; {facts['backend']} can't use the GPU: {why}", fix)


def main() -> None:
    """Import Keras and its backend, compute a small convolution and its gradient, print what is there."""
    import keras

    from featcache.features import gpu_capability

    facts: dict[str, Any] = {"backend": keras.backend.backend(), "capability": gpu_capability(), "gpus": []}
    if facts["backend"] == "tensorflow":
        import tensorflow as tf

        details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
        facts["gpus"] = [each.get("device_name", "GPU") for each in details]
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 1)), verbose=0)
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
