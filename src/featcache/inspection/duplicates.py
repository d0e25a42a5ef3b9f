"""`featcache duplicates`: images that are the same or nearly so, across splits first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.csv_files import replacing_csv
from featcache.core.formatting import Lines, Table, pluralize, printable
from featcache.core.rows import label_text
from featcache.dataset import Manifest
from featcache.project import Project, TwinGroup, twin_groups

_SHOWN = 50  # images
_COLUMNS = ("group", "split", "id", "label", "similarity", "exact", "leaks")


def duplicates_record(project: Project, manifest: Manifest | None = None) -> dict[str, Any]:
    """Return what `FindDuplicates` found as JSON-able values.

    Returns:
        ``groups``, those first that have test and training images, then those whose labels differ. Of each its ``images``
        (``split``, ``row`` of the manifest, ``id``, ``label``, ``similarity`` to the nearest other, at most 1), and whether it
        is ``exact`` (all have the same bytes), ``across`` splits, its ``labels`` differ, and it ``leaks``: a test image has a
        twin among the training images. ``leaks``: how many test images do.

    Raises:
        CacheError: nothing was looked for with these settings, or the manifest is absent.
    """
    return described_groups(twin_groups(project), manifest or Manifest.load(project.folder))


def described_groups(found: Sequence[TwinGroup], manifest: Manifest) -> dict[str, Any]:
    """Return what `duplicates_record` does, of these groups."""
    groups: list[dict[str, Any]] = []
    for group in found:
        images, digests = [], set()
        for (split, row), alike in zip(group.places, group.alike, strict=True):
            rows = manifest.splits[split]
            label = label_text(rows.labels, row, manifest.class_names)
            images.append({"split": split, "row": row, "id": rows.ids[row], "label": label, "similarity": alike})
            digests.add(rows.digests[row])
        splits, labels = {each["split"] for each in images}, {each["label"] for each in images} - {""}
        facts = {"exact": len(digests) == 1, "across": len(splits) > 1, "labels": len(labels) > 1}
        groups.append({"images": images, **facts, "leaks": {"train", "test"} <= splits})
    groups.sort(key=lambda each: max(image["similarity"] for image in each["images"]), reverse=True)
    groups.sort(key=lambda each: (not each["leaks"], not each["labels"], not each["across"]))
    leaks = sum(each["split"] == "test" for group in groups if group["leaks"] for each in group["images"])
    return {"groups": groups, "leaks": leaks}


def duplicates_summary(record: Mapping[str, Any]) -> str:
    """Return a `duplicates_record` in one line; "" where there are none."""
    groups, leaks = record["groups"], record["leaks"]
    images = sum(len(each["images"]) for each in groups)
    line = f"{pluralize(images, 'image')} in {pluralize(len(groups), 'group')} of near duplicates"
    line += f", {sum(each['labels'] for each in groups):,} with different labels"
    return line + f"; {pluralize(leaks, 'test image')} with a twin in training" * bool(leaks) if groups else ""


def duplicates_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `duplicates_record` as a line and a table of the first images."""
    rows = [[str(cell) for cell in line[:-1]] for line in _rows(record)]
    more = [f"the first {_SHOWN} of {len(rows):,} images; --csv FILE has all"] if len(rows) > _SHOWN else []
    table = [Table(rows[:_SHOWN], _COLUMNS[:-1])] if rows else []
    return [duplicates_summary(record) or "no near duplicates", *table, *more]


def write_duplicates(path: Path, record: Mapping[str, Any]) -> str:
    """Write all of a `duplicates_record` as a CSV, an image a line; return the path for a message.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with replacing_csv(path) as lines:
        lines.row(_COLUMNS)
        lines.rows(_rows(record))
    return printable(str(path))


def _rows(record: Mapping[str, Any]) -> list[list[Any]]:
    return [
        [number, each["split"], each["id"], each["label"], f"{each['similarity']:.4f}", *_words(group)]
        for number, group in enumerate(record["groups"], 1)
        for each in group["images"]
    ]


def _words(group: Mapping[str, Any]) -> list[str]:
    return [str(group[name]).lower() for name in ("exact", "leaks")]
