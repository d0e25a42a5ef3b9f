from pathlib import Path

import pytest

from featcache.errors import SettingsError
from featcache.features.precision import Precision, choose_precision
from featcache.settings.specs import TRAINING_PRECISIONS


def cpuinfo(tmp_path: Path, flags: str, vendor: str = "GenuineIntel") -> Path:
    path = tmp_path / "cpuinfo"
    lines = f"vendor_id\t: {vendor}\nmodel name\t: A CPU with avx512_bf16 in its name\nflags\t\t: fpu {flags}\n\n"
    path.write_text(f"processor\t: 0\n{lines}" * 2)
    return path


@pytest.mark.parametrize(
    ("flags", "vendor"),
    [
        ("avx512_bf16", "AuthenticAMD"),
        ("avx512_bf16 avx512_fp16", "AuthenticAMD"),
        ("avx512_bf16", "GenuineIntel"),
        ("amx_bf16 amx_tile", "GenuineIntel"),
        ("sse2 avx512_bf16 amx_bf16 avx512_fp16", "GenuineIntel"),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_is_faster_in_it(tmp_path: Path, flags: str, vendor: str) -> None:
    assert choose_precision("auto", cpuinfo=cpuinfo(tmp_path, flags, vendor)).name == "bfloat16"


def test_auto_takes_float32_where_intel_hides_amx(tmp_path: Path) -> None:
    chosen = choose_precision("auto", cpuinfo=cpuinfo(tmp_path, "avx512_bf16 avx512_fp16"))
    assert chosen.name == "float32"
    assert "no amx_bf16" in chosen.reason


@pytest.mark.parametrize("flags", ["avx2", "avx512f avx512_bf16x", ""])
def test_auto_takes_float32_on_other_processors(tmp_path: Path, flags: str) -> None:
    chosen = choose_precision("auto", cpuinfo=cpuinfo(tmp_path, flags))
    assert chosen == Precision("float32", "the processor has neither amx_bf16 nor avx512_bf16")


def test_auto_takes_float32_where_the_flags_are_unknown(tmp_path: Path) -> None:
    assert choose_precision("auto", cpuinfo=tmp_path / "none").name == "float32"
    (tmp_path / "arm").write_text("Features : fp asimd bf16\n")
    assert choose_precision("auto", cpuinfo=tmp_path / "arm").name == "float32"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 0), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 1), "bfloat16")],
)
def test_auto_asks_the_gpu_where_there_is_one(tmp_path: Path, capability: tuple[int, int], expected: str) -> None:
    chosen = choose_precision("auto", capability, cpuinfo(tmp_path, "avx512_bf16" if expected == "float32" else "sse2"))
    assert chosen.name == expected
    assert f"{capability[0]}.{capability[1]}" in chosen.reason
    for_training = choose_precision("auto", capability, known=TRAINING_PRECISIONS)
    assert for_training.name == ("float32" if expected == "float16" else expected), "gradients leave float16's range"


@pytest.mark.parametrize("setting", ["float32", "bfloat16", "float16"])
def test_a_pinned_precision_is_taken_as_it_is(tmp_path: Path, setting: str) -> None:
    for capability in (None, (7, 0), (9, 0)):
        assert choose_precision(setting, capability, tmp_path / "none").name == setting


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean float32"):
        choose_precision("float23")
