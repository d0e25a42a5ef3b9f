"""The rows of one split, column by column: what a manifest lists and a feature cache stores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featcache.core import keys
from featcache.core.texts import CHUNK, ConstantText, first_duplicate
from featcache.errors import SourceError

SPLITS = ("train", "valid", "test")
UNKNOWN_LABEL = -1


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows in the manifest's order. Columns of texts are any sequences: lists, or `featcache.core.texts` for many rows.

    Attributes:
        ids: n unique texts; for files the path below the split's folder, with ``/``.
        labels: (n,) int32, an index into the manifest's class names, or -1 where unknown.
        groups: n texts, what must not straddle a fold; "" where there is none.
        digests: n SHA-256 hex digests of the image's content (of the file's bytes, or of the raw pixels);
            "" where the content could not be read.
        reasons: n texts; "" for a row that is fine, otherwise why listing already set it aside.
        locations: n texts by which the source finds the image again; never part of a key.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int32]
    groups: Sequence[str]
    digests: Sequence[str]
    reasons: Sequence[str]
    locations: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        """Refuse columns of different lengths and repeated ids."""
        n = len(self.ids)
        columns = {"labels": self.labels, "groups": self.groups, "digests": self.digests, "reasons": self.reasons}
        if not len(self.locations):
            object.__setattr__(self, "locations", ConstantText("", n))
        columns["locations"] = self.locations
        for name, column in columns.items():
            if len(column) != n:
                raise SourceError(f"expected {n} {name}, one for each row id; got len({name})={len(column)}")
        twice = first_duplicate(self.ids)
        if twice is not None:
            raise SourceError(f"expected unique row ids; id={twice!r} stands twice")

    def __len__(self) -> int:
        """The number of rows, rejected ones included."""
        return len(self.ids)

    @cached_property
    def listed(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, True where listing found nothing wrong with the row."""
        return np.fromiter((not reason for reason in self.reasons), bool, len(self))

    @cached_property
    def key(self) -> str:
        """The digest of ids, labels, groups, digests and reasons in this order; locations don't count."""
        texts = (self.ids, self.groups, self.digests, self.reasons)
        key = RowsKey()
        for start in range(0, len(self), CHUNK):  # side by side: columns of one file read it once
            part = slice(start, start + CHUNK)
            key.update(self.labels[part].tolist(), *(column[part] for column in texts))
        return key.hexdigest()


class RowsKey:
    """`Rows.key`, told of the rows part by part."""

    def __init__(self) -> None:
        self._states = [keys.SequenceDigest() for _ in range(5)]

    def update(
        self,
        labels: Iterable[int],
        ids: Sequence[str],
        groups: Sequence[str],
        digests: Sequence[str],
        reasons: Sequence[str],
    ) -> None:
        """Go on with these rows."""
        for state, column in zip(self._states, (ids, map(str, labels), groups, digests, reasons), strict=True):
            state.update(column)

    def hexdigest(self) -> str:
        """Return the key of all rows told so far."""
        return keys.digest([state.hexdigest() for state in self._states])
