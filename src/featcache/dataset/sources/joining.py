"""Which image file each id of a table means: a path or a file's name, with or without suffix."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import readable_name
from featcache.core.names import IMAGE_SUFFIXES, composed
from featcache.core.texts import NOT_FOUND, PackedTexts
from featcache.dataset.natural_sort import natural_order
from featcache.errors import SourceError

_SUFFIX = rf"(?i)([^/])\.({'|'.join(IMAGE_SUFFIXES)})$"
_FOLDERS, _FLOAT = r"^.*/", r"^([0-9]+)\.0+$"
_PARENT, _NUMBER = r"^(?:.*/)?([^/]+)/[^/]*$", r"[ ._(-]+[0-9]+\)?$"


def arrow_texts(locations: Sequence[str]) -> Any:
    """Return locations as an Arrow array of texts, in the form in which names are compared."""
    import pyarrow as pa

    if isinstance(locations, PackedTexts):
        content, bounds = locations.packed()
        if content.isascii():
            return pa.Array.from_buffers(
                pa.large_string(), len(locations), [None, *map(pa.py_buffer, (bounds, content))]
            )
    texts = (name if name.isascii() else composed(readable_name(name)) for name in locations)
    return pa.array(texts, pa.large_string(), size=len(locations))


def find_files(
    ids: Any, files: Any, bases: Sequence[str], where: str
) -> tuple[npt.NDArray[np.intp] | None, npt.NDArray[np.int64]]:
    """Return (n,) the file of each id, -1 where there is none: by the way of reading ids that finds most.

    The first of both is None; or, where ids have several files each, the number of the id that each of them is of.

    Args:
        ids: (n,) texts, none twice.
        files: (m,) locations, as `arrow_texts` gives them.
        bases: folders that paths may begin in, "" for that of the data set.
        where: the table and its column, for messages.

    Raises:
        SourceError: no id is a file's, an id could be of two files, or two ids are one file's.
    """
    import pyarrow.compute as pc

    found, names, wanted = best_way(ids, files, bases)
    cases = find_cases(ids, files, len(ids) - found.null_count) if found.null_count else None
    if cases is not None:
        return cases
    if found.null_count == len(ids):
        seen = f", such as {files[0].as_py()!r}" if len(files) else ""
        fault = f"no id, such as {ids[0].as_py()!r}, is the name of one of {len(files):,} images{seen}"
        raise SourceError(f"{where}: {fault}: correct [Dataset] id or images")
    _refuse_two(ids, files, found, len(files) - 1 - pc.index_in(wanted, value_set=names[::-1]).to_numpy(False), where)
    return None, pc.fill_null(found, NOT_FOUND).to_numpy(False).astype(np.int64)


def find_cases(ids: Any, files: Any, least: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]] | None:
    """Return (k,) the number of an id and (k,) of a file, of ids with several files each; None where it isn't so.

    The files of an id are in a folder that it names, or are called by it and a number: ``7/front.jpg`` or ``7-2.jpg``. An
    id without files has the file -1.

    Args:
        ids: (n,) texts, none twice.
        files: (m,) locations.
        least: more ids than these must have a file.
    """
    import pyarrow.compute as pc

    names = pc.replace_substring_regex(pc.replace_substring_regex(files, _FOLDERS, ""), _SUFFIX, r"\1")
    best = None
    for keys in (pc.replace_substring_regex(files, _PARENT, r"\1"), pc.replace_substring_regex(names, _NUMBER, "")):
        found = pc.fill_null(pc.index_in(keys, value_set=ids), NOT_FOUND).to_numpy(False)
        count = len(np.unique(found[found >= 0]))
        if count > least:
            best, least = found, count
    if best is None:
        return None
    known = np.flatnonzero(best >= 0)
    known = known[natural_order(files.take(known).to_pylist())]
    without = np.setdiff1d(np.arange(len(ids)), best)
    rows = np.concatenate([best[known], without])
    order = np.argsort(rows, kind="stable")
    return rows[order], np.concatenate([known, np.full(len(without), NOT_FOUND)])[order]


def best_way(ids: Any, files: Any, bases: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return (n,) the file of each id, null where there is none, and the names of files and ids by which most are found."""
    import pyarrow.compute as pc

    best: Any = None
    for names, wanted in _ways(ids, files, bases):
        found = pc.index_in(wanted, value_set=names)
        if best is None or found.null_count < best[0].null_count:
            best = found, names, wanted
        if not found.null_count:
            break
    way: tuple[Any, Any, Any] = best
    return way


def _refuse_two(ids: Any, files: Any, found: Any, last: npt.NDArray[np.float64], where: str) -> None:
    first = found.to_numpy(False)  # NaN where there is none
    several = np.flatnonzero(~np.isnan(last) & (first != last))
    if len(several):
        row = int(several[0])
        both = " and ".join(repr(files[int(place[row])].as_py()) for place in (first, last))
        fix = "write paths into the table, or set [Dataset] images to their folders"
        raise SourceError(f"{where}: id={ids[row].as_py()!r} is the name of {both}: {fix}")
    known = np.flatnonzero(~np.isnan(last))
    _, begin, count = np.unique(first[known], return_index=True, return_counts=True)
    if len(begin) != len(known):
        place = first[known[begin[count > 1][0]]]
        one, other, *_ = (ids[int(row)].as_py() for row in np.flatnonzero(first == place))
        raise SourceError(
            f"{where}: ids {one!r} and {other!r} are one image, {files[int(place)].as_py()!r}: remove one"
        )


def _ways(ids: Any, files: Any, bases: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Yield the names of all files and of all ids, in one form after the other."""
    import pyarrow.compute as pc

    def cut(texts: Any, pattern: str, instead: str = "") -> Any:
        return pc.replace_substring_regex(texts, pattern, instead)

    whole = cut(pc.replace_substring(ids, "\\", "/"), r"^(\./)+")
    for base in dict.fromkeys(bases):
        below = files
        if base:
            begins = pc.starts_with(files, f"{base}/")
            below = pc.if_else(begins, pc.utf8_slice_codeunits(files, len(base) + 1), None)
        yield below, whole
        yield cut(below, _SUFFIX, r"\1"), cut(whole, _SUFFIX, r"\1")
    names, wanted = cut(files, _FOLDERS), cut(whole, _FOLDERS)
    yield names, wanted
    names, wanted = cut(names, _SUFFIX, r"\1"), cut(wanted, _SUFFIX, r"\1")
    yield names, wanted
    yield names, cut(wanted, _FLOAT, r"\1")
