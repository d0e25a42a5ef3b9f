"""The rows to check: misclassified, uncertain or with a suspected label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.report.label_errors import entropy, label_errors, least_sure, most_wrong
from featcache.report.predictions import EnsemblePredictions

WRONG, UNSURE, ERRORS = "wrong", "unsure", "errors"
MOST = {WRONG: 24, UNSURE: 12, ERRORS: 36}
"""Rows shown of each kind; of the least sure ones in each split."""

Cards = dict[str, list[dict[str, Any]]]


def gallery(
    predictions: Mapping[str, EnsemblePredictions], rows: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str]
) -> tuple[Cards, dict[str, int]]:
    """Choose the rows.

    Args:
        predictions: split -> the ensemble's; ``train`` is there.
        rows: split -> (n,) the manifest's rows of these.
        names: the classes.

    Returns:
        `WRONG`, `UNSURE`, `ERRORS` -> at most `MOST` rows as JSON-able values, the first first: ``place`` (split and row
        of the manifest), ``split``, ``id``, ``label`` (None where unknown), ``predicted`` (the ensemble's class, or for a
        suspected label the suggested one), ``predicted_probability``, ``label_probability``, ``entropy`` (0 certain, 1
        all classes alike); and kind -> how many there are: misclassified rows, and suspected labels.
    """
    wrong, unsure, total = [], [], 0
    for split, each in predictions.items():
        places = most_wrong(each.probabilities, each.labels, MOST[WRONG])
        wrong += _cards(each, rows[split], places, each.predicted[places], names)
        places = least_sure(each.probabilities, MOST[UNSURE])
        unsure += _cards(each, rows[split], places, each.predicted[places], names)
        total += int(((each.labels >= 0) & (each.predicted != each.labels)).sum())
    wrong.sort(key=lambda card: card["label_probability"])
    train, shown = predictions["train"], slice(MOST[ERRORS])
    errors, suggested = label_errors(train.probabilities, train.labels)
    suspected = _cards(train, rows["train"], errors[shown], suggested[shown], names)
    return {WRONG: wrong[: MOST[WRONG]], UNSURE: unsure, ERRORS: suspected}, {WRONG: total, ERRORS: len(errors)}


def _cards(
    predictions: EnsemblePredictions,
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    classes: npt.NDArray[np.integer],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    spread = entropy(predictions.probabilities[places])
    cards = []
    for row, predicted, uncertainty in zip(places.tolist(), classes.tolist(), spread.tolist(), strict=True):
        label, probabilities = int(predictions.labels[row]), predictions.probabilities[row]
        cards.append(
            {
                "place": (predictions.split, int(rows[row])),
                "split": predictions.split,
                "id": predictions.ids[row],
                "label": names[label] if label >= 0 else None,
                "predicted": names[predicted],
                "predicted_probability": float(probabilities[predicted]),
                "label_probability": float(probabilities[label]) if label >= 0 else None,
                "entropy": uncertainty,
            }
        )
    return cards
