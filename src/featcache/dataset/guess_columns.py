"""Which columns of a table are ids, labels, groups and splits, by their values and names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.names import first_names
from featcache.dataset.sources.joining import best_way
from featcache.dataset.sources.label_sets import NO, YES, found_separator
from featcache.dataset.sources.labels import SPLIT_NAMES
from featcache.dataset.sources.tables import column_names, read_columns
from featcache.errors import SourceError

_LABEL = re.compile(
    r"labels?|class(es|_?name|_?id)?|category|target|species|breed|diagnosis|dx|tags?|genres?|type|y|attribute_ids|(is|has)_.+",
    re.IGNORECASE,
)
_GROUP = re.compile(
    r".*(patient|subject|person|driver|lesion|individual|group|camera|study|series|burst).*", re.IGNORECASE
)
_SAMPLE = 2000  # ids that tell whether a column names images
_FEWEST_GROUPS = 5


@dataclass(frozen=True)
class Columns:
    """What the columns of a table of n rows are."""

    id: str
    found: Any  #: (n,) Arrow array of the image of each row, null where there is none
    others: Mapping[str, Any]  #: the other columns' texts

    def label(self, table: Path, wanted: Sequence[str]) -> tuple[str, ...]:
        """The label's column, or one a class; `wanted` are the sample submission's after its id.

        Raises:
            SourceError: it could be one of several.
        """
        rest = self.rest()
        binary = [name for name in rest if self._values(name) <= {*YES, *NO}]
        if wanted and set(wanted) <= set(rest):
            return tuple(wanted)
        if len(binary) > 1 and len(binary) >= len(rest) - 1:
            return tuple(binary)
        named = [name for name in rest if _LABEL.fullmatch(name)]
        few = [name for name in rest if 2 <= len(self._values(name)) <= max(2, len(self.found) // 2)]
        for candidates in (named, few, rest):
            if len(candidates) == 1:
                return (candidates[0],)
        fix = f"say which, featcache init PATH --set Dataset.label={(named or few or rest)[0]}"
        raise SourceError(f"{table}: [Dataset] label could be {first_names(named or few or rest, 12, str)}: {fix}")

    def separator(self, label: str) -> str:
        """What separates the labels in a column of that name, "" where each row has one; as [Dataset] separator has it."""
        found = found_separator([*self._values(label) - {""}]) if label in self.others else None
        return found[0] if found else ""

    def rest(self) -> list[str]:
        """The columns that may be labels: neither ids nor groups nor splits."""
        return [name for name in self.others if name not in (self.groups(), self.split())]

    def groups(self) -> str:
        """A column of what must stay in one fold, "" where none is called so."""
        for name in filter(_GROUP.fullmatch, self.others):
            values = self._values(name)
            if "" not in values and _FEWEST_GROUPS <= len(values) < len(self.found):
                return name
        return ""

    def split(self) -> str:
        """A column of the names of splits, "" where there is none."""
        split = (name for name in self.others if {value.lower() for value in self._values(name)} <= SPLIT_NAMES.keys())
        return next(split, "")

    def _values(self, name: str) -> set[str]:
        return set(self.others[name].unique().to_pylist())


def guess_columns(root: Path, table: str, files: Any, row_id: str = "") -> Columns | None:
    """Return what the columns of a table below `root` are; None where none of them names images.

    Args:
        root: the data set's folder.
        table: the table's path below it.
        files: locations of all images, as `arrow_texts` gives them.
        row_id: the column of ids, "" to find it.
    """
    names = list(filter(None, column_names(root / table)))
    columns = read_columns(root / table, {"table": names})
    bases = [str(Path(table).parent).removeprefix("."), ""]
    best, most = row_id, 0
    for name in names if not row_id else ():
        ids = columns[name][:_SAMPLE]
        if len(ids.unique()) * 2 <= len(ids):
            continue  # names of images that repeat are groups or labels
        count = len(ids) - best_way(ids, files, bases)[0].null_count
        if count * 2 > len(ids) and count > most:
            best, most = name, count
    if not best or not len(files):
        return None
    found = best_way(columns.pop(best), files, bases)[0]
    return Columns(best, found, columns)
