"""Reading tables and Parquet files: a table of a million ids listed, and images of a Parquet source against the same in folders.

    python benchmarks/sources.py table [--rows 1000000] [--folder FOLDER]
    python benchmarks/sources.py parquet [--rows 100000] [--folder FOLDER]

`table` links some thousand small images a million times, in two nested folders, writes a table of their ids, and lists it
without reading the images, which cost the same as in folders: the walk, the table, the join and the manifest's file.
`parquet` makes photo-like JPEG files of 256 x 192, as files in folders and as 100 Parquet files, and times listing and loading.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from featcache.core.progress import Silent
from featcache.dataset import Manifest
from featcache.dataset.listing import Unread, list_files, list_images
from featcache.dataset.sources.source import Source, open_source
from featcache.settings import DatasetSpec

DISTINCT, CLASSES, FILES, SIZE = 2000, 10, 100, 224
Result = TypeVar("Result")


def timed(what: str, work: Callable[[], Result]) -> tuple[float, Result]:
    """Do it, and print how long it took, and how long the processor."""
    begun, computed = time.perf_counter(), time.process_time()
    result = work()
    seconds, computed = time.perf_counter() - begun, time.process_time() - computed
    print(f"{what:<36} {seconds:8.2f} s, {computed:8.2f} s of the processor", flush=True)
    return seconds, result


def table(folder: Path, rows: int) -> None:
    """List a table of so many rows."""
    (folder / "pool").mkdir(parents=True)
    for number in range(DISTINCT):
        Image.new("L", (8, 8), number % 256).save(folder / f"pool/{number}.png")
    for nest in range(256):
        (folder / f"photos/{nest:02x}").mkdir(parents=True)
    for row in range(rows):
        os.link(folder / f"pool/{row % DISTINCT}.png", folder / f"photos/{row % 256:02x}/image_{row:08d}.png")
    lines = (f"image_{row:08d},class{row % CLASSES},p{row // 20}\n" for row in range(rows))
    (folder / "photos/train.csv").write_text("id,label,patient\n" + "".join(lines))
    spec = DatasetSpec("x", "table", folder / "photos", table="train.csv", label=("label",), groups="patient")
    by_class = {name: folder / f"classes/train/{name}" for name in ("a", "b")}
    for path in by_class.values():
        path.mkdir(parents=True)
    for row in range(rows):
        os.link(folder / f"pool/{row % DISTINCT}.png", by_class["ab"[row % 2]] / f"image_{row:08d}.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, each in (("table", spec), ("class folders", DatasetSpec("x", "folder", folder / "classes"))):
        files = timed(f"{name}: a stat of every file", partial(list_files, each))[1]
        assert files is not None
        manifest = timed(f"{name}: rows", partial(open_source(each).list_rows, files, Unread(), Silent()))[1]
        timed(f"{name}: manifest.arrow", partial(manifest.save, folder))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{name}: at most {(after - before) * 1024 / rows:.0f} bytes a row more, {after / 1024:.0f} MB in all")


def photo(seed: int) -> bytes:
    """A JPEG of 256 x 192 of some 20 kB."""
    noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).resize((256, 192), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def parquet(folder: Path, rows: int) -> None:
    """List and load so many images, from folders and from Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos, each = [photo(seed) for seed in range(DISTINCT)], rows // FILES
    for number in range(CLASSES):
        (folder / f"folders/train/{number}").mkdir(parents=True)
    (folder / "parquet").mkdir()
    for file in range(FILES):
        mine = range(file * each, (file + 1) * each)
        content = [photos[row % DISTINCT] + row.to_bytes(4, "big") for row in mine]  # all bytes differ
        for row, image in zip(mine, content, strict=True):
            (folder / f"folders/train/{row % CLASSES}/{row:07d}.jpg").write_bytes(image)
        columns = {
            "image": [{"bytes": image, "path": None} for image in content],
            "label": [row % CLASSES for row in mine],
        }
        pq.write_table(pa.table(columns), folder / f"parquet/train-{file:05d}.parquet", row_group_size=100)
    specs = {
        "folders": DatasetSpec("x", "folder", folder / "folders"),
        "parquet": DatasetSpec("x", "parquet", folder / "parquet", label=("label",)),
    }
    for name, spec in specs.items():
        manifest = timed(f"{name}: listing", partial(list_images, spec, folder / f"out-{name}"))[1]
        seconds, _ = timed(f"{name}: load, {SIZE} pixels", partial(load_all, open_source(spec), manifest))
        print(f"{name}: {rows / seconds:,.0f} images/s")


def load_all(source: Source, manifest: Manifest) -> None:
    """Load all images as extraction does: in the manifest's order, by several threads."""
    rows = manifest.splits["train"]

    def load(block: int) -> None:
        part = slice(block, min(block + 64, len(rows)))
        for location, digest in zip(rows.locations[part], rows.digests[part], strict=True):
            source.load(location, digest, SIZE)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(load, range(0, len(rows), 64)):
            pass


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("table", "parquet"))
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure, usual = {"table": (table, 1_000_000), "parquet": (parquet, 100_000)}[arguments.what]
        measure(Path(folder), arguments.rows or usual)


if __name__ == "__main__":
    main()
