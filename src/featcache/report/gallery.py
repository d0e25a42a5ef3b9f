"""The rows to check: misclassified, uncertain or with a suspected label."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.rows import is_several, known_labels, label_text
from featcache.report.label_errors import suspected, suspected_cells
from featcache.report.label_sets import set_probabilities
from featcache.report.predictions import EnsemblePredictions
from featcache.training import cells, row_parts

WRONG, UNSURE, ERRORS = "wrong", "unsure", "errors"
NO_LABEL = "no label"  # what cards call a set without any
MOST = {WRONG: 24, UNSURE: 12, ERRORS: 36}
"""Rows shown of each kind; of the least sure ones in each split."""

Cards = dict[str, list[dict[str, Any]]]
Floats = npt.NDArray[np.floating]
_LEAST = 1e-15


def gallery(
    predictions: Mapping[str, EnsemblePredictions],
    rows: Mapping[str, npt.NDArray[np.int64]],
    names: Sequence[str],
    reviewed: Collection[str] = (),
) -> tuple[Cards, dict[str, int]]:
    """Choose rows by the ensemble's predictions of each split, ``train`` among them; `rows` are the manifest's of these.

    Of `reviewed` ids no label is suspected.

    Returns:
        `WRONG`, `UNSURE`, `ERRORS` -> at most `MOST` rows as JSON-able values, the first first: ``place`` (split and row
        of the manifest), ``split``, ``id``, ``label`` (None where unknown), ``predicted`` (the ensemble's class, or for a
        suspected label the suggested one; both also as ``sets`` where rows have several labels), ``predicted_probability``, ``label_probability``, ``entropy`` (0 certain, 1
        all classes alike); and kind -> how many there are: misclassified rows, and suspected labels.
    """
    wrong, unsure, total = [], [], 0
    for split, each in predictions.items():
        places = most_wrong(each.probabilities, each.labels, MOST[WRONG], each.predicted)
        wrong += _cards(each, rows[split], places, each.predicted[places], names)
        unsure_of = _set_entropy if is_several(each.labels) else entropy
        places = least_sure(each.probabilities, MOST[UNSURE], unsure_of)
        unsure += _cards(each, rows[split], places, each.predicted[places], names)
        total += int(_wrong(each.labels, each.predicted).sum())
    wrong.sort(key=lambda card: card["label_probability"])
    train = predictions["train"]
    if is_several(train.labels):
        errors, columns = suspected_cells(train, reviewed)
        suspected_cards = _cell_cards(train, rows["train"], errors[: MOST[ERRORS]], columns[: MOST[ERRORS]], names)
        likely = len(errors)
    else:
        errors, suggested, likely = suspected(train, reviewed)
        shown = slice(min(MOST[ERRORS], likely))
        suspected_cards = _cards(train, rows["train"], errors[shown], suggested[shown], names)
    return {WRONG: wrong[: MOST[WRONG]], UNSURE: unsure, ERRORS: suspected_cards}, {WRONG: total, ERRORS: likely}


def _cards(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    classes: npt.NDArray[np.integer],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    if is_several(predictions.labels):
        return _set_cards(predictions, rows, places, classes, names)
    spread = entropy(predictions.probabilities[places])
    cards = []
    for row, predicted, uncertainty in zip(places.tolist(), classes.tolist(), spread.tolist(), strict=True):
        label, probabilities = int(predictions.labels[row]), predictions.probabilities[row]
        texts = names[label] if label >= 0 else None, names[predicted]
        of_label = float(probabilities[label]) if label >= 0 else None
        cards.append(_card(predictions, rows, row, texts, (of_label, float(probabilities[predicted])), uncertainty))
    return cards


def _card(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    row: int,
    texts: tuple[str | None, str],
    probabilities: tuple[float | None, float],
    spread: float,
) -> dict[str, Any]:
    """One row's; texts and probabilities are of the label and of what is predicted."""
    return {
        "place": (predictions.split, int(rows[row])),
        "split": predictions.split,
        "id": predictions.ids[row],
        "label": texts[0],
        "predicted": texts[1],
        "predicted_probability": probabilities[1],
        "label_probability": probabilities[0],
        "entropy": spread,
    }


def _set_cards(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.integer],
    given: npt.NDArray[np.integer],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Cards of rows with several labels; their probabilities are those of the whole set."""
    labels, probabilities = predictions.labels[places], predictions.probabilities[places]
    known = known_labels(labels).tolist()
    columns = (set_probabilities(probabilities, each).tolist() for each in (labels, given))
    lines = zip(places.tolist(), known, *columns, _set_entropy(probabilities).tolist(), strict=True)
    cards = []
    for place, (row, there, of_labels, of_given, spread) in enumerate(lines):
        sets = [label_text(each, place, names) for each in (labels, given)]
        texts = sets[0] or NO_LABEL if there else None, sets[1] or NO_LABEL
        odds = of_labels if there else None, of_given
        cards.append({**_card(predictions, rows, row, texts, odds, spread), "sets": sets})
    return cards


def _cell_cards(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.integer],
    columns: npt.NDArray[np.integer],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Cards of suspected cells: of one label, that the row has or has not."""
    cards = _set_cards(predictions, rows, places, predictions.labels[places], names)
    for card, row, column in zip(cards, places.tolist(), columns.tolist(), strict=True):
        there, probability = bool(predictions.labels[row, column]), float(predictions.probabilities[row, column])
        other = predictions.labels[[row]]
        other[0, column] ^= 1
        card["sets"][1] = label_text(other, 0, names)
        texts = names[column], f"not {names[column]}"
        card["label"], card["predicted"] = texts if there else texts[::-1]
        card["label_probability"] = probability if there else 1 - probability
        card["predicted_probability"] = 1 - card["label_probability"]
    return cards


def _wrong(labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """(n,) whether a row whose labels are known is misclassified."""
    differ = predicted != labels
    return np.asarray(known_labels(labels) & (differ.any(axis=1) if differ.ndim == 2 else differ))


def most_wrong(
    probabilities: Floats, labels: npt.NDArray[np.integer], most: int, predicted: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Return (k,) the misclassified rows, those whose label has the lowest probability first; none of unknown label, -1."""
    rows = np.flatnonzero(_wrong(labels, predicted))
    own = labels[rows]
    of_label = set_probabilities(probabilities[rows], own) if is_several(labels) else probabilities[rows, own]
    found: npt.NDArray[np.int64] = rows[np.argsort(of_label, kind="stable")[:most]]
    return found


def least_sure(
    probabilities: Floats, most: int, spread: Callable[[Floats], Floats] | None = None
) -> npt.NDArray[np.int64]:
    """Return (k,) the rows of the highest entropy, highest first."""
    found: npt.NDArray[np.int64] = np.argsort(-(spread or entropy)(probabilities), kind="stable")[:most]
    return found


def _set_entropy(probabilities: Floats) -> Floats:
    """(n,) the mean entropy of a row's labels, in 0..1."""
    spread = entropy(cells(probabilities)).reshape(probabilities.shape)
    return np.asarray(spread.mean(axis=1))


def entropy(probabilities: Floats) -> Floats:
    """Return (n,) the entropy of each row, in 0..1: 0 for one class alone, 1 for all C classes alike."""
    spread: Floats = np.empty(len(probabilities))
    for rows in row_parts(*probabilities.shape):
        some = probabilities[rows]
        spread[rows] = -(some * np.log(np.maximum(some, _LEAST))).sum(axis=1)
    spread /= np.log(probabilities.shape[1])
    return spread
