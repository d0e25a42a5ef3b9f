"""`featcache stats`, `pca` and `neighbours`, as records and as lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status, open_cache
from featcache.core.csv_files import replacing_csv
from featcache.core.formatting import Lines, Table, aligned, printable
from featcache.core.names import composed
from featcache.core.rows import label_text
from featcache.errors import CacheMismatchError, SettingsError
from featcache.project import usable_rows

if TYPE_CHECKING:
    from featcache.inspection.feature_space import PrincipalComponents

_QUANTILES = (0, 25, 50, 75, 100)


def stats_record(path: Path, tap: str | None) -> dict[str, Any]:
    """Return each tap's statistics over its features, or one tap's, as JSON-able values.

    Raises:
        CacheError: the file isn't there, is no finished feature cache, has no such tap, or no row with status ok.
    """
    from featcache.inspection.feature_space import feature_statistics

    reader, taps = open_cache(path), {}
    for name in reader.taps if tap is None else [reader.tap_name(tap)]:
        found = feature_statistics(reader, name)
        quantiles = {what: np.percentile(found[what], _QUANTILES) for what in ("mean", "deviation", "zeros")}
        taps[name] = {
            "rows": len(usable_rows(reader)),
            "features": len(found["mean"]),
            "always_zero": int((found["zeros"] == 1).sum()),
            "constant": int((found["min"] == found["max"]).sum()),
            "min": float(found["min"].min()),
            "max": float(found["max"].max()),
            "quantiles": {
                what: dict(zip(map(str, _QUANTILES), values.tolist(), strict=True))
                for what, values in quantiles.items()
            },
        }
    return {"path": str(path), "taps": taps}


def stats_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a `stats_record` as lines of text."""
    lines = [record["path"]]
    for name, tap in record["taps"].items():
        counts = f"{tap['always_zero']:,} always 0, {tap['constant']:,} the same in all rows"
        table = [["", "lowest", *(f"{q} %" for q in _QUANTILES[1:-1]), "highest"]]
        for what, quantiles in tap["quantiles"].items():
            table.append([what, *(f"{value:.4g}" for value in quantiles.values())])
        lines += ["", f"tap {name}: {tap['features']:,} features of {tap['rows']:,} rows; {counts}"]
        lines += [f"  values from {tap['min']:.4g} to {tap['max']:.4g}; of each feature:"]
        lines += [f"  {line}" for line in aligned(table)]
    return [printable(line) for line in lines]


def pca_record(path: Path, tap: str | None, count: int, csv_path: Path | None) -> dict[str, Any]:
    """Return a tap's principal components, and write the rows' coordinates if a path is given.

    Raises:
        CacheError: the file isn't there, is no finished feature cache, has no such tap, or no row with status ok.
        SettingsError: the file has several taps and none is named, or `count` is below 1.
        StorageError: the CSV can't be written.
    """
    from featcache.inspection.feature_space import principal_components

    reader = open_cache(path)
    name = _one_tap(reader, tap)
    found = principal_components(reader, name, count)
    if csv_path is not None:
        _write_scores(csv_path, reader, name, found)
    numbered = enumerate(zip(found.variances.tolist(), found.shares.tolist(), strict=True), start=1)
    components = [{"component": number, "variance": value, "share": share} for number, (value, share) in numbered]
    return {"path": str(path), "tap": name, "features": len(found.mean), "components": components}


