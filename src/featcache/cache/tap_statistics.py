"""Statistics of a tap's features: exact but for the sum, whose last bits are part of the format's promise.

The same rows give the same record wherever and whenever they are measured. So numbers are added up in one order: pieces of
`piece_rows` rows from the block's first on, each in stretches of float32.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from featcache.cache.layout import TapLayout

_PIECE_BYTES = 512 * 1024
_STRETCH = 512  # numbers added in float32
_MAGNITUDE = np.uint16(0x7FFF)
_BIAS = np.float32(2.0**112)
_SHIFT = 13  # float32 has so many more bits behind the exponent
_SHIFTED_SIGN = np.uint32(0x8000 << _SHIFT)


@dataclass(frozen=True)
class TapStatistics:
    """Statistics of one tap over the rows with status ok, exact but for the sum.

    Attributes:
        rows: how many rows count.
        values: how many numbers they hold.
        zeros: how many of these are 0.
        minimum: smallest value; infinity while `values` is 0.
        maximum: largest value; -infinity while `values` is 0.
        total: sum to about 1e-6, added block by block in the file's order.
    """

    rows: int = 0
    values: int = 0
    zeros: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    total: float = 0.0

    def plus(self, other: "TapStatistics") -> "TapStatistics":
        """Return the statistics of both together."""
        return TapStatistics(
            self.rows + other.rows,
            self.values + other.values,
            self.zeros + other.zeros,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.total + other.total,
        )

    def record(self) -> dict[str, float | int | None]:
        """Return rows, zeros (a share, 0 to 1), min, max and mean for JSON; None where no row counts."""
        if not self.values:
            return {"rows": self.rows, "zeros": None, "min": None, "max": None, "mean": None}
        share, mean = self.zeros / self.values, self.total / self.values
        return {"rows": self.rows, "zeros": share, "min": self.minimum, "max": self.maximum, "mean": mean}


def piece_rows(tap: TapLayout) -> int:
    """The number of rows whose sum is added to the total at once: those of 512 KiB, at least one."""
    return max(1, _PIECE_BYTES // tap.row_bytes)


def measure(
    found: TapStatistics,
    rows: npt.NDArray[np.float16],
    ok: npt.NDArray[np.bool_],
    each: int,
    wide: npt.NDArray[np.uint32],
) -> TapStatistics:
    """Return the statistics of `found` and of the rows that are ok, together.

    Args:
        found: of the rows before.
        rows: (k, ...) finite features.
        ok: (k,), rows that count.
        each: `piece_rows` of the tap; `rows` begin with a piece.
        wide: memory for the numbers of a piece.
    """
    if rows.size and ok.all() and (highest := _highest(rows)) <= _MAGNITUDE:
        return _unsigned(found, rows, highest, each, wide)
    for first in range(0, len(rows), each):
        piece, good = rows[first : first + each], ok[first : first + each]
        piece = piece if good.all() else piece[good]
        if piece.size and (highest := _highest(piece)) <= _MAGNITUDE:
            found = _unsigned(found, piece, highest, len(piece), wide)
        elif piece.size:
            found = found.plus(_signed(piece))
    return found


def _highest(rows: npt.NDArray[np.float16]) -> np.uint16:
    """The highest bits as integers, above `_MAGNITUDE` where a number is negative."""
    found: np.uint16 = rows.view(np.uint16).max()
    return found


def _unsigned(
    found: TapStatistics, rows: npt.NDArray[np.float16], highest: np.uint16, each: int, wide: npt.NDArray[np.uint32]
) -> TapStatistics:
    """Numbers from 0 on are in the order of their bits, and integers are compared several times as fast."""
    bits = rows.view(np.uint16).reshape(-1)
    total, length = found.total, each * rows[0].size
    for start in range(0, len(bits), length):
        piece = bits[start : start + length]
        total += _sum(_shifted(piece, wide[: len(piece)])) * float(_BIAS)  # a power of two: exact
    zeros = len(bits) - int(np.count_nonzero(bits))
    lowest = np.uint16(0) if zeros else bits.min()
    minimum, maximum = np.array([lowest, highest]).view(np.float16).tolist()
    return replace(found.plus(TapStatistics(len(rows), len(bits), zeros, minimum, maximum)), total=total)


def _signed(piece: npt.NDArray[np.float16]) -> TapStatistics:
    """Negative numbers are rare behind a relu."""
    wide = widen(piece)
    zeros, total = int(np.count_nonzero(wide == 0)), float(wide.sum(dtype=np.float64))
    return TapStatistics(len(piece), wide.size, zeros, float(wide.min()), float(wide.max()), total)


def _sum(wide: npt.NDArray[np.float32]) -> float:
    """The sum, to about 1e-6 of it where nothing is negative: stretches of at most 512 in float32, these in float64.

    A sum in float64 from the start takes four times as long, as long as reading, checksum and all the rest.
    """
    stretches = wide.reshape(-1, math.gcd(wide.size, _STRETCH))
    return float(np.einsum("ij->i", stretches).sum(dtype=np.float64))


def widen(piece: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Return finite float16 as float32, exactly.

    `astype` does this one number at a time, and would take longer than checksum and disk together: shifting the bits
    into place and multiplying by 2**112, the difference of the exponents' biases, runs in vector units.
    """
    bits = np.ascontiguousarray(piece).view(np.uint16)
    wide = np.empty(bits.shape, np.uint32)
    values = _shifted(bits, wide)
    if bits.max() > _MAGNITUDE:  # rare behind a relu; the sign goes on to the highest bit
        sign = wide & _SHIFTED_SIGN
        wide ^= sign
        wide |= sign << np.uint32(3)
    values *= _BIAS
    return values


def _shifted(bits: npt.NDArray[np.uint16], wide: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """The bits of numbers from 0 on as float32, too small by 2**112; they are put into `wide`. A sign comes too low."""
    np.copyto(wide, bits)
    np.left_shift(wide, _SHIFT, out=wide)
    return wide.view(np.float32)
