"""What computes: the backend imports and computes in a child process with a time limit; GPU and precision.

``python -m featcache.inspection.doctor.hardware`` is the child; it prints what it found as one line of JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featcache.core.gpu import VISIBLE
from featcache.core.keras_import import keras_fault
from featcache.core.progress import Progress
from featcache.features import choose_precision
from featcache.inspection.child_process import environment, failure
from featcache.inspection.doctor.checks import FAIL, PASS, WARN, Check

_SECONDS = 90.0
_CHILD = ("-m", "featcache.inspection.doctor.hardware")
_HIDDEN = {VISIBLE: "-1"}
_REINSTALL = "pip install --force-reinstall tensorflow keras"
_OLDEST = (7, 5)  # the first compute capability of the current cuDNN


def hardware_checks(
    setting: str, progress: Progress, command: Sequence[str] = _CHILD, seconds: float = _SECONDS
) -> Iterator[Check]:
    """Yield checks of the backend, the device that it computes on, and the precision, of which `setting` is luigi.cfg's.

    The child that imports the backend is Python with the arguments `command`; it has so many `seconds`. Where it fails on a
    GPU, another one tries without.
    """
    capability, fault = None, keras_fault()
    if fault is not None:
        yield Check("keras", FAIL, *fault)
    else:
        progress.start("importing the backend", 1, "process")
        failed, output, complaints = _run(command, seconds)
        facts = json.loads(next((line for line in output if line.startswith("{")), "{}"))
        on_gpu = ": ".join([failed, *complaints[-1:]]) if failed and facts.get("capability") else ""
        if on_gpu:
            failed, output, complaints = _run(command, seconds, _HIDDEN)
        progress.finish()
        if failed:
            found = ": ".join([f"importing it and computing a small convolution {failed}", *complaints[-1:]])
            yield Check("backend", FAIL, found, _REINSTALL)
        else:
            yield Check("backend", PASS, f"Keras on {facts['backend']} computes a convolution and its gradient")
            yield device_check(facts, on_gpu)
            capability = tuple(facts["capability"]) if facts["capability"] and not on_gpu else None
    chosen = choose_precision(setting, capability)
    yield Check("precision", PASS, f"{chosen.name}: {chosen.reason}")


def _run(
    command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None
) -> tuple[str, list[str], list[str]]:
    """How a child failed ("": it didn't), and the lines of its output and of its standard error."""
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            [sys.executable, *command],
            capture_output=True,
            timeout=seconds,
            env={**environment(), **(variables or {})},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return f"took longer than {seconds:.0f} s", _lines(error.stdout), _lines(error.stderr)
    return failure(done.returncode) if done.returncode else "", _lines(done.stdout), _lines(done.stderr)


def _lines(stream: bytes | None) -> list[str]:
    return [line for line in (stream or b"").decode("utf-8", "replace").splitlines() if line.strip()]


def device_check(facts: Mapping[str, Any], failure: str = "") -> Check:
    """Check the device by what the child found, and how it failed on it."""
    if facts["problem"]:
        found, _, fix = facts["problem"].rpartition(": ")
        return Check("device", WARN, f"{facts['device']}; {found}", fix)
    if not facts["capability"]:
        return Check("device", PASS, facts["device"])
    card = f"{facts['device']}, compute capability {'.'.join(map(str, facts['capability']))}"
    if not failure:
        return Check("device", PASS, card)
    why, fix = unfit(tuple(facts["capability"]), facts["kernels"])
    return Check("device", WARN, f"{card}: a small convolution {failure}; {why}", fix)


def unfit(capability: tuple[int, int], kernels: Sequence[str]) -> tuple[str, str]:
    """Return why a card fails, by its age and the `kernels` in TensorFlow's wheel, and what to do."""
    newest = max((int(name.partition("_")[2]) for name in kernels if name.startswith("sm_")), default=0)
    if newest and capability[0] > newest // 10:
        why = f"TensorFlow has kernels for {', '.join(kernels)} alone and compiles others, for up to half an hour"
        return (
            why,
            "let the first run take its time (CUDA_CACHE_MAXSIZE=4294967296 keeps them all), or a newer tensorflow",
        )
    if capability < _OLDEST:
        why = "cuDNN has dropped cards before compute capability 7.5 in release 9.11"
        return why, "pip install 'nvidia-cudnn-cu12<9.11', or hide the GPU by CUDA_VISIBLE_DEVICES=-1"
    return (
        "the driver may be too old for TensorFlow's CUDA",
        "install a newer driver, or hide the GPU by CUDA_VISIBLE_DEVICES=-1",
    )


def main() -> None:
    """Import Keras and its backend, print what is there, then compute a small convolution and its gradient."""
    import keras

    from featcache.features import find_device, gpu_kernels

    device = find_device()
    facts = {"backend": keras.backend.backend(), "device": device.name, "capability": device.capability}
    sys.stdout.write(json.dumps({**facts, "problem": device.problem, "kernels": gpu_kernels()}) + "\n")
    sys.stdout.flush()  # known also where the rest crashes or hangs
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 1)), verbose=0)


if __name__ == "__main__":
    main()
