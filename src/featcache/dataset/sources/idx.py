"""MNIST's idx files: ``train-*`` is the training split, ``t10k-*`` or ``test-*`` the test split."""

import gzip
import re
import zlib
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
_MEND = "download it again"


def open_idx(path: Path) -> ArraySource:
    """Return the source of the idx files in a folder.

    Raises:
        SourceError: there are no training images, or more files than can be told apart.
    """
    found, left_out = _found(path)
    for split, rank, missing in (("train", 3, "train-*-idx3-ubyte"), ("train", 1, "train-*-idx1-ubyte")):
        if (split, rank) not in found:
            expected = f"expected a file {missing} or {missing}.gz"
            raise SourceError(f"{path}: {expected}; got none: put it there, or set [Dataset] path")
    if ("test", 1) in found and ("test", 3) not in found:
        raise SourceError(f"{found['test', 1]}: expected t10k-*-idx3-ubyte with its images beside it; got none")
    files = {file.name: file for file in found.values()}
    return ArraySource("idx", files, lambda: _read(found), left_out)


def _found(path: Path) -> tuple[dict[tuple[str, int], Path], dict[str, int]]:
    found: dict[tuple[str, int], Path] = {}
    left_out: dict[str, int] = {}
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or paths.is_folder(file):
            continue
        match = _NAME.fullmatch(file.name)
        if match is None:
            reason = "not train-*, t10k-* or test-* idx files"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        which = ("train" if match["split"] == "train" else "test", int(match["rank"]))
        other = found.setdefault(which, file)
        kind = f"{which[0]}-*-idx{which[1]}-ubyte"
        if other is not file and file.name != f"{other.name}.gz":  # packed and unpacked side by side: the unpacked
            raise SourceError(f"{path}: expected one {kind} file; got {other.name} and {file.name}: remove one")
    return found, left_out


def _read(found: Mapping[tuple[str, int], Path]) -> dict[str, ArraySplit]:
    splits = {}
    for split in ("train", "test"):
        if (split, 3) not in found:
            continue
        images = _images(found[split, 3])
        file = found.get((split, 1))
        labels = None if file is None else _labels(file, len(images))
        prefix = "train-" if split == "train" else ""
        ids = [f"{prefix}{row + 1}" for row in range(len(images))]
        splits[split] = ArraySplit(images, labels, ids, str(file or found[split, 3]))
    return splits


def _images(path: Path) -> npt.NDArray[np.uint8]:
    content = _content(path)
    n, height, width = _header(path, content, _IMAGES, 4)[1:]
    expected = 16 + n * height * width
    if len(content) != expected or height * width == 0:
        shape = f"{n} images of {height}x{width} pixels"
        raise SourceError(f"{path}: expected {expected} bytes for {shape}; got {len(content)}: {_MEND}")
    return np.frombuffer(content, np.uint8, offset=16).reshape(n, height, width)


def _labels(path: Path, n_images: int) -> npt.NDArray[np.int64]:
    content = _content(path)
    n = _header(path, content, _LABELS, 2)[1]
    if len(content) != 8 + n:
        raise SourceError(f"{path}: expected {8 + n} bytes for {n} labels; got {len(content)}: {_MEND}")
    if n != n_images:
        raise SourceError(f"{path}: expected a label for each of {n_images} images; got {n} labels: {_MEND}")
    return np.frombuffer(content, np.uint8, offset=8).astype(np.int64)


def _header(path: Path, content: bytes, magic: int, words: int) -> list[int]:
    if len(content) < 4 * words:
        raise SourceError(f"{path}: expected an idx header of {4 * words} bytes; got {len(content)} in all: {_MEND}")
    header = np.frombuffer(content, ">u4", count=words).tolist()
    if header[0] != magic:
        got = f"got magic={header[0]:#010x}"
        raise SourceError(f"{path}: expected an idx file with magic={magic:#010x}; {got}: is it another file's name?")
    return [int(word) for word in header]


def _content(path: Path) -> bytes:
    try:
        content = paths.read_bytes(path)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: expected a whole gzip file; got damaged data ({error}): {_MEND}") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {paths.fault(error)}: mend it and run again") from error
