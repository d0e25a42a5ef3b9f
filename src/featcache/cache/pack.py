"""Archive copies of feature caches: compressed HDF5 that any reader with the filter opens, and the way back to every byte.

The rows are datasets of the same names and shapes as in the cache. What else the cache's file consists of, HDF5's own
bookkeeping above all, is kept as it was in one dataset, ``archive/rest``, and ``archive/places`` says where each dataset's bytes
go. So unpacking needs no luck with library versions, and the SHA-256 of the whole file holds it to the original.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.cache.file_parser import Structure, read_structure
from featcache.cache.sound import checked_cache
from featcache.core import keys
from featcache.core.disk import disk, replacing
from featcache.core.paths import regular
from featcache.errors import CacheFormatError, SettingsError, StorageError

FORMAT = "featcache packed cache"
SUFFIX = ".packed"
CODECS = ("gzip", "zstd")
_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 16 << 20
_REFERENCES = frozenset({"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid"})


def pack(path: Path, codec: str = "gzip", target: Path | None = None) -> Path:
    """Write an archive copy of a sound, finished cache, and check that it gives the same bytes back.

    Args:
        path: the cache.
        codec: ``gzip``, which every HDF5 has, or ``zstd``, for which readers need hdf5plugin.
        target: the archive; None for ``<path>.packed``.

    Raises:
        CacheError: the file isn't a sound, finished cache.
        SettingsError: the codec isn't installed.
        StorageError: the archive is there already, or can't be written.
    """
    checked_cache(path)
    target = path.with_name(path.name + SUFFIX) if target is None else target
    _refuse_existing(target)
    filters = _filters(codec)
    with replacing(target) as temporary, open(path, "rb", opener=regular) as stream:
        structure = read_structure(stream, path)
        with h5py.File(stream, "r") as source, h5py.File(temporary, "w") as archive:
            _write(archive, source, structure, path, filters)
        with h5py.File(temporary, "r") as archive:
            _check_restored(archive, temporary)
    return target


def unpack(path: Path, target: Path | None = None) -> Path:
    """Restore the cache that `pack` was given, byte for byte.

    Raises:
        CacheFormatError: not a packed cache, or a damaged one: what it gives isn't what its SHA-256 promises.
        SettingsError: its codec isn't installed.
        StorageError: the cache is there already, or can't be written.
    """
    target = path.with_name(path.name.removesuffix(SUFFIX)) if target is None else target
    if target == path:
        raise SettingsError(f"expected a name that ends in {SUFFIX}, or --to; got {path.name!r}")
    _refuse_existing(target)
    _filters_for_reading()
    try:
        with (
            open(path, "rb", opener=regular) as stream,
            h5py.File(stream, "r") as archive,
            replacing(target) as temporary,
        ):
            state, size = hashlib.sha256(), int(archive.attrs["size"])
            with open(temporary, "wb") as restored:
                disk.allocate(restored.fileno(), size)  # an archive may promise more than the disk has
                for piece in _pieces(archive):
                    state.update(piece)
                    restored.write(piece)
                    if restored.tell() > size:
                        raise ValueError(f"it holds more than the {size} bytes that it promises")
                disk.fsync(restored.fileno())
            _hold(archive, state.hexdigest())
    except StorageError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CacheFormatError(f"{path}: expected a packed cache; {reason}") from error
    return target


def _write(archive: h5py.File, source: h5py.File, structure: Structure, path: Path, filters: Mapping[str, Any]) -> None:
    places = {name: p for name, p in structure.places.items() if p.shape and p.nbytes}
    archive.attrs["format"], archive.attrs["size"] = FORMAT, structure.size
    archive.attrs["sha256"] = keys.file_digest(path)
    archive.attrs["packed"] = path.name
    for name, value in source.attrs.items():
        if name not in archive.attrs:
            archive.attrs[name] = value
    for name, place in places.items():
        rows = max(1, min(place.shape[0], _CHUNK_BYTES // max(1, place.nbytes // place.shape[0])))
        original = source[name]
        chunks = (rows, *place.shape[1:])
        dataset = archive.create_dataset(name, place.shape, original.dtype, chunks=chunks, **filters)
        for start in range(0, place.shape[0], rows):
            dataset[start : start + rows] = original[start : start + rows]
        for attribute in original.attrs.keys() - _REFERENCES:
            dataset.attrs[attribute] = original.attrs[attribute]
    archive["class_name"] = source["class_name"][()]  # for readers; its bytes are in the rest
    rest = b"".join(content for content in _between(path, places, structure.size))
    archive.create_dataset("archive/rest", data=np.frombuffer(rest, np.uint8), chunks=True, **filters)
    listed = sorted((place.offset, place.nbytes, name) for name, place in places.items())
    archive["archive"].attrs["places"] = json.dumps(listed)


def _between(path: Path, places: Mapping[str, Any], size: int) -> Iterator[bytes]:
    """The file's bytes that belong to no packed dataset, in order."""
    at = 0
    with open(path, "rb") as stream:
        for offset, nbytes in [*sorted((p.offset, p.nbytes) for p in places.values()), (size, 0)]:
            stream.seek(at)
            yield stream.read(offset - at)
            at = offset + nbytes


