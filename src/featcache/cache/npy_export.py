"""A cache's features as plain NumPy files, for whatever reads nothing else."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache.check import checked_cache
from featcache.cache.layout import Status
from featcache.cache.reader import Reader
from featcache.core import keys
from featcache.core.csv_files import CsvWriter
from featcache.core.disk import replacing_folder
from featcache.core.rows import label_text
from featcache.core.texts import CHUNK

_PIECE_BYTES = 16 << 20


def export_npy(path: Path, folder: Path) -> list[Path]:
    """Write a cache as ``<tap>.npy`` (n, h, w, c) or (n, c) float16, ``label.npy``, ``status.npy`` and ``rows.csv``.

    Of several labels a row it is ``labels.npy``, (n, L) int8, and their names are in ``rows.csv`` with ``|`` between them.
    The folder appears whole or not at all; memory stays flat.

    Returns:
        The files.

    Raises:
        CacheError: the file isn't a sound, finished cache.
        StorageError: `folder` is there already, or can't be written.

    Example:
        >>> [file.name for file in export_npy(Path("train.h5"), Path("npy"))]
        ['block5_pool.npy', 'label.npy', 'rows.csv', 'status.npy']
    """
    reader = checked_cache(path)
    with replacing_folder(folder, new=True) as temporary:
        for tap in reader.taps:
            _write_npy(temporary / f"{keys.short_name(tap)}.npy", reader[tap])
        _write_npy(temporary / ("labels.npy" if reader.several else "label.npy"), reader.labels)
        _write_npy(temporary / "status.npy", np.asarray(reader.status))
        _write_rows(temporary / "rows.csv", reader)
        names = sorted(file.name for file in temporary.iterdir())
    return [folder / name for name in names]


def _write_npy(path: Path, array: npt.NDArray[np.generic]) -> None:
    rows = max(1, _PIECE_BYTES // max(1, array[:1].nbytes))
    with open(path, "wb") as stream:
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(array), rows):
            stream.write(np.ascontiguousarray(array[start : start + rows]).tobytes())


def _write_rows(path: Path, reader: Reader) -> None:
    words = {int(status): status.text for status in Status}
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = CsvWriter(stream)
        lines.row(("row", "id", "class", "group", "status", "digest"))
        for start in range(0, len(reader), CHUNK):
            part = slice(start, start + CHUNK)
            labels, status = np.array(reader.labels[part]), reader.status[part].tolist()
            names = (label_text(labels, row, reader.class_names) for row in range(len(labels)))
            columns = zip(reader.ids[part], names, reader.groups[part], status, reader.digests[part], strict=True)
            for row, (row_id, name, group, state, digest) in enumerate(columns, start):
                lines.row((row, row_id, name, group, words[state], digest))
