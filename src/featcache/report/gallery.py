"""The rows to check: misclassified, uncertain or with a suspected label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.report.label_errors import entropy, label_errors, least_sure, most_wrong
from featcache.report.predictions import EnsemblePredictions
from featcache.report.thumbnails import RowRef

WRONG, UNSURE, ERRORS = "wrong", "unsure", "errors"
MOST = {WRONG: 24, UNSURE: 12, ERRORS: 36}
"""Rows shown of each kind; of the least sure ones in each split."""


@dataclass(frozen=True)
class Found:
    """One row to check.

    Attributes:
        place: its split and row of the manifest.
        row_id: its id.
        label: class index, -1 where unknown.
        predicted: the class that the ensemble predicts, or for a suspected label the one that it suggests.
        predicted_probability: of that class.
        label_probability: of the label; None where that is unknown.
        entropy: 0 certain, 1 all classes alike.
    """

    place: RowRef
    row_id: str
    label: int
    predicted: int
    predicted_probability: float
    label_probability: float | None
    entropy: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """What was found, by kind, the first of each first.

    Attributes:
        found: `WRONG`, `UNSURE`, `ERRORS` -> rows, at most `MOST`.
        totals: kind -> how many there are: misclassified rows, and suspected labels.
    """

    found: Mapping[str, list[Found]]
    totals: Mapping[str, int]

    def places(self) -> list[RowRef]:
        """Each row once."""
        return list(dict.fromkeys(each.place for found in self.found.values() for each in found))


def gallery(predictions: Mapping[str, EnsemblePredictions], rows: Mapping[str, npt.NDArray[np.int64]]) -> Gallery:
    """Choose the rows.

    Args:
        predictions: split -> the ensemble's; ``train`` is there.
        rows: split -> (n,) the manifest's rows of these.
    """
    wrong, unsure = [], []
    for split, each in predictions.items():
        places = most_wrong(each.probabilities, each.labels, MOST[WRONG])
        wrong += _found(each, rows[split], places, each.predicted[places])
        places = least_sure(each.probabilities, MOST[UNSURE])
        unsure += _found(each, rows[split], places, each.predicted[places])
    wrong.sort(key=lambda row: row.label_probability or 0.0)
    train = predictions["train"]
    errors = label_errors(train.probabilities, train.labels)
    shown = slice(MOST[ERRORS])
    totals = {
        WRONG: sum(int(((each.labels >= 0) & (each.predicted != each.labels)).sum()) for each in predictions.values())
    }
    return Gallery(
        {
            WRONG: wrong[: MOST[WRONG]],
            UNSURE: unsure,
            ERRORS: _found(train, rows["train"], errors.rows[shown], errors.suggested[shown]),
        },
        {**totals, ERRORS: len(errors.rows)},
    )


def card(found: Found, names: Sequence[str], neighbours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one row as the page shows it."""
    return {
        "place": found.place,
        "split": found.place[0],
        "id": found.row_id,
        "label": names[found.label] if found.label >= 0 else None,
        "predicted": names[found.predicted],
        "predicted_probability": found.predicted_probability,
        "label_probability": found.label_probability,
        "entropy": found.entropy,
        "neighbours": list(neighbours),
    }


def _found(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    classes: npt.NDArray[np.integer],
) -> list[Found]:
    spread = entropy(predictions.probabilities[places])
    found = []
    for row, predicted, uncertainty in zip(places.tolist(), classes.tolist(), spread.tolist(), strict=True):
        label, probabilities = int(predictions.labels[row]), predictions.probabilities[row]
        of_label = float(probabilities[label]) if label >= 0 else None
        place, row_id = (predictions.split, int(rows[row])), predictions.ids[row]
        found.append(Found(place, row_id, label, predicted, float(probabilities[predicted]), of_label, uncertainty))
    return found
