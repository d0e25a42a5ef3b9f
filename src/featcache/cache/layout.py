"""What a feature cache is made of: names, shapes, keys and blocks. No HDF5 here; docs/cache-format.md is the same in words."""

import enum
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core import keys
from featcache.core.joined_texts import column_digest
from featcache.core.rows import Rows, is_several
from featcache.core.texts import CHUNK
from featcache.errors import SettingsError, SourceError

SCHEMA = 2
SCHEMA_OF_SEVERAL = 3  # `labels` (n, L) in place of `label` (n,)
UNKNOWN_BYTE = 255  # how a cell of `labels` says UNKNOWN_LABEL
FORMAT = "featcache feature cache"
FEATURE_DTYPE = np.dtype("<f2")
FLOAT16_MAX = 65504.0
BLOCK_BYTES = 8 * 1024 * 1024  # with wide rows, an fsync per block below this costs more than the block
# Narrow rows cost as much to compute. A kill takes what a block lacks: at 224 px half a minute of two cores' work.
BLOCK_ROWS = 512
BLOCK_VARIABLE = "FEATCACHE_BLOCK_BYTES"  # another size for new files, e.g. for tests that need many blocks; in no key
RUN_BYTES = 64 * 1024
HOLDER_BYTES = 512
CHECKSUM_BYTES = 16  # of XXH3-128, which runs at the speed of memory; it meets accidents, and no key rests on it
MIRROR = -1  # the number of the copy whose images are mirrored, left to right
_DIGEST_WIDTH = 64  # SHA-256, hexadecimal
PARTIAL_SUFFIX = ".partial.h5"
COLUMNS = ("id", "label", "group", "digest")
COLUMNS_OF_SEVERAL = ("id", "labels", "group", "digest")
RESERVED = frozenset({*COLUMNS, *COLUMNS_OF_SEVERAL, "status", "row", "class_name", "journal", "record"})
AXES: Mapping[int, tuple[str, ...]] = {1: ("channel",), 3: ("y", "x", "channel")}

_TAP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class Status(enum.IntEnum):
    """What became of a row, as the u1 dataset `status` has it."""

    NOT_WRITTEN = 0
    OK = 1
    REJECTED = 2

    @property
    def text(self) -> str:
        """The status in words: ``not written``, ``ok``, ``rejected``."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class TapLayout:
    """One tap of a cache.

    Attributes:
        name: the dataset's name.
        shape: one row's shape, (h, w, c) or (c,).
        key: digest of everything but the image that decides a row's values; rows of equal key and digest are equal.
        settings: what ``key`` was made of, for people to read.
    """

    name: str
    shape: tuple[int, ...]
    key: str
    settings: Mapping[str, object]

    def __post_init__(self) -> None:
        """Refuse names and shapes that a file can't hold."""
        if not _TAP_NAME.fullmatch(self.name):
            raise SettingsError(f"a tap can't be called {self.name!r}: only letters, digits, '_', '.' and '-'")
        if len(self.shape) not in AXES or min(self.shape) < 1:
            raise ValueError(f"shape={self.shape} of tap {self.name} is not (h, w, c) or (c,) of at least 1 each")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape)) * FEATURE_DTYPE.itemsize

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the row's dimensions, e.g. ``block5_pool_y``; shared with no other tap, or xarray refuses."""
        return tuple(f"{self.name}_{axis}" for axis in AXES[len(self.shape)])


