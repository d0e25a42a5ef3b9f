"""scikit-learn's 1,797 handwritten digits, 8x8: real images on every machine without a download."""

import hashlib
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.dataset.sources.arrays import ArraySource, ArraySplit
from featcache.errors import SourceError

_SIDE = 8
_DARKEST = 16


def open_digits() -> ArraySource:
    """Return the source of the embedded digits; a fifth of each class is the test split, with known labels."""
    path = _data_file()
    return ArraySource("digits", {path.name: path}, lambda: _read(path))


def _data_file() -> Path:
    # Found without importing scikit-learn, which takes a second: this is called at every scheduling.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise SourceError("source=digits needs scikit-learn, which has the images: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise SourceError(f"{path}, scikit-learn's digits, is missing: reinstall scikit-learn")
    return path


def _read(path: Path) -> dict[str, ArraySplit]:
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)  # (n, 64 pixels + label); unpacks by itself
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(f"{path} is damaged ({error!r}): reinstall scikit-learn") from error
    if table.shape[1] != _SIDE * _SIDE + 1 or table[:, :-1].max() > _DARKEST:
        raise SourceError(f"{path} has other rows than 64 values of 0 to 16 and a label: reinstall scikit-learn")
    grey = (table[:, :-1].astype(np.uint16) * 255 + _DARKEST // 2) // _DARKEST
    images = grey.astype(np.uint8).reshape(-1, _SIDE, _SIDE)
    labels = table[:, -1].astype(np.int64)
    splits, test = {}, _test_rows(labels)
    for name, chosen in (("train", ~test), ("test", test)):
        ids = [f"digit-{row + 1:04d}" for row in np.flatnonzero(chosen).tolist()]
        splits[name] = ArraySplit(images[chosen], labels[chosen], ids, str(path))
    return splits


def _test_rows(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    # Drawn by a hash of the row number, not by a random generator, whose stream may change with its version.
    draw = [hashlib.sha256(f"featcache digits {row}".encode("ascii")).digest() for row in range(len(labels))]
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: draw[row])
        test[rows[: round(len(rows) / 5)]] = True
    return test
