"""The parts of the report that show images: rows to check, duplicates, what is unlike all others, and the map of the features."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.cache import Status
from featcache.core.rows import Rows, is_several, label_text
from featcache.core.texts import NOT_FOUND
from featcache.dataset import Loader
from featcache.inspection import duplicates_record
from featcache.project import image_loader, unlike_record
from featcache.report.feature_map import Points, Projected, feature_map, mapped_rows, projected
from featcache.report.gallery import ERRORS, UNSURE, WRONG, Cards, gallery
from featcache.report.label_sets import leading_labels
from featcache.report.predictions import Run
from featcache.report.suspects import corrections
from featcache.report.thumbnails import RowRef, packed, thumbnails
from featcache.settings import IGNORE

NEIGHBOURS = 5
_GROUPED = ("duplicates", "near", "unlike")
_GROUPS, _PAIRS, _OF_EACH, _UNLIKE = 24, 12, 6, 12
_EXPLAINED = 12  # of each kind; each takes a forward pass
_LARGE, _SMALL, _DOT = 224, 56, 40  # pixels; the large ones open larger than the cards show them
_LARGE_BYTES, _SMALL_BYTES, _DOT_BYTES, _EVIDENCE_BYTES = 1_900_000, 600_000, 1_100_000, 300_000


class Explained(NamedTuple):
    """Where images speak for classes, by the linear members of the ensemble.

    Attributes:
        images: place -> (size, size, 3) uint8, the image with what speaks for the class and against it drawn over it.
        labels: place -> that class.
        members: the linear members.
        weight: their share of the ensemble's weight.
    """

    images: Mapping[RowRef, npt.NDArray[np.uint8]]
    labels: Mapping[RowRef, int]
    members: Sequence[str]
    weight: float


Explain = Callable[[Mapping[RowRef, int | None], Mapping[str, Rows], Loader], Explained | None]
"""Explains each place's class, the most probable one for None; returns None where nothing can be explained.

