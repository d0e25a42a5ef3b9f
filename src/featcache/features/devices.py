"""What Keras computes on, and why it isn't the machine's GPU. The framework is imported where it is asked."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from featcache.core.gpu import card_name, driver_version, may_have_gpu, nvidia_smi
from featcache.core.system import processor_name
from featcache.errors import SettingsError

_JAX_FLAG = "--xla_gpu_deterministic_ops=true"
_FIXES = {
    "tensorflow": "pip install 'featcache[gpu]'",
    "jax": "pip install 'jax[cuda12]'",
    "torch": "install a torch with CUDA (pytorch.org)",
}


@dataclass(frozen=True)
class Device:
    """What a network is computed on.

    Attributes:
        name: as people know it, e.g. ``Tesla T4`` or a processor's model.
        capability: CUDA compute capability (major, minor); None on a processor.
        problem: why a GPU that this machine has isn't used, and what to do, in one line; "" where there is none.
        place: its name for `keras.device`.
    """

    name: str
    capability: tuple[int, int] | None = None
    problem: str = ""
    place: str = "cpu:0"

    def refused(self, why: str) -> "Device":
        """Return the processor in place of this GPU."""
        return processor(f"{self.name} is not used: {why}")


def processor(problem: str = "") -> Device:
    """Return the processor, with the `problem` of a GPU that can't be used."""
    return Device(processor_name(), None, problem)


def find_device() -> Device:
    """Return the first GPU that Keras' backend sees, else the processor, with the reason where the machine has a GPU."""
    import keras

    backend = keras.backend.backend()
    found = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}[backend]()
    if found is not None:
        return found
    if not may_have_gpu():
        return processor()
    return Device(card_name()).refused(_why_unused(backend))


def make_deterministic() -> None:
    """Have the backend take, on GPUs, only algorithms that give the same bits again; for the rest of the process.

    Raises:
        SettingsError: JAX decides that when it starts.
    """
    import keras

    backend = keras.backend.backend()
    if backend == "jax" and _JAX_FLAG not in os.environ.get("XLA_FLAGS", ""):
        raise SettingsError(f"[Features] deterministic=true isn't in force on JAX: set XLA_FLAGS={_JAX_FLAG}")
    if backend == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
    elif backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def gpu_kernels() -> list[str]:
    """Return for which architectures TensorFlow brings kernels, e.g. ``sm_80``, ``compute_90``; [] where it can't be known."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    return list(tf.sysconfig.get_build_info().get("cuda_compute_capabilities", []))


def _of_tensorflow() -> Device | None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    major, minor = details.get("compute_capability") or (0, 0)
    return Device(str(details.get("device_name", "GPU")), (int(major), int(minor)), place="gpu:0") if gpus else None


def _of_jax() -> Device | None:
    import jax

    device: Any = jax.devices()[0]
    if device.platform == "cpu":
        return None
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")  # which a TPU doesn't have
    capability = (int(major), int(minor or 0)) if major.isdigit() else None
    return Device(str(device.device_kind), capability, place=f"{device.platform}:0")


def _of_torch() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return Device(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), place="gpu:0")


def _why_unused(backend: str) -> str:
    """Cause and fix of a card that the backend doesn't see."""
    status, answer = nvidia_smi("-L")
    if status not in (0, 127):
        return f"its driver doesn't answer (nvidia-smi: {answer}): install the driver again, or reboot"
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.test.is_built_with_cuda():
            return f"this TensorFlow is built without CUDA: pip uninstall tensorflow-cpu, then {_FIXES[backend]}"
        if find_spec("nvidia") is not None and find_spec("nvidia.cudnn") is not None:
            needed = tf.sysconfig.get_build_info().get("cuda_version", "12")
            return f"TensorFlow can't start CUDA {needed} on driver {driver_version() or 'unknown'}: install a newer driver"
    return f"{backend} finds no CUDA libraries: {_FIXES[backend]}"
