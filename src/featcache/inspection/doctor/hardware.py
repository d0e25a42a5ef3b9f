"""What computes: TensorFlow or another backend in a child process with a time limit, GPU, processor, precision."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featcache.core.keras_import import keras_fault
from featcache.core.progress import Progress
from featcache.core.system import core_numbers
from featcache.features import CPUINFO, choose_precision, cpu_flags
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check

_CHILD_SECONDS = 90.0
_CHILD = (sys.executable, "-m", "featcache.inspection.doctor.child")
_NVIDIA = "0x10de"
_REINSTALL = "pip install --force-reinstall tensorflow keras, in the ranges of featcache"
_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def hardware_checks(
    setting: str, progress: Progress, command: tuple[str, ...] = _CHILD, seconds: float = _CHILD_SECONDS
) -> Iterator[Check]:
    """Yield checks of the backend, the GPU, the processor, and of what ``auto`` precision takes.

    Args:
        setting: ``[Features] precision``.
        progress: is told that this takes seconds.
        command: what is run as the child.
        seconds: how long it may take.
    """
    facts, said, wrong = None, "", keras_fault()
    if wrong is None:
        progress.start("importing the backend", 1, "process")
        facts, said = _child(command, seconds)
        progress.finish()
    if wrong is not None:
        yield Check("keras", FAIL, *wrong)
    elif facts is None:
        yield Check("backend", FAIL, said, _REINSTALL)
    else:
        yield Check("backend", PASS, f"Keras on {facts['backend']} computes a convolution and its gradient")
        yield gpu_check(facts, said)
    yield _processor()
    capability = tuple(facts["capability"]) if facts and facts["capability"] else None
    chosen = choose_precision(setting, capability)
    yield Check("precision", PASS, f"{chosen.name}: {chosen.reason}")


def _child(command: tuple[str, ...], seconds: float) -> tuple[dict[str, Any] | None, str]:
    """What the child found, None where it didn't come to its end; and its complaints, or how it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"importing it and a small convolution took longer than {seconds:.0f} s"
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        why = ": this processor lacks instructions that it was built for" if name == "SIGILL" else f": {last}"
        return None, f"importing it or a small convolution crashed with {name}{why}"
    if done.returncode:
        return None, f"importing it or a small convolution failed: {last}"
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts, done.stderr


def gpu_check(facts: dict[str, Any], said: str, root: Path = Path("/")) -> Check:
    """Say which GPUs the backend uses; where there is one that it doesn't use, why.

    Args:
        facts: of the child.
        said: its standard error.
        root: of the file system in which the kernel shows devices and driver.
    """
    if facts["gpus"] or facts["capability"]:
        names = ", ".join(facts["gpus"]) or "one"
        number = ".".join(map(str, facts["capability"] or ["unknown"]))
        return Check("gpu", PASS, f"{names}; compute capability {number}")
    vendors = (root / "sys/bus/pci/devices").glob("*/vendor")
    there = any(path.read_text().strip() == _NVIDIA for path in vendors)
    driver = (root / "proc/driver/nvidia/version").exists()
    if not there and not driver:
        return Check("gpu", PASS, "none in this machine; everything runs on the processor")
    if not driver:
        return Check(
            "gpu",
            WARN,
            "an NVIDIA device is there, its driver isn't",
            "install NVIDIA's driver; nvidia-smi must list it",
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Check("gpu", WARN, f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES to use it")
    if facts["backend"] == "tensorflow" and not facts["cuda"]:
        return Check("gpu", WARN, "this build of TensorFlow has no CUDA", "pip install 'featcache[gpu]'")
    lines = [line for line in said.splitlines() if any(word in line for word in ("dlopen", "cuda", "CUDA", "GPU"))]
    why = lines[-1].rpartition("] ")[2] if lines else "no reason given"
    return Check(
        "gpu", WARN, f"{facts['backend']} can't use it: {why}", "pip install 'featcache[gpu]' brings CUDA's libraries"
    )


def _processor() -> Check:
    flags = cpu_flags(CPUINFO)
    found = [name for flag, name in _UNITS.items() if flags is not None and flag in flags]
    told = f"{len(core_numbers())} cores with {', '.join(found) or 'no vector units that are known'}"
    if flags is not None and "avx2" not in flags:
        return Check(
            "processor", WARN, told, "expect some images a second; a processor with AVX2 is several times faster"
        )
    return Check("processor", PASS, told)
