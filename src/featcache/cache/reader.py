"""Reading a cache file: one memory map, opened once, with no HDF5 handle left behind."""

import json
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.cache.block_checksums import pieces, sound_blocks
from featcache.cache.file_parser import read_structure
from featcache.cache.layout import PARTIAL_SUFFIX, Status, TapLayout, block_range, copy_name
from featcache.core import paths
from featcache.core.disk import settled
from featcache.core.float16 import as_float32
from featcache.core.formatting import Table, pluralize, size_text
from featcache.core.html import html_lines
from featcache.core.texts import FixedTexts
from featcache.errors import CacheError, CacheFormatError, UnknownTapError

if TYPE_CHECKING:
    import dask.array
    import pandas as pd
    import xarray as xr


class Reader:
    """One feature cache, read-only; made by `featcache.open`.

    The file is mapped once: everything read comes from the file that was opened, even after a rerun has put another
    one under its name. Nothing needs closing.

    Attributes:
        path: the file.
        split: ``train``, ``valid`` or ``test``.
        copy: 0 for the plain pass, 1.. for augmented ones, -1 for the mirrored one.
        key: the file key.
        name: the data set's name.
        settings: what the file was made with.
        class_names: what `labels` index into.
        taps: tap name -> `TapLayout`.
        block_rows: rows of a journal block.
        size: bytes of the file.
        complete: False for an unfinished file.

    Example:
        >>> reader = open_cache("train.h5")
        >>> len(reader), reader.class_names
        (4, ('cat', 'dog'))
        >>> reader["block5_pool"].shape, str(reader["block5_pool"].dtype)
        ((4, 2, 2, 3), 'float16')
        >>> reader.ids[:2], reader.labels.tolist()
        (['cat/0.png', 'dog/1.png'], [0, 1, 0, 1])
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path = path
        try:
            stream = open(path, "rb", opener=paths.regular)  # noqa: SIM115  # closed below
        except OSError as error:
            reason = paths.fault(error)
            reason = reason[:1].lower() + reason[1:]
            raise CacheError(f"no feature cache at {path}: {reason}; `featcache ls` lists what is there") from error
        with stream:
            structure = read_structure(stream, path)
            self._bytes = np.memmap(stream, mode="r", dtype=np.uint8)
            self._descriptor = os.dup(stream.fileno())
            weakref.finalize(self, os.close, self._descriptor)
            self._structure = structure
            self.complete = bool(self._array("journal/complete") == 1) and not path.name.endswith(PARTIAL_SUFFIX)
        self.split, self.copy, self.key, self.name = structure.split, structure.copy, structure.key, structure.name
        self.settings: Mapping[str, object] = structure.settings
        self.class_names: tuple[str, ...] = structure.class_names
        self.taps: Mapping[str, TapLayout] = {tap.name: tap for tap in structure.taps}
        self.block_rows, self.size = structure.block_rows, structure.size
        if not self.complete and not partial:
            advice = "run again to resume, or open it with partial=True"
            done = f"{self.journaled_rows} of {len(self)} rows are durable"
            raise CacheFormatError(f"{path} is unfinished: {done}; {advice}")

    def __len__(self) -> int:
        """The number of rows n, rejected ones included."""
        return self._structure.n

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {(len(self), *tap.shape)}" for tap in self.taps.values())
        return f"<featcache {self.path.name}: {self.name} {self.split}, {copy_name(self.copy)}, {taps} float16>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the taps."""
        rows = [(tap.name, f"{(len(self), *tap.shape)}", "float16") for tap in self.taps.values()]
        about = (
            f"{pluralize(len(self), 'row')}, {len(self.class_names):,} classes{', unfinished' * (not self.complete)}"
        )
        title = f"{self.name} {self.split}, {copy_name(self.copy)}: {self.path}"
        return html_lines(title, [Table(rows, ("tap", "shape", "type")), f"{about}, {size_text(self.size)}"])

    def __getitem__(self, tap: str) -> npt.NDArray[np.float16]:
        """Return a tap's features, (n, h, w, c) or (n, c) float16, as a read-only memory map.

        float16 ends at 65504, so sums, variances and norms of features overflow in it: compute in float32. Raises
        `UnknownTapError` as `tap_name`.
        """
        return self._array(self.tap_name(tap))

    @property
    def features(self) -> dict[str, npt.NDArray[np.float16]]:
        """Tap name -> its features, mapped as by ``reader[tap]``."""
        return {tap: self._array(tap) for tap in self.taps}

    def tap_name(self, tap: str) -> str:
        """Return what the file calls a tap, which may be written as in settings: ``block5_pool:avg``.

        Raises:
            UnknownTapError: the file has no such tap; it is a `KeyError`, too.
        """
        name = tap.replace(":", "_")  # neither names of layers nor of taps have a colon
        if name not in self.taps:
            raise UnknownTapError(f"tap={tap!r} is not one of the taps {', '.join(self.taps)} of {self.path}")
        return name

    @cached_property
    def ids(self) -> Sequence[str]:
        """All n unique row ids, in the manifest's order; mapped, decoded when asked for, compared like a list."""
        return FixedTexts(self._array("id"))

    @property
    def several(self) -> bool:
        """Whether rows have any number of the classes as their labels, and not one class."""
        return "labels" in self._structure.places

    @property
    def labels(self) -> npt.NDArray[Any]:
        """(n,) int32, an index into `class_names`, -1 where unknown.

        Of several labels a row (n, L) int8: 1 for each of the class names that a row has, 0 else, -1 where unknown.
        """
        return self._array("labels").view(np.int8) if self.several else self._array("label")

    @cached_property
    def groups(self) -> Sequence[str]:
        """One text a row, "" where a row has no group."""
        return FixedTexts(self._array("group"))

    @cached_property
    def digests(self) -> Sequence[str]:
        """One SHA-256 a row, hexadecimal, of its image's content, "" where one could not be read."""
        return FixedTexts(self._array("digest"))

    @property
    def digest_column(self) -> npt.NDArray[np.bytes_]:
        """(n,) S64, the digests as the file has them; mapped, for joins of many rows."""
        return self._array("digest")

    @cached_property
    def status(self) -> npt.NDArray[np.uint8]:
        """(n,) u1: 1 ok, 2 rejected (features are zeros), 0 not written, in an unfinished file also: not durable."""
        status = self._array("status")
        return status if self.complete else np.where(self.durable, status, Status.NOT_WRITTEN).astype(np.uint8)

    @property
    def stored_status(self) -> npt.NDArray[np.uint8]:
        """(n,) u1, status as the file has it, rows that aren't durable included; mapped."""
        return self._array("status")

    @cached_property
    def durable(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, rows in blocks whose bytes match their checksum; reads the whole file once, in flat memory.

        Raises:
            CacheFormatError: the file was cut short since it was opened.
        """
        return self._mask(self._verified(self._journaled))

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """The run record: when, where and by what the file was made, timings; {} when unfinished.

        Raises:
            CacheFormatError: it is no JSON.
        """
        raw = bytes(self._array("record/run")).rstrip(b"\0")
        try:
            return dict(json.loads(raw if raw or self.complete else b"{}"))
        except (ValueError, TypeError, RecursionError) as error:
            fault = f"record/run is not JSON: {raw[:40]!r}"
            raise CacheFormatError(f"{self.path}: {fault}; delete it and run again") from error

    @property
    def identity(self) -> tuple[int, ...] | None:
        """What distinguishes the open file, as it is now, from any other; None while a change could hide in a tick of the clock."""
        return settled(os.fstat(self._descriptor))

    @property
    def journaled_rows(self) -> int:
        """Rows of blocks with a checksum, taken on trust; `durable` verifies."""
        return int(self._mask(self._journaled).sum())

    def statistics(self, tap: str) -> dict[str, float | int | None]:
        """Compute a tap's rows, zeros (a share), min, max and mean over the rows with status ok; None where there are none.

        Reads all of the tap's features, in flat memory; of an unfinished file, the whole file first, for its durable rows.
        Raises `UnknownTapError` as `tap_name`.
        """
        layout, ok = self.taps[self.tap_name(tap)], self.status == Status.OK
        rows, zeros, total, low, high = int(ok.sum()), 0, 0.0, math.inf, -math.inf
        if not rows:
            return {"rows": 0, "zeros": None, "min": None, "max": None, "mean": None}
        for first, piece in pieces(self._descriptor, self._structure, layout.name, 0, len(self)):
            wide = as_float32(piece[ok[first : first + len(piece)]])
            if wide.size:
                low, high = min(low, float(wide.min())), max(high, float(wide.max()))
                zeros += wide.size - int(np.count_nonzero(wide))
                total += float(wide.sum(dtype=np.float64))
        values = rows * math.prod(layout.shape)
        return {"rows": rows, "zeros": zeros / values, "min": low, "max": high, "mean": total / values}

    def verified_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return (k,) bool: which of the rows (k,) are in blocks whose bytes match their checksum.

        Only the blocks that hold these rows are read, each once, in flat memory.
        """
        blocks = np.asarray(rows, dtype=np.int64) // self.block_rows
        return np.isin(blocks, self._verified(np.intersect1d(blocks, self._journaled)))

    def dask(self, tap: str, *, usable: bool = False) -> "dask.array.Array":
        """Return a tap as a lazy dask array of float32, in chunks of about 32 MiB of the file along the rows.

        Each task maps the file for itself, so the array also works with processes and other machines that see the path.
        With `usable` it is (m, d): only the m rows with status ok, d numbers each. Raises `UnknownTapError` as `tap_name`.
        """
        from featcache.cache import dask_arrays

        layout = self.taps[self.tap_name(tap)]
        return dask_arrays.dask_array(self._structure, layout, self.status if usable else None)

    def to_xarray(self) -> "xr.Dataset":
        """Return all taps, lazily and as float32, with id, label (or labels), group, digest and status as coordinates of ``row``."""
        from featcache.cache import dask_arrays

        return dask_arrays.dataset(self)

    def frame(self) -> "pd.DataFrame":
        """Return one line a row: id, label, class (None where unknown), group, status (a word) and digest.

        Of several labels a row has labels, a list of names (None where unknown), in place of label and class.
        """
        from featcache.cache import data_frame

        return data_frame.frame(self)

    def _array(self, name: str) -> npt.NDArray[Any]:
        place = self._structure.places[name]
        if place.nbytes == 0:
            return np.zeros(place.shape, dtype=place.dtype)
        return self._bytes[place.offset : place.offset + place.nbytes].view(place.dtype).reshape(place.shape)

    @cached_property
    def _journaled(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self._array("journal/checksum").any(axis=1))

    def _verified(self, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # read, not mapped: pages of a map would count as this process's memory until someone else needs them
        return np.array(sound_blocks(self._descriptor, self._structure, candidates.tolist()), dtype=np.int64)

    def _mask(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self), dtype=bool)
        for block in wanted.tolist():
            mask[slice(*block_range(block, self.block_rows, len(self)))] = True
        return mask


def open_cache(path: str | os.PathLike[str], *, partial: bool = False) -> Reader:
    """Open a feature cache for reading; this is `featcache.open`.

    With `partial` also an unfinished one (``*.partial.h5``); `Reader.status` then has which rows are there.

    Raises:
        CacheFormatError: not a feature cache, a damaged or forged one, or an unfinished one without `partial`.
        CacheError: there is no such file, or it may not be read.
    """
    return Reader(Path(path), partial=partial)


def stored_record(path: Path) -> dict[str, Any] | None:
    """Return the run record of a finished cache with its file key as "key"; None where there is no sound one."""
    try:
        reader = Reader(path)
        return {**reader.run, "key": reader.key}
    except CacheError:
        return None
