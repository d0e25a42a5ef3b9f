"""Near duplicates that were made: which of them are found, and how many other pairs are.

    FEATCACHE_SHARED=PATH python benchmarks/duplicates.py [--folder FOLDER] [--images 80]

Of some images of flowers5 and of hymenoptera each, five variants: half the size, JPEG of quality 40, 5 % cut off at each side,
mirrored, a fifth brighter. Each variant should be found with its image, and nothing else with anything. Prints Markdown for
benchmarks/RESULTS.md.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from featcache import stages
from featcache.cache import open_cache
from featcache.core.progress import Silent
from featcache.inspection.twins import LEAST, usable_units
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings

SHARED = Path(os.environ["FEATCACHE_SHARED"])
SETS = ("flowers5", "hymenoptera")


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


VARIANTS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "original": (lambda image: image, 95),
    "resized": (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 90),
    "recompressed": (lambda image: image, 40),
    "cropped": (cropped, 90),
    "mirrored": (ImageOps.mirror, 90),
    "brightened": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 90),
}


def make(folder: Path, name: str, count: int) -> None:
    """Write images and variants as a folder a kind."""
    files = sorted(path for path in (SHARED / "data" / name / "train").rglob("*") if path.suffix.lower() == ".jpg")
    chosen = np.random.default_rng(0).choice(len(files), count, replace=False)
    for number, file in enumerate(np.array(files)[chosen]):
        image = Image.open(file).convert("RGB")
        for kind, (change, quality) in VARIANTS.items():
            path = folder / "train" / kind / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            change(image).save(path, quality=quality)


def features(folder: Path, name: str, count: int) -> tuple[np.ndarray, list[str]]:
    """Unit vectors and ids of all images, by the default settings."""
    if not (folder / name / "train").exists():
        make(folder / name, name, count)
    made = Project(
        parse_settings(
            {
                "Dataset": {"name": f"made-{name}", "source": "folder", "path": str(folder / name)},
                "Features": {"weights": str(SHARED / "weights/vgg16_imagenet_notop.h5")},
                "Paths": {"artifacts": str(folder / "artifacts")},
            }
        )
    )
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    stages.extract_split(made, "train", Silent())
    reader = open_cache(made.backbones[0].cache("train", 0).path)
    return usable_units([reader], None)[1].astype(np.float32), list(reader.ids)


def table(name: str, vectors: np.ndarray, ids: list[str]) -> None:
    """Print recall by kind and the precision of all pairs, at several thresholds."""
    kinds, images = (np.array(part) for part in zip(*(each.split("/") for each in ids), strict=True))
    alike = vectors @ vectors.T
    original = {image: row for row, image in enumerate(images) if kinds[row] == "original"}
    rows = np.array([original[image] for image in images])
    first = np.triu(np.ones(alike.shape, bool), 1)
    same = images[:, None] == images
    for least in sorted({0.75, 0.8, 0.85, 0.9, 0.95, LEAST}):
        found = alike >= least
        recall = [float(found[kinds == kind, rows[kinds == kind]].mean()) for kind in list(VARIANTS)[1:]]
        right, wrong = int((found & first & same).sum()), int((found & first & ~same).sum())
        shown = " | ".join(f"{share:.3f}" for share in recall)
        print(f"| {name} | {least} | {shown} | {right / max(1, right + wrong):.4f} | {wrong} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, default=80)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(f"| set | similarity at least | {' | '.join(list(VARIANTS)[1:])} | precision of pairs | wrong pairs |")
        print(f"|{' --- |' * (len(VARIANTS) + 3)}")
        for each in SETS:
            table(each, *features(arguments.folder or Path(temporary), each, arguments.images))