It is handed the manifest's splits and what loads their images, from several threads.
"""


def pictures(run: Run, explain: Explain | None = None) -> dict[str, Any]:
    """Return the rows to check, duplicates, images unlike the others and map, with their images; the first ones explained.

    Raises:
        CacheError: a cache is missing or damaged.
        SourceChangedError: an image is no longer what the manifest says.
    """
    kinds, totals = gallery(run.predictions, run.rows, run.names, {line.id for line in corrections(run.project)})
    found = {**_groups(run), "totals": totals}
    checked = list(dict.fromkeys(card["place"] for each in kinds.values() for card in each))
    doubled = [place for kind in _GROUPED for group in found[kind]["groups"] for place in group["places"]]
    splits, load = run.manifest.splits, image_loader(run.project)
    load_once = cache(load)  # cards mostly show images in the size in which they are explained
    # beside this thread, which imports, computes and explains, two decode, and lay out the map
    with ThreadPoolExecutor(2, thread_name_prefix="featcache-report") as aside:
        large = aside.submit(thumbnails, splits, load_once, checked + doubled, _LARGE, _LARGE_BYTES)
        space, neighbours = projected(run.readers["train"], run.tap), _neighbours(run, checked)
        places = mapped_rows(space, [row for split, row in checked if split == "train"])
        layouts = feature_map(space, places, aside)
        near = [("train", row) for nearest in neighbours.values() for row, _ in nearest]
        small = aside.submit(thumbnails, splits, load, near, _SMALL, _SMALL_BYTES)
        drawn = [("train", row) for row in space.rows[places].tolist()]
        dots = aside.submit(thumbnails, splits, load, drawn, _DOT, _DOT_BYTES)
        found["evidence"] = _evidence(run, kinds, explain, load_once)
    _give_images(run, kinds, found, neighbours, large.result(), small.result())
    suspected = {card["place"] for card in kinds[ERRORS]}
    points = _map(run, space, places, layouts.result())
    points |= {"images": [*map(dots.result().get, drawn)], "suspected": [place in suspected for place in drawn]}
    return {"tap": run.backbone.input_name(run.tap), "cards": kinds, "map": points, **found}


def _groups(run: Run) -> dict[str, Any]:
    return {"duplicates": _duplicates(run), "near": _near(run), "unlike": _unlike(run)}


def _give_images(
    run: Run,
    kinds: Cards,
    found: Mapping[str, Any],
    neighbours: Mapping[RowRef, list[tuple[int, float]]],
    large: Mapping[RowRef, str],
    small: Mapping[RowRef, str],
) -> None:
    """Give cards, their neighbours and groups their images."""
    for card in (card for each in kinds.values() for card in each):
        nearest = neighbours.get(card["place"], ())
        described = [{**_described(run, ("train", row), small), "distance": distance} for row, distance in nearest]
        card |= {"neighbours": described, "image": large.get(card["place"]), "evidence": card.get("evidence")}
    for group in (group for kind in _GROUPED for group in found[kind]["groups"]):
        group["images"] = [_described(run, place, large) for place in group.pop("places")]


def _evidence(run: Run, kinds: Cards, explain: Explain | None, load: Loader) -> dict[str, Any] | None:
    """Give the first misclassified and uncertain cards pictures of their evidence; return whose it is."""
    chosen = [card for kind in (WRONG, UNSURE) for card in kinds[kind][:_EXPLAINED]]
    numbers: dict[str, int | None] = {name: number for number, name in enumerate(run.names)}
    wanted = {card["place"]: numbers.get(card["predicted"]) for card in chosen}  # None: it is a set of labels
    found = explain(wanted, run.manifest.splits, load) if explain and wanted else None
    if found is None:
        return None
    images = packed(found.images, _LARGE, _EVIDENCE_BYTES)
    for card in chosen:
        if (place := card["place"]) in images:
            card["evidence"] = {"image": images[place], "label": run.names[found.labels[place]]}
    return {"members": list(found.members), "weight": found.weight}


def _neighbours(run: Run, places: Sequence[RowRef]) -> dict[RowRef, list[tuple[int, float]]]:
    """Place -> (row, cosine distance) of the nearest other training rows, nearest first."""
    from featcache.inspection import nearest_rows

    train = run.readers["train"]
    if not places or len(train) < 2:
        return {}
    queries = np.stack([np.asarray(run.readers[split][run.tap][row], np.float32) for split, row in places])
    own = np.array([row if split == "train" else -1 for split, row in places])
    found, distances = nearest_rows(train, run.tap, queries, NEIGHBOURS, own=own)
    lines = zip(places, found.tolist(), distances.tolist(), strict=True)
    return {place: list(zip(rows, far, strict=True)) for place, rows, far in lines}


def _described(run: Run, place: RowRef, images: Mapping[RowRef, str]) -> dict[str, Any]:
    split, row = place
    rows = run.manifest.splits[split]
    known = label_text(rows.labels, row, run.names) or None
    return {"split": split, "id": rows.ids[row], "label": known, "image": images.get(place)}


def _duplicates(run: Run) -> dict[str, Any]:
    """Groups of the same bytes, of all splits, among the usable rows."""
    readers = run.readers
    digests = {
        split: np.where(reader.status == Status.OK, reader.digest_column, b"") for split, reader in readers.items()
    }
    found = exact_duplicates(digests, {split: reader.labels for split, reader in readers.items()})
    return {
        "total": len(found),
        "rows": sum(len(each["places"]) for each in found),
        "across": sum(each["across"] for each in found),
        "labels": sum(each["labels"] for each in found),
        "groups": [
            {**each, "places": each["places"][:_OF_EACH], "rows": len(each["places"])} for each in found[:_GROUPS]
        ],
    }


def _unlike(run: Run) -> dict[str, Any]:
    """The images that are unlike anything seen, of each split but ``train`` the farthest; none where near duplicates are ignored."""
    ignored = run.project.settings.dataset.near_duplicates == IGNORE
    record = {} if ignored else unlike_record(run.project)
    groups = []
    for split, of in record.get("of", {}).items():
        places = [(split, row) for each, row, _ in record["rows"] if each == split]
        groups.append({"split": split, "places": places[:_UNLIKE], "rows": len(places), "of": of})
    return {"ignored": ignored, "groups": groups}


def exact_duplicates(
    digests: Mapping[str, npt.NDArray[np.bytes_]], labels: Mapping[str, npt.NDArray[np.integer]]
) -> list[dict[str, Any]]:
    """Return groups of rows with the same digest: labels that differ first, then those across splits, then the others.

    Empty digests are unknown and equal none; a label of -1 is unknown.

    Returns:
        Of each group its ``places``, at least two of (split, row); ``across``: whether they are in more than one split,
        so that a scored image was trained on; ``labels``: whether their known labels differ: at least one is wrong.
    """
    splits = np.repeat(list(digests), [len(column) for column in digests.values()])
    rows = np.concatenate([np.arange(len(column)) for column in digests.values()])
    column = np.concatenate(list(digests.values()))
    _, group, counts = np.unique(column, return_inverse=True, return_counts=True)
    twice = np.flatnonzero((counts[group] > 1) & (column != b""))
    members: dict[int, list[tuple[str, int]]] = {}
    for same, split, row in zip(group[twice].tolist(), splits[twice].tolist(), rows[twice].tolist(), strict=True):
        members.setdefault(same, []).append((split, row))
    found = []
    for places in members.values():
        across = len({split for split, _ in places}) > 1
        known = {labels[split][row].tobytes() for split, row in places if (labels[split][row] >= 0).all()}
        found.append({"places": places, "across": across, "labels": len(known) > 1})
    return sorted(found, key=lambda each: (not each["labels"], not each["across"]))


def _near(run: Run) -> dict[str, Any]:
    """The groups of near duplicates that aren't all of the same bytes; none where they are ignored."""
    if run.project.settings.dataset.near_duplicates == IGNORE:
        return {"ignored": True, "total": 0, "leaks": 0, "groups": []}
    record = duplicates_record(run.project, run.manifest)
    near = [group for group in record["groups"] if not group["exact"]]
    shown = [
        {
            "places": [(each["split"], each["row"]) for each in group["images"][:_OF_EACH]],
            "alike": min(each["similarity"] for each in group["images"]),
            "rows": len(group["images"]),
            **{name: group[name] for name in ("labels", "across", "leaks")},
        }
        for group in near[:_PAIRS]
    ]
    return {"ignored": False, "total": len(near), "leaks": record["leaks"], "groups": shown}


def _map(run: Run, space: Projected, places: npt.NDArray[np.int64], layouts: tuple[Points, Points]) -> dict[str, Any]:
    """The map's points, column by column, of some places of `space`."""
    predictions, train = run.predictions["train"], run.manifest.splits["train"]
    chosen = space.rows[places]
    scored = np.full(len(train), NOT_FOUND)
    scored[run.rows["train"]] = np.arange(len(predictions.ids))
    scored, labels = scored[chosen], train.labels[chosen]
    if is_several(labels):  # of a set there are too many for colours
        labels, predicted, probability = leading_labels(labels), np.full(len(chosen), -1), np.zeros(len(chosen))
    else:
        predicted = np.where(scored == NOT_FOUND, -1, predictions.predicted[scored])
        probability = np.where(scored == NOT_FOUND, 0.0, predictions.probabilities[scored, labels])
    neighbours, components = layouts
    return {
        "of": len(space.rows),
        "shares": space.shares[:2].tolist(),
        "x": neighbours.round(4).T.tolist(),
        "pca": components.round(4).T.tolist(),
        "ids": [train.ids[row] for row in chosen.tolist()],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "probability": probability.round(4).tolist(),
    }
