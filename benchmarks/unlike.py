"""Images unlike anything seen: how many of a set's own test images, and of other sets' images, are named so.

    FEATCACHE_SHARED=PATH python benchmarks/unlike.py [--folder FOLDER]

By the default settings, on the sets of photos; brain-mri has no test images. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featcache import stages
from featcache.cache import Reader, open_cache
from featcache.core.progress import Silent
from featcache.inspection import usable_units
from featcache.project.project import Project
from featcache.project.unlike import SeenImages, farther_than
from featcache.settings.parsing import parse_settings

SHARED = Path(os.environ["FEATCACHE_SHARED"])
SETS = ("flowers5", "hymenoptera", "brain-mri")
SHARES = (0.99, 0.995, 0.999)


def readers(name: str, folder: Path) -> dict[str, Reader]:
    """Plain features of each split."""
    made = Project(
        parse_settings(
            {
                "Dataset": {"name": name, "source": "folder", "path": str(SHARED / "data" / name)},
                "Features": {"weights": str(SHARED / "weights/vgg16_imagenet_notop.h5")},
                "Paths": {"artifacts": str(folder)},
            }
        )
    )
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    for split in made.splits():
        stages.extract_split(made, split, Silent())
    return {split: open_cache(made.backbones[0].cache(split, 0).path) for split in made.splits()}


def plain(train: Reader, folder: Path) -> tuple[SeenImages, Callable[[Reader], np.ndarray]]:
    seen = SeenImages.of(train, folder)
    return seen, lambda reader: seen.row_distances(reader)[1]


def centred(train: Reader, folder: Path) -> tuple[SeenImages, Callable[[Reader], np.ndarray]]:
    """By the vectors of near duplicates, for comparison."""
    rows, units = usable_units([train], folder)
    seen = SeenImages("", rows[0], units)
    return seen, lambda reader: seen.distances(usable_units([train, reader], folder)[1][len(units) :])


def table(found: dict[str, dict[str, Reader]], folder: Path) -> None:
    for name, own in found.items():
        others = {"own test": own["test"]} if "test" in own else {}
        others |= {other: each.get("test", each["train"]) for other, each in found.items() if other != name}
        for kind in (plain, centred):
            seen, distances = kind(own["train"], folder)
            quantiles = seen.quantiles([np.unique(own["train"].digest_column, return_inverse=True)[1][seen.rows]])
            shares = {other: farther_than(distances(reader), quantiles) for other, reader in others.items()}
            for share in SHARES:
                shown = ", ".join(f"{other} {(each > share).sum()} of {len(each)}" for other, each in shares.items())
                print(f"| {name} | {kind.__name__} | {share} | {shown} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        print("| trained on | features | farther than | named unlike |\n| --- | --- | --- | --- |")
        table({name: readers(name, folder) for name in SETS}, folder)