@dataclass(frozen=True, eq=False)
class CacheHeader:
    """What is known before the first feature and never changes afterwards.

    Attributes:
        split: ``train``, ``valid`` or ``test``.
        copy: 0 for the plain pass, 1.. for augmented ones, `MIRROR` for the mirrored one.
        key: the file key, see `file_key`.
        name: the data set's name.
        settings: settings and upstream keys, for people and `featcache status` to read; JSON-able.
        class_names: what labels index into.
        taps: at least one.
        rows: all rows of the split, rejected ones included, in the manifest's order.
        block_rows: rows of one journal block, see `default_block_rows`.
    """

    split: str
    copy: int
    key: str
    name: str
    settings: Mapping[str, object]
    class_names: Sequence[str]
    taps: tuple[TapLayout, ...]
    rows: Rows
    block_rows: int

    def __post_init__(self) -> None:
        """Refuse datasets that would share a name, and impossible numbers."""
        names = [name for tap in self.taps for name in (tap.name, *tap.dimensions)]
        twice = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
        if not self.taps:
            raise SettingsError("[Features] taps is empty: name one or more layers")
        if twice:
            taps = ", ".join(tap.name for tap in self.taps)
            fault = f"{', '.join(twice)} of {taps} would be in the file twice, or is reserved"
            raise SettingsError(f"[Features] taps: {fault}: choose others, or LAYER:avg")
        if self.block_rows < 1 or self.copy < MIRROR:
            raise ValueError(f"block_rows={self.block_rows} is below 1, or copy={self.copy} below {MIRROR}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.key):
            raise ValueError(f"key={self.key!r} is not 64 hexadecimal digits")

    @property
    def several(self) -> bool:
        """Whether the rows have any number of labels each: a file of schema 3."""
        return is_several(self.rows.labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that describe rows, in the order of their checksum."""
        return COLUMNS_OF_SEVERAL if self.several else COLUMNS

    @cached_property
    def column_dtypes(self) -> dict[str, np.dtype[np.generic]]:
        """How the `columns` are stored: fixed-length UTF-8 (NUL-padded), `label` int32, `labels` (n, L) uint8."""
        widths = {"id": 1, "group": 1, "digest": _DIGEST_WIDTH}
        for start in range(0, len(self.rows), CHUNK):  # side by side: columns of one file read it once
            for name, column in (("id", self.rows.ids), ("group", self.rows.groups)):
                widths[name] = text_column(column[start : start + CHUNK], widths[name]).itemsize
        kinds = {"label": "<i4", "labels": "u1", **{name: f"S{width}" for name, width in widths.items()}}
        return {name: np.dtype(kinds[name]) for name in self.columns}

    def column_pieces(self, name: str) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
        """Yield a column as stored, in pieces: the first row and a (k,) array, k at most 1,024; of `labels` (k, L)."""
        column = {"id": self.rows.ids, "group": self.rows.groups, "digest": self.rows.digests}.get(name)
        width = self.column_dtypes[name].itemsize
        for start in range(0, len(self.rows), CHUNK):
            if column is None:
                labels = self.rows.labels[start : start + CHUNK]
                stored = np.where(labels < 0, UNKNOWN_BYTE, labels) if self.several else labels
                yield start, np.ascontiguousarray(stored, dtype=self.column_dtypes[name])
            else:
                yield start, text_column(column[start : start + CHUNK], width)

    @cached_property
    def columns_sha256(self) -> str:
        """SHA-256 of the stored bytes of the columns, one after the other."""
        state = hashlib.sha256()
        for name in self.columns:
            for _, piece in self.column_pieces(name):
                state.update(piece.tobytes())
        return state.hexdigest()

    @property
    def least_bytes(self) -> int:
        """Bytes that the file has at least: features, columns and the run record."""
        columns = sum(dtype.itemsize for dtype in self.column_dtypes.values())
        columns += len(self.class_names) * self.several
        return RUN_BYTES + len(self.rows) * (columns + sum(tap.row_bytes for tap in self.taps))

    @property
    def texts(self) -> dict[str, str]:
        """The settings as ASCII JSON in one fixed order: of the file under "", of each tap under its name."""
        settings = {"": self.settings, **{tap.name: tap.settings for tap in self.taps}}
        return {name: json.dumps(each, sort_keys=True, ensure_ascii=True) for name, each in settings.items()}


def text_column(texts: Sequence[str], width: int = 1) -> npt.NDArray[np.bytes_]:
    """Return (n,) fixed-length bytes, UTF-8, at least `width`; undecodable bytes of file names come through unchanged.

    Raises:
        SourceError: a text holds a NUL character, which fixed-length strings can't keep.
    """
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    if b"\0" in b"".join(raw):
        bad = next(text for text in texts if "\0" in text)
        raise SourceError(f"{bad!r} has a NUL character, which ids and groups of rows can't have: rename it")
    return np.array(raw, dtype=f"S{max([width, *map(len, raw)])}")


def file_key(tap_keys: Mapping[str, str], rows_key: str, class_names: Sequence[str], split: str, copy: int) -> str:
    """Return the key of one split and copy: everything that decides the file's rows and their values.

    `tap_keys` are row settings keys by tap name, in any order; `rows_key` is the `Rows.key` of the split.
    """
    names = column_digest(class_names)
    return keys.digest(["feature cache", SCHEMA, dict(tap_keys), rows_key, names, split, copy])


def copy_name(copy: int) -> str:
    """Return what people read for a copy's number: ``copy 0``, ``copy 1``, ..., ``mirror``."""
    return "mirror" if copy == MIRROR else f"copy {copy}"


def default_block_rows(taps: Sequence[TapLayout], batch_size: int = 1) -> int:
    """Return rows of a block: the fewest whole batches of 8 MiB over all taps, or of 512 rows if that is less.

    Raises:
        SettingsError: the environment variable FEATCACHE_BLOCK_BYTES, which takes the 8 MiB's place, is no number.
    """
    wanted = os.environ.get(BLOCK_VARIABLE) or str(BLOCK_BYTES)
    if not wanted.isdecimal() or int(wanted) < 1:
        raise SettingsError(f"{BLOCK_VARIABLE}={wanted!r} is not a number of bytes above 0: unset it")
    row_bytes = sum(tap.row_bytes for tap in taps)
    rows = min(-(-int(wanted) // row_bytes), BLOCK_ROWS)
    return -(-rows // batch_size) * batch_size


def partial_path(path: Path, key: str) -> Path:
    """Return where the unfinished file of `path` grows: ``<stem>.<short key>.partial.h5`` beside it."""
    return path.with_name(f"{path.stem}.{keys.short(key)}{PARTIAL_SUFFIX}")


def partials_of(path: Path) -> Iterator[Path]:
    """Yield the unfinished files of `path`, of any key."""
    yield from sorted(path.parent.glob(f"{glob.escape(path.stem)}.{'[0-9a-f]' * keys.SHORT}{PARTIAL_SUFFIX}"))


def block_range(block: int, block_rows: int, n: int) -> tuple[int, int]:
    """Return the rows [start, stop) of a block; the last one may be short."""
    return block * block_rows, min(n, (block + 1) * block_rows)


def block_count(block_rows: int, n: int) -> int:
    """Return how many blocks n rows make."""
    return -(-n // block_rows)


def run_bytes(run: Mapping[str, object]) -> bytes:
    """Return the run record as it is stored: JSON, NUL-padded to 64 KiB.

    Raises:
        ValueError: it is longer.
    """
    raw = json.dumps(run, ensure_ascii=True, allow_nan=False).encode("ascii")
    if len(raw) > RUN_BYTES:
        raise ValueError(f"the run record has {len(raw)} bytes as JSON; it can have at most {RUN_BYTES} bytes")
    return raw.ljust(RUN_BYTES, b"\0")
