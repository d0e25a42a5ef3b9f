"""What the convolutions compute in: float32, or bfloat16 where the hardware multiplies it natively."""

import re
from dataclasses import dataclass
from pathlib import Path

from featcache.settings import PRECISIONS, one_of

CPUINFO = Path("/proc/cpuinfo")
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
_AMPERE = (8, 0)  # the first compute capability with bfloat16 tensor cores


@dataclass(frozen=True)
class Precision:
    """A resolved precision: `name` is ``float32`` or ``bfloat16``, `reason` is why it was chosen, in a few words."""

    name: str
    reason: str


def choose_precision(setting: str, gpu_capability: tuple[int, int] | None = None, cpuinfo: Path = CPUINFO) -> Precision:
    """Resolve ``[Features] precision``; ``auto`` takes bfloat16 exactly where it is native.

    Args:
        setting: ``auto``, ``float32`` or ``bfloat16``.
        gpu_capability: CUDA compute capability (major, minor) of the GPU in use (`backbone.gpu_capability`), None on a CPU.
        cpuinfo: where Linux lists the processor's flags; where it is missing float32 is taken.

    Raises:
        SettingsError: the setting is none of these.

    Example:
        >>> choose_precision("auto", gpu_capability=(8, 0)).name
        'bfloat16'
    """
    one_of("[Features] precision", setting, PRECISIONS)
    if setting != "auto":
        return Precision(setting, f"precision = {setting}")
    if gpu_capability is not None:
        name, verdict = ("bfloat16", "has") if gpu_capability >= _AMPERE else ("float32", "lacks")
        capability = ".".join(map(str, gpu_capability))
        return Precision(name, f"GPU of compute capability {capability}, which {verdict} bfloat16 units")
    try:
        flags = re.search(r"^flags\s*:(.*)", cpuinfo.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        flags = None
    if flags is None:
        return Precision("float32", f"the processor's flags can't be read from {cpuinfo}")
    native = next((flag for flag in _CPU_FLAGS if flag in flags[1].split()), None)
    if native:
        return Precision("bfloat16", f"the processor has {native}")
    return Precision("float32", f"the processor has neither {' nor '.join(_CPU_FLAGS)}")
