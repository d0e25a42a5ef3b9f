"""Images in folders whose labels are in a table, or in the names of their files."""

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core import paths
from featcache.core.names import first_names
from featcache.core.progress import Progress
from featcache.core.rows import SPLITS, Labels, Rows, known_labels
from featcache.core.texts import NOT_FOUND, ChosenTexts, ComputedTexts, ConstantText
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.file_checks import Digests, FileChecks
from featcache.dataset.file_stats import FileStats, stat_file
from featcache.dataset.manifest import Manifest, check_training
from featcache.dataset.manifest_rows import ArrowTexts
from featcache.dataset.natural_sort import natural_order
from featcache.dataset.sources.folder import ImageFiles
from featcache.dataset.sources.joining import arrow_texts, find_files
from featcache.dataset.sources.labels import as_lines, group_column, number_labels, read_lines
from featcache.dataset.sources.scan import Scan
from featcache.dataset.sources.tables import column_names
from featcache.errors import SourceError
from featcache.settings import DatasetSpec

_NO_FILE, _NO_LABEL = "no image file has this name", "it has no label"
_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")


class TableSource(ImageFiles):
    """Lists the images that a table names, in the table's order; a row's id is the table's."""

    _unnamed = "images that no table names"

    def __init__(self, path: Path, spec: DatasetSpec):
        super().__init__(path)
        self.spec = spec
        folders = [_below(folder, "images") for folder in spec.images] or [""]
        test = _below(spec.test, "test") if spec.test else ""
        #: the folder of the test images, "" where there is none; one of `folders` or below one
        self.test_folder = test if paths.is_folder(path / test) else ""
        self.test_table = test if not self.test_folder else ""
        self.folders = _outermost([*folders, *filter(None, [self.test_folder])])

    def files(self) -> FileStats:
        """Return the stats of all image files and, apart, of the tables, without reading any.

        Raises:
            SourceError: a folder or table isn't there, or there are no images.
        """
        tables = {}
        for name in filter(None, (self.spec.table, self.test_table)):
            path = self.path / name
            if not paths.is_file(path):
                setting = "table" if name == self.spec.table else "test"
                raise SourceError(f"{self.path} has no {name} but {paths.what_is(path)}: correct [Dataset] {setting}")
            tables[path] = stat_file(f"table:{name}", path)
        files = self._scan()
        files.tables = tables
        if not len(files):
            raise SourceError(f"{self.path} has no images in {self._shown()}: set [Dataset] path or images")
        return files

    def list_rows(self, files: FileStats, digests: DigestCache, progress: Progress) -> Manifest:
        """List every image that is named, with its label and content digest; errors are those of a `FolderSource`."""
        import pyarrow as pa

        locations = arrow_texts(files.locations)
        in_test = np.zeros(len(files), bool)
        if self.test_folder:
            import pyarrow.compute as pc

            in_test = pc.starts_with(locations, f"{self.test_folder}/").to_numpy(False)
        left_out = files.left_out.copy()
        lines, found = self._training(locations, np.flatnonzero(~in_test), left_out)
        if self.test_table or self.test_folder:
            test, test_found = self._test(locations, np.flatnonzero(in_test), left_out)
            _refuse_both(lines, found, test_found)
            lines, found = pa.concat_tables([lines, test]), np.concatenate([found, test_found])
        unnamed = len(files) - int(np.count_nonzero(np.bincount(found[found >= 0])))
        if unnamed:
            left_out[self._unnamed] += unnamed
        classes, labels = number_labels(self.where, lines, self.spec.label)
        examined = self.examine(files, digests, progress)
        rows = rows_of_lines(lines, labels, found, examined)
        check_training(self.where, classes, rows["train"])
        return Manifest(classes, rows, {"source": self.spec.source}, left_out)

    @property
    def where(self) -> str:
        """What messages call the place of ids and labels."""
        return str(self.path / self.spec.table)

    def _scan(self) -> FileStats:
        scan = Scan()
        for folder in self.folders:
            path = self.path / folder
            if not paths.is_folder(path):
                fault = f"{path} is not a folder of images but {paths.what_is(path)}"
                raise SourceError(f"{fault}: correct [Dataset] path or images")
            scan.tree(path, folder)
        return scan.files

    def _shown(self) -> str:
        return ", ".join(folder or "it" for folder in self.folders)

    def _training(self, locations: Any, among: npt.NDArray[np.intp], left_out: Counter[str]) -> tuple[Any, Any]:
        """The table's lines, and the place of each one's file in `files`, one of those `among`."""
        spec = self.spec
        groups = group_column(spec)
        lines = read_lines(
            self.path / spec.table, spec.id, spec.label, groups, spec.split, left_out, separator=spec.separator
        )
        refuse_ungrouped(self.where, lines, groups)
        return self._find(spec.table, lines, locations, among)

    def _test(self, locations: Any, inside: npt.NDArray[np.intp], left_out: Counter[str]) -> tuple[Any, Any]:
        """The same of the test rows, which have no labels: of `test_table`, or the files `inside` of `test_folder`."""
        if self.test_table:
            path = self.path / self.test_table
            row_id = self.spec.id if self.spec.id in column_names(path) else ""
            lines = read_lines(path, row_id, (), "", "", left_out, "test")
            return self._find(self.test_table, lines, locations, np.arange(len(locations)))
        import pyarrow.compute as pc

        if not len(inside):
            raise SourceError(f"{self.path / self.test_folder} has no images: correct [Dataset] test")
        names = locations.take(inside)
        order = natural_order(names.to_pylist())
        ids = pc.utf8_slice_codeunits(names.take(order), len(self.test_folder) + 1)
        return as_lines(ids, split=_TEST), inside[order]

    def _find(self, table: str, lines: Any, locations: Any, among: npt.NDArray[np.intp]) -> tuple[Any, Any]:
        """The lines with the place of each one's file; a line an image, called by its location, where ids have several."""
        import pyarrow.compute as pc

        bases = [str(Path(table).parent).removeprefix("."), *self.folders, ""]
        numbers, found = find_files(lines["id"].combine_chunks(), locations.take(among), bases, str(self.path / table))
        found = np.where(found >= 0, among[found], NOT_FOUND)
        if numbers is None:
            return lines, found
        lines = lines.take(numbers)
        ids = lines["id"]
        groups = pc.if_else(pc.equal(lines["group"], ""), ids, lines["group"])  # a case is in one fold
        names = pc.if_else(found >= 0, locations.take(np.maximum(found, 0)), ids.combine_chunks())
        return as_lines(names, lines["label"], groups, lines["split"].to_numpy(), ids), found


