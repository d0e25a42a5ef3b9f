"""MNIST's idx files: ``train-*`` is the training split, ``t10k-*`` or ``test-*`` the test split."""

import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.dataset.sources.arrays import ArraySource, ArraySplit
from featcache.errors import SourceError

NAME = re.compile(r"(?P<split>train|t10k|test)-.*idx(?P<rank>[13])-ubyte(\.gz)?")
_IMAGES = 0x00000803  # unsigned bytes, three dimensions
_LABELS = 0x00000801  # unsigned bytes, one dimension
_AGAIN = "download it again"


def open_idx(path: Path) -> ArraySource:
    """Return the source of the idx files in a folder; a `SourceError` where one is missing or there twice."""
    found, left_out = _found(path)
    for rank in (3, 1):
        if ("train", rank) not in found:
            name = f"train-*-idx{rank}-ubyte"
            raise SourceError(f"{path} has no file {name} or {name}.gz: put it there, or set [Dataset] path")
    if ("test", 1) in found and ("test", 3) not in found:
        raise SourceError(f"{found['test', 1]}: its images, t10k-*-idx3-ubyte, are missing: put them beside it")
    files = {file.name: file for file in found.values()}
    return ArraySource("idx", files, lambda: _read(found), left_out)


def _found(path: Path) -> tuple[dict[tuple[str, int], Path], dict[str, int]]:
    found: dict[tuple[str, int], Path] = {}
    left_out: Counter[str] = Counter()
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or paths.is_folder(file):
            continue
        match = NAME.fullmatch(file.name)
        if match is None:
            left_out["not train-*, t10k-* or test-* idx files"] += 1
            continue
        which = ("train" if match["split"] == "train" else "test", int(match["rank"]))
        other = found.setdefault(which, file)
        if other is not file and file.name != f"{other.name}.gz":  # packed and unpacked side by side: the unpacked
            kind = f"{which[0]}-*-idx{which[1]}-ubyte"
            raise SourceError(f"{path} has several {kind} files, {other.name} and {file.name}: remove one")
    return found, left_out


def _read(found: Mapping[tuple[str, int], Path]) -> dict[str, ArraySplit]:
    splits = {}
    for split, prefix in (("train", "train-"), ("test", "")):
        if (split, 3) in found:
            images, file = _images(found[split, 3]), found.get((split, 1))
            labels = None if file is None else _labels(file, len(images))
            ids = [f"{prefix}{row + 1}" for row in range(len(images))]
            splits[split] = ArraySplit(images, labels, ids, str(file or found[split, 3]))
    return splits


def _images(path: Path) -> npt.NDArray[np.uint8]:
    return _array(path, _IMAGES, 3)


def _labels(path: Path, n_images: int) -> npt.NDArray[np.int64]:
    labels = _array(path, _LABELS, 1)
    if len(labels) != n_images:
        raise SourceError(f"{path} has {len(labels)} labels for {n_images} images: {_AGAIN}")
    return labels.astype(np.int64)


def _array(path: Path, magic: int, rank: int) -> npt.NDArray[np.uint8]:
    content, begin = _content(path), 4 + 4 * rank
    if len(content) < begin:
        raise SourceError(f"{path} has {len(content)} bytes; an idx header takes {begin}: {_AGAIN}")
    found, *shape = (int(word) for word in np.frombuffer(content, ">u4", count=1 + rank))
    if found != magic:
        raise SourceError(f"{path} is no idx file of its kind: magic={found:#010x} instead of {magic:#010x}: {_AGAIN}")
    expected = begin + math.prod(shape)
    if len(content) != expected or not all(shape[1:]):
        needed = f"{shape[0]} labels" if rank == 1 else f"{shape[0]} images of {shape[1]}x{shape[2]} pixels"
        raise SourceError(f"{path} has {len(content)} bytes; {needed} take {expected}: {_AGAIN}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = paths.read_bytes(path)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a damaged gzip file ({error}): {_AGAIN}") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: correct this and run again") from error