def pca_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `pca_record` as a line and a table."""
    together, rows = 0.0, []
    for component in record["components"]:
        together += component["share"]
        cells = str(component["component"]), f"{component['variance']:.4g}", f"{component['share']:.1%}"
        rows.append([*cells, f"{together:.1%}"])
    head = f"{record['path']}: tap {record['tap']}, {record['features']:,} features"
    return [printable(head), Table(rows, ("component", "variance", "share", "together"))]


def _write_scores(path: Path, reader: Reader, tap: str, components: "PrincipalComponents") -> None:
    """Write row, id, class and a column a component."""
    from featcache.inspection.feature_space import component_scores

    rows, scores = usable_rows(reader).tolist(), component_scores(reader, tap, components)
    with replacing_csv(path) as lines:
        lines.row(("row", "id", "class", *(f"pc{number + 1}" for number in range(scores.shape[1]))))
        for row, values in zip(rows, scores.tolist(), strict=True):
            lines.row((*_named(reader, row).values(), *(f"{value:.7g}" for value in values)))


def neighbours_record(
    path: Path, ids: Sequence[str], among: Path | None, tap: str | None, count: int, metric: str
) -> dict[str, Any]:
    """Return, for rows of one cache, the nearest rows of another one (or of the same: then no row finds itself).

    Raises:
        CacheError: a file isn't there, is no finished feature cache, has no such tap, or no other row with status ok.
        CacheMismatchError: the two caches' taps aren't of the same settings.
        SettingsError: no such row, several taps and none named, or an impossible count or metric.
    """
    from featcache.inspection.feature_space import nearest_rows

    asked = open_cache(path)
    searched = asked if among is None else open_cache(among)
    name = _one_tap(searched, tap)
    _check_comparable(asked, searched, name)
    rows = _rows_of(asked, ids)
    own = rows if searched is asked else None
    found = nearest_rows(searched, name, np.asarray(asked[name][rows], np.float64), count, metric, own)
    records = []
    for row, *near in zip(*(array.tolist() for array in (rows, *found)), strict=True):
        neighbours = [{**_named(searched, at), "distance": distance} for at, distance in zip(*near, strict=True)]
        records.append({**_named(asked, row), "neighbours": neighbours})
    return {"path": str(path), "among": str(searched.path), "tap": name, "metric": metric, "rows": records}


def neighbours_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a `neighbours_record` as lines of text."""
    lines = [f"nearest rows of {record['among']} by {record['metric']} distance in {record['tap']}"]
    for row in record["rows"]:
        table = [[f"{near['distance']:.4f}", near["id"], near["class"]] for near in row["neighbours"]]
        lines += ["", f"{row['id']}  {row['class']}".rstrip(), *(f"  {line}" for line in aligned(table))]
    return [printable(line) for line in lines]


def _named(reader: Reader, row: int) -> dict[str, Any]:
    return {"row": row, "id": reader.ids[row], "class": label_text(reader.labels, row, reader.class_names)}


def _rows_of(reader: Reader, ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The rows of these ids, in their order; all must have features."""
    wanted, found = set(map(composed, ids)), dict[str, int]()
    for row, row_id in enumerate(reader.ids):
        if composed(row_id) in wanted:
            found.setdefault(composed(row_id), row)
            found[row_id] = row
    missing = next((row_id for row_id in ids if composed(row_id) not in found), None)
    if missing is not None:
        raise SettingsError(f"{reader.path} has no row {missing!r}; its ids are like {reader.ids[0]!r}")
    rows = np.array([found.get(row_id, found[composed(row_id)]) for row_id in ids], np.int64)
    rejected = rows[np.asarray(reader.status)[rows] != Status.OK]
    if len(rejected):
        raise SettingsError(f"{reader.path}: {reader.ids[int(rejected[0])]!r} was rejected and has no features")
    return rows


def _check_comparable(asked: Reader, searched: Reader, tap: str) -> None:
    """Distances are meaningful between rows of the same network, size and tap, however they were augmented."""
    if tap not in asked.taps:
        raise CacheMismatchError(f"{asked.path} has no tap {tap}, which {searched.path} has")
    ours, theirs = ({**reader.taps[tap].settings, "augmentation": None} for reader in (asked, searched))
    differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if differing:
        names = ", ".join(differing)
        raise CacheMismatchError(
            f"distances need the same settings; {asked.path} and {searched.path} differ in {names}"
        )


def _one_tap(reader: Reader, tap: str | None) -> str:
    if tap is None and len(reader.taps) > 1:
        raise SettingsError(f"{reader.path} has several taps ({', '.join(reader.taps)}): name one with --tap")
    return next(iter(reader.taps)) if tap is None else reader.tap_name(tap)