def _pieces(archive: h5py.File) -> Iterator[bytes]:
    """The original file's bytes, in order and in pieces.

    Raises:
        ValueError: the archive contradicts itself.
    """
    if archive.attrs.get("format") != FORMAT:
        raise ValueError("it is an HDF5 file of something else")
    rest, at, taken = _own(archive, "archive/rest"), 0, 0
    size = int(archive.attrs["size"])
    for offset, nbytes, name in [*json.loads(archive["archive"].attrs["places"]), (size, 0, "")]:
        gap = int(offset) - at
        if gap < 0 or taken + gap > len(rest):
            raise ValueError(f"the places of its datasets overlap at byte {offset}")
        yield rest[taken : taken + gap].tobytes()
        taken, at = taken + gap, int(offset) + int(nbytes)
        if name:
            yield from _rows(_own(archive, name), int(nbytes), name)
    if taken != len(rest):
        raise ValueError(f"expected {taken} bytes in archive/rest; got {len(rest)}")


def _rows(dataset: h5py.Dataset, nbytes: int, name: str) -> Iterator[bytes]:
    row = int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize
    if dataset.dtype.kind not in "Sifu" or row * dataset.shape[0] != nbytes:
        raise ValueError(f"expected {nbytes} bytes in {name!r}; got {dataset.dtype} {dataset.shape}")
    step = max(1, _PIECE_BYTES // max(1, row))
    for start in range(0, dataset.shape[0], step):
        yield np.ascontiguousarray(dataset[start : start + step]).tobytes()


def _own(archive: h5py.File, name: str) -> h5py.Dataset:
    """A dataset whose bytes are in this file itself: no link, no outside storage, no virtual source."""
    parent, _, leaf = name.rpartition("/")
    for group, member in ((archive, parent), (archive[parent] if parent else archive, leaf)):
        if member and group.id.links.get_info(member.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"got a link to somewhere else at {name!r}")
    dataset = archive[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"expected data of its own at {name!r}")
    return dataset


def _check_restored(archive: h5py.File, path: Path) -> None:
    state = hashlib.sha256()
    for piece in _pieces(archive):
        state.update(piece)
    try:
        _hold(archive, state.hexdigest())
    except ValueError as error:
        raise CacheFormatError(f"{path}: {error}") from error


def _hold(archive: h5py.File, found: str) -> None:
    if found != archive.attrs["sha256"]:
        raise ValueError(f"expected content of SHA-256 {archive.attrs['sha256']}; got {found}: it is damaged")


def _filters(codec: str) -> dict[str, Any]:
    if codec == "gzip":
        return {"compression": "gzip", "compression_opts": 4}
    try:
        import hdf5plugin
    except ImportError as error:
        raise SettingsError(
            "--codec zstd needs hdf5plugin: pip install 'featcache[pack]', or use --codec gzip"
        ) from error
    return dict(hdf5plugin.Zstd(clevel=3))


def _filters_for_reading() -> None:
    try:
        import hdf5plugin  # noqa: F401 - registers its filters
    except ImportError:
        return  # gzip needs none; of zstd HDF5 itself says what is missing


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise StorageError(f"expected a file that isn't there yet; got {target}: remove it or name another with --to")
