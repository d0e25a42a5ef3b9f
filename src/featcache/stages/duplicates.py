"""Images that are the same or nearly so, in all splits: `FindDuplicates`."""

import time

import numpy as np

from featcache.cache import open_cache
from featcache.core import keys
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.inspection import LEAST, joined_rows, seen_taps, usable_units
from featcache.project import Project


def find_duplicates(project: Project, progress: Progress) -> str:
    """Find groups of near duplicates by the plain features of the first backbone, and record them.

    Raises:
        CacheError: a cache is missing or damaged.
        StorageError: the disk is full, read-only or not permitted.
    """
    begun, artifact, backbone = time.perf_counter(), project.duplicates(), project.backbones[0]
    splits = list(project.splits())
    readers = [open_cache(backbone.cache(split, 0).path) for split in splits]
    rows, units = usable_units(readers, project.folder)
    progress.start("comparing", len(units), "images")
    try:
        first, alike = joined_rows(units, progress)
    finally:
        progress.finish()
    of_split = np.repeat(np.arange(len(splits)), [len(mine) for mine in rows])
    numbers, groups = np.concatenate(rows), dict[int, list[tuple[str, int, float]]]()
    for place in np.flatnonzero(alike > 0).tolist():
        member = splits[of_split[place]], int(numbers[place]), round(float(alike[place]), 4)
        groups.setdefault(int(first[place]), []).append(member)
    train = [[row for split, row, _ in each if split == "train"] for each in groups.values()]
    across = sum(len({split for split, *_ in each}) > 1 for each in groups.values())
    record = {
        "seconds": round(time.perf_counter() - begun, 3),
        "taps": [backbone.input_name(tap) for tap in seen_taps(readers[0])],
        "least": LEAST,
        "groups": list(groups.values()),
        "groups_key": keys.digest([each for each in train if len(each) > 1]),
    }
    write_json(artifact.path, {**artifact.record_header(project.run), **record})
    count = sum(map(len, groups.values()))
    return (
        f"{pluralize(count, 'image')} in {pluralize(len(groups), 'group')} of near duplicates, {across:,} across splits"
    )
