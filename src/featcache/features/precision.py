"""What the convolutions compute in: float32, or bfloat16 or float16 where the hardware multiplies it faster."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.settings import PRECISIONS, one_of

CPUINFO = Path("/proc/cpuinfo")
_AMX, _AVX = "amx_bf16", "avx512_bf16"
# Intel's processors from Sapphire Rapids on (they have AVX512_FP16) are fast in bfloat16 by AMX alone, and virtual machines
# often hide that: by AVX512_BF16 VGG16 has half the speed of float32 there, and twice its speed on AMD's.
_INTEL, _SAPPHIRE_RAPIDS = "GenuineIntel", "avx512_fp16"
_VOLTA, _AMPERE = (7, 0), (8, 0)  # the first compute capabilities with tensor cores for float16, and for bfloat16


@dataclass(frozen=True)
class Precision:
    """A resolved precision: `name` is ``float32``, ``bfloat16`` or ``float16``, `reason` is why it was chosen, in a few words."""

    name: str
    reason: str


def choose_precision(
    setting: str,
    gpu_capability: tuple[int, int] | None = None,
    cpuinfo: Path = CPUINFO,
    known: Sequence[str] = PRECISIONS,
) -> Precision:
    """Resolve a precision; ``auto`` takes bfloat16 where it is faster than float32, and else float16 on GPUs that have that alone.

    Args:
        setting: one of `known`.
        gpu_capability: CUDA compute capability (major, minor) of the GPU in use (`Device.capability`), None on a CPU.
        cpuinfo: where Linux lists the processor's maker and flags; where it is missing float32 is taken.
        known: what may be taken: gradients leave float16's range, so that nothing is trained in it.

    Raises:
        SettingsError: the setting is none of these.

    Example:
        >>> choose_precision("auto", gpu_capability=(8, 0)).name
        'bfloat16'
    """
    one_of("precision", setting, known)
    if setting != "auto":
        return Precision(setting, f"precision = {setting}")
    if gpu_capability is not None:
        name, units = ("bfloat16", "bfloat16 units") if gpu_capability >= _AMPERE else ("float32", "no such units")
        if _VOLTA <= gpu_capability < _AMPERE and "float16" in known:
            name, units = "float16", "float16 units and none for bfloat16"
        return Precision(name, f"GPU of compute capability {'.'.join(map(str, gpu_capability))}, which has {units}")
    return _of_processor(cpuinfo)


def _of_processor(cpuinfo: Path) -> Precision:
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        text = ""
    vendor, flags = (re.search(rf"^{name}\s*:(.*)", text, re.MULTILINE) for name in ("vendor_id", "flags"))
    if flags is None:
        return Precision("float32", f"the processor's flags can't be read from {cpuinfo}")
    known, maker = flags[1].split(), vendor[1].strip() if vendor else ""
    native = next((flag for flag in (_AMX, _AVX) if flag in known), None)
    if native is None:
        return Precision("float32", f"the processor has neither {_AMX} nor {_AVX}")
    if native == _AVX and maker == _INTEL and _SAPPHIRE_RAPIDS in known:
        return Precision("float32", f"the processor has no {_AMX}, and Intel's are slower by {_AVX} than in float32")
    return Precision("bfloat16", f"the processor has {native}")
