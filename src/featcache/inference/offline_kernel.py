"""Predicts the images of a test folder and writes submission.csv, by the model that lies beside this script.

Made by `featcache bundle`. It needs no network and no featcache, only what Kaggle's image has: keras, numpy, pandas, Pillow.
Images are read, predicted and written in batches, so memory doesn't grow with their number.
"""

import argparse
import csv
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
INPUT = Path("/kaggle/input")
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
BATCH = 64
BORDER = (124, 116, 104)  # of padded images


def write_submission(test: str = "", sample: str = "", output: str = "submission.csv", batch: int = BATCH) -> int:
    """Predict the images in and below `test`, those that the ids of `sample` name, and write `output`; return its rows.

    Empty: what is called so in a folder of /kaggle/input. Without a sample there is a row for each image. An image that is
    absent or can't be read gets the classes' shares among the training rows, as in featcache's own submissions.
    """
    import keras

    facts = json.loads((HERE / "featcache.json").read_text(encoding="utf-8"))
    layout = facts["submission"]
    folder = Path(test or found(layout["test"]))
    sample = sample or (found(layout["sample"]) if layout["sample"] else "")
    images = image_files(folder)
    ids: Sequence[str] = read_ids(sample) if sample else images
    files = match_files(ids, images) if sample else images
    model = keras.models.load_model(HERE / "model.keras", safe_mode=True)
    unusable = 0
    with open(f"{output}.part", "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(layout["columns"])
        done = 0
        for table, missing in predictions(model, [folder / file if file else None for file in files], facts, batch):
            lines.writerows(rows_of(ids[done : done + len(table)], table, facts))
            done, unusable = done + len(table), unusable + missing
    Path(f"{output}.part").replace(output)
    print(f"{output}: {len(ids):,} rows, {unusable:,} of them without a usable image")
    return len(ids)


def found(name: str) -> str:
    """Return where a folder or file of the competition is."""
    places = [str(path) for below in ("*", "competitions/*") for path in sorted(INPUT.glob(f"{below}/{name}"))]
    if not places:
        raise SystemExit(
            f"{name} is in no folder of /kaggle/input: add the competition's data, or name --test and --sample"
        )
    return places[0]


def image_files(folder: Path) -> list[str]:
    """Return the image files below a folder, as paths below it, in natural order."""
    every = ((Path(parent, name), name) for parent, _, names in os.walk(folder) for name in names)
    paths = [path.relative_to(folder).as_posix() for path, name in every if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise SystemExit(f"{folder} has no images: name the folder of test images, --test FOLDER")
    return sorted(paths, key=lambda path: [int(part) if odd % 2 else part.casefold()
                                           for odd, part in enumerate(re.split(r"([0-9]+)", path))])  # fmt: skip


def read_ids(sample: str) -> list[str]:
    """Return the first column of a sample submission, a CSV, perhaps zipped."""
    import pandas as pd

    return pd.read_csv(sample, usecols=[0], dtype=str, keep_default_na=False).iloc[:, 0].tolist()


def match_files(ids: Sequence[str], images: Sequence[str]) -> list[str | None]:
    """Return the file of each id, by the first way by which most are found: path or name, with or without suffix."""

    def name(text: str) -> str:
        return text.rpartition("/")[2]

    def stem(text: str) -> str:
        return re.sub(r"\.[A-Za-z]+$", "", text)

    def below(text: str) -> str:
        return text.partition("test/")[2] or text

    ways: list[tuple[Callable[[str], str], Callable[[str], str]]] = [
        (str, str),
        (name, name),
        (name, lambda text: stem(name(text))),
        (lambda text: stem(name(text)), lambda text: stem(name(text))),
        (below, str),
        (below, stem),
        (lambda text: stem(below(text)), stem),
    ]
    best: list[str | None] = [None] * len(ids)
    for of_id, of_file in ways:
        by_name = {of_file(unicodedata.normalize("NFC", file)): file for file in images}
        if len(by_name) == len(images):  # else two files have this name
            files = [by_name.get(of_id(unicodedata.normalize("NFC", row_id))) for row_id in ids]
            best = min(best, files, key=lambda each: each.count(None))
    if best.count(None) == len(ids):
        raise SystemExit(f"no image is called like an id of the sample, {ids[0]!r}: name its folder, --test FOLDER")
    return best


def predictions(
    model: Any, files: Sequence[Path | None], facts: dict[str, Any], batch: int
) -> Iterator[tuple[npt.NDArray[np.float64], int]]:
    """Yield a batch's (b, C) probabilities, and how many of its images couldn't be used."""
    side = facts["input"]["shape"][1]
    batch = batch if side else 1  # images of different sizes make no batch
    batches = [files[start : start + batch] for start in range(0, len(files), batch)]

    def read(file: Path | None) -> npt.NDArray[np.uint8] | None:
        try:
            return None if file is None else read_image(file, side, facts["image_fit"])
        except Exception as error:  # whatever Pillow raises at damaged bytes: one image must not cost the submission
            print(f"{file} can't be read: {error}", file=sys.stderr)
            return None

    with ThreadPoolExecutor() as pool:
        coming = pool.map(read, batches[0]) if batches else iter(())
        for following in [*batches[1:], []]:
            images, coming = list(coming), pool.map(read, following)  # decoded while the model computes
            table = np.tile(np.array(facts["class_shares"], np.float64), (len(images), 1))
            usable = np.array([image is not None for image in images])
            if usable.any():
                computed = np.asarray(model.predict_on_batch(np.stack([each for each in images if each is not None])))
                sound = np.isfinite(computed).all(axis=1)
                usable[usable] = sound
                table[usable] = computed[sound]
            yield table, int((~usable).sum())


def rows_of(ids: Sequence[str], table: npt.NDArray[np.float64], facts: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the lines of some rows, as featcache writes them."""
    names, layout, decision = facts["class_names"], facts["submission"], facts["decision"]
    one_column = layout["classes"] is None
    if layout["top"]:
        for row_id, order in zip(ids, np.argsort(-table, axis=1, kind="stable")[:, : layout["top"]], strict=True):
            yield [row_id, " ".join(names[each] for each in order)]
    elif decision.get("thresholds") and (one_column or layout["decided"]):
        if decision.get("expected"):
            given = best_sets(table)
        else:
            given = given_labels(table, decision["thresholds"], filled=one_column or decision["filled"])
        for row_id, row in zip(ids, given if one_column else given[:, layout["classes"]], strict=True):
            yield (
                [row_id, " ".join(names[label] for label in np.flatnonzero(row))]
                if one_column
                else [row_id, *map(str, row)]
            )
    elif one_column:
        for row_id, best in zip(ids, decided(table, decision), strict=True):
            yield [row_id, names[best]]
    else:
        for row_id, values in zip(ids, table[:, layout["classes"]].tolist(), strict=True):
            yield [row_id, *(f"{value:.7g}" for value in values)]


def decided(table: npt.NDArray[np.float64], decision: dict[str, list[float]]) -> npt.NDArray[np.intp]:
    """Return (n,) the class of each row: by cut points of the expected class number, by shifted logarithms, or the best."""
    if decision.get("cuts"):
        expected = table / table.sum(axis=1, keepdims=True) @ np.arange(table.shape[1])
        return np.asarray(np.searchsorted(np.array(decision["cuts"]), expected))
    if decision.get("shift"):
        return np.asarray((np.log(np.maximum(table, 1e-300)) + np.array(decision["shift"])).argmax(axis=1))
    return np.asarray(table.argmax(axis=1))


def given_labels(table: npt.NDArray[np.float64], thresholds: Sequence[float], *, filled: bool) -> npt.NDArray[np.int8]:
    """Return (n, C) of 0 and 1, of several labels a row; if `filled`, a row without any has the most probable one."""
    given = (table > np.array(thresholds)).astype(np.int8)
    if filled:
        empty = np.flatnonzero(~given.any(axis=1))
        given[empty, table[empty].argmax(axis=1)] = 1
    return given


def best_sets(table: npt.NDArray[np.float64], most: int = 64) -> npt.NDArray[np.int8]:
    """Return (n, C) of 0 and 1: of each row so many of its most probable labels as have the highest expected F1."""
    given = np.zeros(table.shape, np.int8)
    for row, chances in zip(given, table, strict=True):
        order = np.argsort(-chances, kind="stable")[: 2 * most]
        first, rest = np.ones(1), [np.ones(1)]  # how probable 0, 1, ... of some labels are
        for chance in chances[order][:0:-1]:
            rest.append(np.convolve(rest[-1], [1 - chance, chance]))
        expected = []
        for count, chance in enumerate(chances[order][:most], 1):
            first, others = np.convolve(first, [1 - chance, chance]), rest[len(order) - count]
            hits = np.arange(count + 1)[:, None]
            expected.append(first @ (2 * hits / (count + hits + np.arange(len(others)))) @ others)
        row[order[: 1 + int(np.argmax(expected))]] = 1
    return given


def read_image(file: Path, side: int | None, fit: str) -> npt.NDArray[np.uint8]:
    """Return an image as (side, side, 3) uint8 RGB, or of its own size: turned upright, on white where it is transparent."""
    with Image.open(file) as image:
        if side and image.format == "JPEG":
            image.draft(None, (2 * side, 2 * side))  # None keeps the mode
        image.load()
        flat = flattened(ImageOps.exif_transpose(image))
    if side is None:
        return np.array(flat.convert("RGB"))
    if fit == "crop":
        least = min(flat.size)
        left, top = (flat.width - least) // 2, (flat.height - least) // 2
        flat = flat.crop((left, top, left + least, top + least))
    if fit != "pad":
        return resized(flat, side, side)
    longest = max(flat.size)
    width, height = (max(1, (2 * each * side + longest) // (2 * longest)) for each in flat.size)
    left, top = (side - width) // 2, (side - height) // 2
    padded = np.full((side, side, 3), BORDER, np.uint8)
    padded[top : top + height, left : left + width] = resized(flat, width, height)
    return padded


def flattened(image: Image.Image) -> Image.Image:
    """Return an image of any mode as grey or RGB without transparency."""
    if image.mode.startswith("I"):  # 16 bits
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def resized(image: Image.Image, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return it as (height, width, 3) RGB."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image.convert("RGB"))


def main() -> None:
    """Run on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", default="", metavar="FOLDER", help="the test images")
    parser.add_argument("--sample", default="", metavar="FILE", help="the sample submission, a CSV")
    parser.add_argument("--output", default="submission.csv", metavar="FILE", help="default: submission.csv")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"images at once; default: {BATCH}")
    given = parser.parse_args()
    write_submission(given.test, given.sample, given.output, given.batch)


if __name__ == "__main__":
    main()
