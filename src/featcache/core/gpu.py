"""What can be known of NVIDIA's cards without a framework: what the driver shows, and which errors mean too little memory."""

import os
import re
import subprocess
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_WINDOWS_DRIVER = "usr/lib/wsl/lib/libcuda.so.1"  # of WSL, where a card has no device file of its own
_ROOT = Path("/")
_SCARCE_TYPES = ("ResourceExhaustedError", "OutOfMemoryError")
# Everything else that TensorFlow, JAX and cuDNN raise when a card's memory is out.
_SCARCE = re.compile(
    "RESOURCE_EXHAUSTED|out of memory|OOM when allocating|Dst tensor is not initialized|No algorithm worked"
    "|DNN library initialization failed|STATUS_ALLOC_FAILED"
)


def gpu_count(root: Path = _ROOT) -> int:
    """Return how many cards have a device file, whatever its number: a container may have /dev/nvidia3 alone."""
    devices = [path for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return len(devices) or int((root / _WINDOWS_DRIVER).exists())


def visible_gpus(root: Path = _ROOT) -> list[str]:
    """Return the GPUs that CUDA would show to this process, by its own numbers, from 0, or as the environment names them."""
    if (named := os.environ.get(VISIBLE)) is not None:  # what follows an invalid one is hidden, too
        return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, named.split(","))))
    return list(map(str, range(gpu_count(root))))


def may_have_gpu(root: Path = _ROOT) -> bool:
    """Whether there is a card that isn't hidden; the framework, which knows whether it can be used, isn't imported."""
    return gpu_count(root) > 0 and bool(visible_gpus(root))


def card_name(root: Path = _ROOT) -> str:
    """Return the first card's name by the driver, e.g. ``Tesla T4``; ``NVIDIA GPU`` where the driver doesn't say."""
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        if found := re.search(r"^Model:\s*(\S.*)", path.read_text("utf-8", "replace"), re.MULTILINE):
            return found[1].strip()
    return "NVIDIA GPU"


def driver_version(root: Path = _ROOT) -> str:
    """Return the version of the NVIDIA driver that is loaded, "" for none."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(r"Module.*?\s(\d+\.[\d.]+)", text)
    return found[1] if found else ""


@lru_cache(maxsize=1)
def free_bytes() -> int | None:
    """Return the free memory of the first visible GPU as it was at the first call; None where nvidia-smi can't say."""
    first = (visible_gpus() or ["0"])[0]
    status, answer = nvidia_smi("--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", first)
    return int(answer) << 20 if status == 0 and answer.isdigit() else None


def nvidia_smi(*arguments: str) -> tuple[int, str]:
    """Return exit status and first line of nvidia-smi's answer; status 127 where it isn't installed."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603, S607 - the driver's own
    except subprocess.TimeoutExpired as error:
        return 124, f"none in {error.timeout:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a framework's error means that the GPU's memory is used up, which comes in many forms."""
    return type(error).__name__ in _SCARCE_TYPES or _SCARCE.search(str(error)) is not None
