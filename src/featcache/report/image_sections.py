"""The parts of the report that show images: rows to check, duplicates, and the map of the features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.cache import Status
from featcache.core.texts import NOT_FOUND
from featcache.dataset import open_source
from featcache.report.duplicates import exact_duplicates
from featcache.report.feature_map import (
    PAIR_ROWS,
    Projected,
    feature_map,
    near_duplicates,
    nearest_training_rows,
    projected,
)
from featcache.report.gallery import ERRORS, Gallery, gallery
from featcache.report.inputs import Run
from featcache.report.thumbnails import RowRef, thumbnails

NEIGHBOURS = 5
NEAR = 0.5
"""Pairs are near duplicates below this share of the usual distance between nearest rows."""
_GROUPS, _PAIRS, _OF_EACH = 24, 12, 6
_LARGE, _SMALL, _DOT = 112, 56, 40  # pixels
_LARGE_BYTES, _SMALL_BYTES, _DOT_BYTES = 900_000, 900_000, 1_900_000


def pictures(run: Run) -> dict[str, Any]:
    """Return the rows to check, duplicates and map, with their images.

    Raises:
        CacheError: a cache is missing or damaged.
        SourceChangedError: an image is no longer what the manifest says.
    """
    found = gallery(run.predictions, run.rows, run.names)
    space = projected(run.readers["train"], run.tap)
    neighbours = nearest_training_rows(run.readers["train"], run.readers, run.tap, found.places(), NEIGHBOURS)
    duplicates, pairs = _duplicates(run), _pairs(run, space)
    near = [("train", row) for nearest in neighbours.values() for row, _ in nearest]
    groups = [*duplicates["groups"], *pairs["pairs"]]
    doubled = [place for group in groups for place in group["places"]]
    dots = _map(run, space, found)
    splits, load = run.manifest.splits, open_source(run.project.settings.dataset).load
    large = thumbnails(splits, load, found.places() + doubled, _LARGE, _LARGE_BYTES)
    small = thumbnails(splits, load, near, _SMALL, _SMALL_BYTES)
    tiny = thumbnails(splits, load, [("train", row) for row in dots.pop("rows")], _DOT, _DOT_BYTES)
    dots["images"] = list(tiny.values()) + [None] * (len(dots["ids"]) - len(tiny))
    for card in (card for cards in found.cards.values() for card in cards):
        nearest = neighbours.get(card["place"], ())
        described = [{**_described(run, ("train", row), small), "distance": distance} for row, distance in nearest]
        card |= {"neighbours": described, "image": large.get(card["place"])}
    for group in groups:
        group["images"] = [_described(run, place, large) for place in group.pop("places")]
    parts = {"duplicates": duplicates, "pairs": pairs, "map": dots}
    return {"tap": run.tap, "cards": dict(found.cards), "totals": dict(found.totals), **parts}


def _described(run: Run, place: RowRef, images: Mapping[RowRef, str]) -> dict[str, Any]:
    split, row = place
    rows = run.manifest.splits[split]
    label = int(rows.labels[row])
    return {
        "split": split,
        "id": rows.ids[row],
        "label": run.names[label] if label >= 0 else None,
        "image": images.get(place),
    }


def _duplicates(run: Run) -> dict[str, Any]:
    """Groups of the same bytes, of all splits, among the usable rows."""
    digests = {
        split: np.where(reader.status == Status.OK, reader.digest_column, b"") for split, reader in run.readers.items()
    }
    found = exact_duplicates(digests, {split: reader.labels for split, reader in run.readers.items()})
    return {
        "total": len(found),
        "rows": sum(len(each.rows) for each in found),
        "across": sum(each.across for each in found),
        "labels": sum(each.labels for each in found),
        "groups": [
            {"places": list(each.rows[:_OF_EACH]), "rows": len(each.rows), "across": each.across, "labels": each.labels}
            for each in found[:_GROUPS]
        ],
    }


def _pairs(run: Run, space: Projected) -> dict[str, Any]:
    """The closest pairs of training rows of different bytes."""
    closest, among = near_duplicates(space, PAIR_ROWS)
    digests, labels = run.readers["train"].digest_column, run.readers["train"].labels
    near = [pair for pair in closest if pair[2] < NEAR and digests[pair[0]] != digests[pair[1]]]
    return {
        "total": len(near),
        "among": among,
        "rows": len(space.rows),
        "pairs": [
            {"places": [("train", i), ("train", j)], "share": share, "labels": bool(labels[i] != labels[j])}
            for i, j, share in near[:_PAIRS]
        ],
    }


def _map(run: Run, space: Projected, found: Gallery) -> dict[str, Any]:
    """The map's points, column by column; ``rows`` are those of the manifest."""
    predictions, rows = run.predictions["train"], run.rows["train"]
    suspected = {card["place"][1] for card in found.cards[ERRORS]}
    special = [row for split, row in found.places() if split == "train"]
    where = np.full(len(run.readers["train"]), NOT_FOUND)
    where[rows] = np.arange(len(rows))
    drawn = feature_map(space, np.flatnonzero(np.isin(space.rows, special)))
    chosen = space.rows[drawn.places]
    labels, ids = run.manifest.splits["train"].labels, run.manifest.splits["train"].ids
    scored = where[chosen]
    predicted = np.where(scored == NOT_FOUND, -1, predictions.predicted[scored])
    probability = np.where(scored == NOT_FOUND, 0.0, predictions.probabilities[scored, labels[chosen]])
    return {
        "rows": chosen.tolist(),
        "of": len(space.rows),
        "shares": space.shares[:2].tolist(),
        "x": drawn.neighbours.round(4).T.tolist(),
        "pca": drawn.components.round(4).T.tolist(),
        "ids": [ids[row] for row in chosen.tolist()],
        "labels": labels[chosen].tolist(),
        "predicted": predicted.tolist(),
        "probability": probability.round(4).tolist(),
        "suspected": [row in suspected for row in chosen.tolist()],
    }
