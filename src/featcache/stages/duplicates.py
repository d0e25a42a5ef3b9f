"""Images that are the same or nearly so, in all splits, and those unlike anything seen: `FindDuplicates`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import Reader, open_cache
from featcache.core import keys
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.dataset import Manifest
from featcache.inspection import (
    LEAST,
    LEAST_DRAWN,
    described_groups,
    duplicates_summary,
    joined_rows,
    seen_taps,
    usable_units,
)
from featcache.project import FAR, Project, SeenImages, farther_than, groups_of
from featcache.settings import PHOTO_SOURCES


def find_duplicates(project: Project, progress: Progress) -> str:
    """Find groups of near duplicates by the plain features of the first backbone, and what is unlike the training images.

    Raises:
        CacheError: a cache is missing or damaged.
        StorageError: the disk is full, read-only or not permitted.
    """
    begun, artifact, backbone = time.perf_counter(), project.duplicates(), project.backbones[0]
    splits = list(project.splits())
    least = LEAST if project.settings.dataset.source in PHOTO_SOURCES else LEAST_DRAWN
    readers = [open_cache(backbone.cache(split, 0).path) for split in splits]
    rows, units = usable_units(readers, project.folder)
    progress.start("comparing", len(units), "images")
    try:
        first, alike = joined_rows(units, progress, least)
    finally:
        progress.finish()
    of_split = np.repeat(np.arange(len(splits)), [len(mine) for mine in rows])
    numbers, groups = np.concatenate(rows), dict[int, list[tuple[str, int, float]]]()
    for place in np.flatnonzero(alike > 0).tolist():
        member = splits[of_split[place]], int(numbers[place]), round(float(alike[place]), 4)
        groups.setdefault(int(first[place]), []).append(member)
    train = [[row for split, row, _ in each if split == "train"] for each in groups.values()]
    across = sum(len({split for split, *_ in each}) > 1 for each in groups.values())
    record: dict[str, Any] = {
        "taps": [backbone.input_name(tap) for tap in seen_taps(readers[0])],
        "least": least,
        "groups": list(groups.values()),
        "groups_key": keys.digest([each for each in train if len(each) > 1]),
    }
    record["summary"] = duplicates_summary(described_groups(groups_of(record["groups"]), Manifest.load(project.folder)))
    record["unlike"] = _unlike(dict(zip(splits, readers, strict=True)), project.folder)
    record["seconds"] = round(time.perf_counter() - begun, 3)
    write_json(artifact.path, {**artifact.record_header(project.run), **record})
    count = sum(map(len, groups.values()))
    return (
        f"{pluralize(count, 'image')} in {pluralize(len(groups), 'group')} of near duplicates, {across:,} across splits"
    )


def _unlike(readers: Mapping[str, Reader], folder: Path) -> dict[str, Any]:
    """What `unlike_record` returns; as in folds, training images are not compared with duplicates and their own group."""
    train, numbers = readers["train"], dict[str | int, int]()
    seen = SeenImages.of(train, folder)
    groups = [numbers.setdefault(name or row, len(numbers)) for row, name in enumerate(train.groups)]
    images = np.unique(train.digest_column, return_inverse=True)[1]
    quantiles = seen.quantiles([images[seen.rows], np.array(groups, np.int64)[seen.rows]])
    found, of = list[tuple[str, int, float]](), dict[str, int]()
    for split, reader in readers.items():
        if split == "train" or not quantiles:
            continue
        rows, distances = seen.row_distances(reader)
        shares, of[split] = farther_than(distances, quantiles), len(rows)
        far = np.flatnonzero(shares > FAR)
        far = far[np.argsort(-distances[far], kind="stable")]
        found += [(split, int(rows[place]), round(float(shares[place]), 4)) for place in far]
    return {"tap": seen.tap, "quantiles": quantiles, "rows": found, "of": of}