def refuse_ungrouped(where: str, lines: Any, groups: str) -> None:
    """Raise a `SourceError` where there is a column of groups and a training row has none."""
    import pyarrow.compute as pc

    without = pc.and_(pc.equal(lines["split"], _TRAIN), pc.equal(lines["group"], ""))
    if groups and pc.any(without).as_py():
        names = first_names(lines["id"].filter(without).to_pylist())
        raise SourceError(f"{where}: training rows have no group in column {groups!r}: {names}: correct the table")


def _refuse_both(lines: Any, found: npt.NDArray[np.int64], test: npt.NDArray[np.int64]) -> None:
    both = np.flatnonzero((found >= 0) & np.isin(found, test))
    if len(both):
        name = lines["id"][int(both[0])].as_py()
        fault = f"{len(both):,} images are both training and test images, e.g. id={name!r}"
        raise SourceError(f"{fault}: correct [Dataset] test, or take them from one of the tables")


def rows_of_lines(lines: Any, labels: Labels, found: npt.NDArray[np.int64], examined: FileChecks) -> dict[str, Rows]:
    """Return split -> rows, of lines, their (n,) or (n, L) labels and the (n,) places of their files in `examined`, -1 for none."""
    splits = lines["split"].to_numpy()
    return {
        name: _rows(lines, labels, found, np.flatnonzero(splits == number), examined, labelled=number == _TRAIN)
        for number, name in enumerate(SPLITS)
    }


def _rows(
    lines: Any,
    labels: Labels,
    found: npt.NDArray[np.int64],
    which: npt.NDArray[np.intp],
    examined: FileChecks,
    *,
    labelled: bool,
) -> Rows:
    """The rows `which`, of lines, their labels and files; without its file, or if `labelled` its label, one is rejected."""
    import pyarrow.compute as pc

    count, places = len(which), found[which]
    labels, files = labels[which], array("q", places.astype(np.int64).tobytes())  # as plain numbers when indexed
    known = known_labels(labels)
    groups, cases = lines["group"].take(which), lines["case"].take(which)
    faultless = min(files, default=0) >= 0 and not examined.reasons and not (labelled and not known.all())

    column = lines["id"].take(which)
    ids = ArrowTexts(column.cast("large_binary"))
    ids.is_unique = pc.count_distinct(column).as_py() == count  # or `Rows` finds the one that isn't

    def reason(row: int) -> str:
        if files[row] < 0:
            return _NO_FILE
        return _NO_LABEL if labelled and not known[row] else examined.reasons.get(files[row], "")

    return Rows(
        ids=ids,
        labels=labels,
        groups=ArrowTexts(groups.cast("large_binary")) if any(groups.unique().to_pylist()) else ConstantText("", count),
        digests=Digests(examined, places),
        reasons=ConstantText("", count) if faultless else ComputedTexts(count, reason),
        locations=ChosenTexts(examined.files.locations, places),
        cases=ArrowTexts(cases.cast("large_binary")) if count and cases[0].as_py() else (),
    )


def _below(name: str, setting: str) -> str:
    """A path below the data set's folder as locations have it; a `SourceError` for one that isn't below it."""
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise SourceError(f"[Dataset] {setting}={name!r} is not below [Dataset] path: write it relative to that")
    return "/".join(parts)


def _outermost(folders: Sequence[str]) -> list[str]:
    """The folders without those below another, in their order."""
    return [
        folder
        for folder in dict.fromkeys(folders)
        if not any(other != folder and (not other or folder.startswith(f"{other}/")) for other in folders)
    ]
