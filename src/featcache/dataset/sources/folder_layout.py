"""The files of class folders by split, class and natural order, and the rows that they are."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import readable_name
from featcache.core.rows import SPLITS, UNKNOWN_LABEL, Rows
from featcache.core.texts import ChosenTexts, ComputedTexts, ConstantText, Encoded, PackedTexts, Texts
from featcache.dataset.file_checks import Digests, FileChecks
from featcache.dataset.file_stats import FileStats
from featcache.dataset.natural_sort import natural_order


class Layout:
    """Files by split."""

    def __init__(self, files: FileStats) -> None:
        #: split -> names of the folders below it that hold images
        self.classes: dict[str, set[str]] = {split: set() for split in SPLITS}
        folders: dict[str, int] = {}
        paths = (location[: location.rindex("/")] for location in files.locations)
        #: (n,) which of `_folders` each file is in
        self._inside = np.fromiter((folders.setdefault(path, len(folders)) for path in paths), np.uint32, len(files))
        self._folders = [path.split("/", 2)[:2] for path in folders]
        for split, *name in self._folders:
            self.classes[split].update(name)
        self._locations, self._flat = files.locations, folders.get("test")

    @cached_property
    def _order(self) -> npt.NDArray[np.uint32]:
        return natural_order(self._locations)

    @cached_property
    def rows(self) -> dict[str, npt.NDArray[np.uint32]]:
        """Split -> positions of its files, in natural order; a million take seconds."""
        splits = np.array([SPLITS.index(split) for split, *_ in self._folders], np.uint8)[self._inside[self._order]]
        return {split: self._order[splits == number] for number, split in enumerate(SPLITS)}

    @property
    def flat_test(self) -> Sequence[str]:
        """Locations of test images in no class folder, in natural order."""
        if self._flat is None:
            return ()
        return ChosenTexts(self._locations, self._order[self._inside[self._order] == self._flat])

    def listed(self, split: str, numbers: dict[str, int], examined: FileChecks) -> Rows:
        """Return a split's rows; their labels are the `numbers` of their class folders."""
        rows, reasons = self.rows[split], examined.reasons
        found = [numbers.get(name[0], UNKNOWN_LABEL) if name else UNKNOWN_LABEL for _, *name in self._folders]
        locations, count = self._locations.taken(rows), len(rows)
        return Rows(
            ids=_Ids(locations, len(split) + 1),
            labels=np.asarray(np.array(found, np.int32)[self._inside[rows]]),
            groups=ConstantText("", count),
            digests=Digests(examined, rows),
            reasons=ComputedTexts(count, lambda row: reasons.get(int(rows[row]), ""))
            if reasons
            else ConstantText("", count),
            locations=locations,
        )


class _Ids(Texts):
    """Readable paths below a split's folder: locations without their first bytes."""

    def __init__(self, locations: PackedTexts, skipped: int) -> None:
        self._locations, self._skipped = locations, skipped

    def __len__(self) -> int:
        return len(self._locations)

    def decode(self, start: int, stop: int) -> list[str]:
        """Return the texts [start, stop)."""
        return [readable_name(location[self._skipped :]) for location in self._locations.decode(start, stop)]

    def encoded(self, start: int, stop: int, errors: str = "surrogateescape") -> Encoded:
        """Return the UTF-8 of the texts [start, stop)."""
        raw, lengths = self._locations.encoded(start, stop)
        if not raw.isascii():
            return super().encoded(start, stop, errors)
        kept, begins = np.ones(len(raw), bool), np.cumsum(lengths) - lengths
        kept[begins[:, None] + np.arange(self._skipped)] = False
        return np.frombuffer(raw, np.uint8)[kept].tobytes(), lengths - self._skipped
