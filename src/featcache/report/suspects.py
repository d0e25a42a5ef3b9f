"""Labels that are likely wrong: the list of `featcache suspects`, which is also a file of `[Dataset] corrections`."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.core.csv_files import replacing_csv
from featcache.core.formatting import Lines, Table, printable
from featcache.core.rows import is_several, label_text
from featcache.dataset import Correction, Manifest, read_corrections
from featcache.ensemble import Ensemble
from featcache.project import Project
from featcache.report.label_errors import suspected, suspected_cells
from featcache.report.label_sets import set_probabilities
from featcache.report.predictions import EnsemblePredictions, ensemble_predictions

_SHOWN = 50
_COLUMNS = ("id", "label", "given", "probability", "given_probability", "likely", "split")


def suspects_record(project: Project) -> dict[str, Any]:
    """Return the misclassified training rows as JSON-able values: first those whose labels are likely wrong.

    Rows that `[Dataset] corrections` names were looked at, and are left out.

    Returns:
        ``rows``, how many were judged; ``corrections`` in force, "" for none; ``suspects``, of each its ``id`` (of a case
        where rows have cases), ``label``, the suggested one, and ``probability`` of it, out of fold, the ``given`` label and
        ``given_probability``, whether the given one is ``likely`` wrong, and ``split``. Of several labels a row, both are
        sets of names with ``|`` between them, and probabilities those of the set, were labels independent.

    Raises:
        CacheError: there is no ensemble of these settings, or its members' predictions are missing or damaged.
    """
    manifest, built = Manifest.load(project.folder), Ensemble.load(project.ensemble().path)
    train, names = next(ensemble_predictions(project, manifest, built)), built.class_names
    reviewed = {line.id for line in corrections(project)}
    in_force = manifest.settings.get("corrections", "")
    if is_several(train.labels):
        found = _suspected_sets(train, names, reviewed)
        return {"rows": len(train.ids), "corrections": in_force, "suspects": found}
    rows, suggested, likely = suspected(train, reviewed)
    found = []
    for place, (row, label) in enumerate(zip(rows.tolist(), suggested.tolist(), strict=True)):
        given, probabilities = int(train.labels[row]), train.probabilities[row]
        values = names[label], names[given], float(probabilities[label]), float(probabilities[given])
        found.append(dict(zip(_COLUMNS, (train.ids[row], *values, place < likely, train.split), strict=True)))
    return {"rows": len(train.ids), "corrections": in_force, "suspects": found}


def _suspected_sets(
    train: EnsemblePredictions, names: Sequence[str], reviewed: Collection[str]
) -> list[dict[str, Any]]:
    """Rows with suspected cells, each once: the set of labels with all of these the other way round."""
    columns: dict[int, list[int]] = {}
    for row, column in zip(*(each.tolist() for each in suspected_cells(train, reviewed)), strict=True):
        columns.setdefault(row, []).append(column)
    found = []
    for row in columns:
        sets = np.stack([train.labels[row], train.labels[row]])
        sets[0, columns[row]] ^= 1
        texts = [label_text(sets, place, names) for place in range(2)]
        odds = set_probabilities(train.probabilities[[row, row]], sets).tolist()
        found.append(dict(zip(_COLUMNS, (train.ids[row], *texts, *odds, True, train.split), strict=True)))
    return found


def corrections(project: Project) -> list[Correction]:
    """Return the lines of `[Dataset] corrections`; none without it."""
    path = project.settings.dataset.corrections
    return [] if path is None else read_corrections(path)


def suspects_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `suspects_record` as lines and a table of the first rows."""
    found = record["suspects"]
    likely = sum(each["likely"] for each in found)
    in_force = f"; corrections in force: {record['corrections']}" * bool(record["corrections"])
    head = (
        f"{likely:,} of {record['rows']:,} labels are likely wrong, {len(found) - likely:,} more are doubtful{in_force}"
    )
    rows = [
        [each["id"], each["given"], each["label"], f"{each['probability']:.4f}", "likely wrong" * each["likely"]]
        for each in found[:_SHOWN]
    ]
    more = [f"the first {_SHOWN} of {len(found):,}; --csv FILE has all"] if len(found) > _SHOWN else []
    return [head, *([Table(rows, ("id", "given", "suggested", "probability", ""))] if rows else []), *more]


def write_suspects(path: Path, record: Mapping[str, Any]) -> str:
    """Write all of a `suspects_record` as a CSV, and return what to do with it.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with replacing_csv(path) as lines:
        lines.row(_COLUMNS)
        lines.rows(
            [str(each[name]).lower() if name == "likely" else each[name] for name in _COLUMNS]
            for each in record["suspects"]
        )
    return f"{printable(str(path))}: remove the lines of right labels, then set [Dataset] corrections = {path}"
