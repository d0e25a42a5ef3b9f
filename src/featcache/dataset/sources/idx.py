"""MNIST's idx files: ``train-*`` is the training split, ``t10k-*`` or ``test-*`` the test split."""

import gzip
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

_NAME = re.compile(r"(?P<split>train|t10k|test)-.*idx(?P<rank>[13])-ubyte(\.gz)?")
_IMAGES = 0x00000803  # unsigned bytes, three dimensions
_LABELS = 0x00000801  # unsigned bytes, one dimension
_AGAIN = "download it again"


def open_idx(path: Path) -> ArraySource:
    """Return the source of the idx files in a folder.

    Raises:
        SourceError: there are no training images, or several files of one kind.
    """
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
        match = _NAME.fullmatch(file.name)
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
    content = _content(path)
    n, height, width = _header(path, content, _IMAGES, 4)[1:]
    expected = 16 + n * height * width
    if len(content) != expected or height * width == 0:
        needed = f"{n} images of {height}x{width} pixels take {expected}"
        raise SourceError(f"{path} has {len(content)} bytes; {needed}: {_AGAIN}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(n, height, width)


def _labels(path: Path, n_images: int) -> npt.NDArray[np.int64]:
    content = _content(path)
    n = _header(path, content, _LABELS, 2)[1]
    if len(content) != 8 + n:
        raise SourceError(f"{path} has {len(content)} bytes; {n} labels take {8 + n}: {_AGAIN}")
    if n != n_images:
        raise SourceError(f"{path} has {n} labels for {n_images} images: {_AGAIN}")
    return np.frombuffer(content, np.uint8, offset=8).astype(np.int64)


def _header(path: Path, content: bytes, magic: int, words: int) -> list[int]:
    if len(content) < 4 * words:
        raise SourceError(f"{path} has {len(content)} bytes; an idx header takes {4 * words}: {_AGAIN}")
    header = [int(word) for word in np.frombuffer(content, ">u4", count=words)]
    if header[0] != magic:
        raise SourceError(
            f"{path} is no idx file of its kind: magic={header[0]:#010x} instead of {magic:#010x}: {_AGAIN}"
        )
    return header


def _content(path: Path) -> bytes:
    try:
        content = paths.read_bytes(path)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is a damaged gzip file ({error}): {_AGAIN}") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: correct this and run again") from error
