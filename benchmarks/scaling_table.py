"""What 1, 10 and 100 million images take on 1 to 256 workers, computed from measured costs.

    python benchmarks/scaling_table.py [--plot docs/images/scaling.svg]

Prints the tables of docs/scaling.md; with ``--plot`` it also draws its picture (matplotlib, from the extra ``bench``). A worker here is
what was measured: two cores of a Zen 4 EPYC with AVX512_BF16. Put your own machine's figures into COSTS, where each says
what measured it.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

from featcache.cache.layout import BLOCK_BYTES, BLOCK_ROWS


class Images(NamedTuple):
    """A kind of images and how they are cached."""

    name: str
    rate: float  # images/s of a worker, decoding to fsynced file: benchmarks/extract.py
    read: float  # bytes of one image file: the data set's mean
    written: float  # bytes of its features


KINDS = (
    Images("small pictures at 48 px", 245.1, 42_000, 5_120),  # flowers5 48; VGG16's six pooled taps are 2,560 float16
    Images("photos at 224 px", 13.4, 124_000, 5_120),  # hymenoptera 224
)
JOB_SECONDS = 0.006  # of the conductor and Dask's scheduler, a job: benchmarks/scaling.py
START_SECONDS = 15.0  # worker processes, TensorFlow's import, compiling: benchmarks/scaling.py
ROW_SECONDS = 3.1e-6  # of each process that reads the manifest, a row: Manifest.load of 200,000 rows
BANDWIDTH = 1e9  # bytes/s of the shared file system, reading and writing together: ASSUMED, ask yours
SIZES, WORKERS = (1_000_000, 10_000_000, 100_000_000), (1, 4, 16, 64, 256)


class Run(NamedTuple):
    """What a run would take."""

    hours: float
    efficiency: float  # of the time that the images alone would take on these workers
    limit: str


def rows_of_block(images: Images) -> int:
    """Rows of a journal block, which is what a worker is given at once; whole batches are neglected."""
    return min(math.ceil(BLOCK_BYTES / images.written), BLOCK_ROWS)


def run(images: Images, count: int, workers: int) -> Run:
    """Compute one run."""
    block = rows_of_block(images)
    blocks = math.ceil(count / block)
    alone = count / images.rate / workers
    waves = math.ceil(blocks / workers) * block / images.rate  # the last blocks are done while other workers rest
    parts = {
        "computing": max(waves, alone),
        "file system": count * (images.read + images.written) / BANDWIDTH,
        "scheduler": blocks * JOB_SECONDS,
    }
    limit = max(parts, key=lambda name: parts[name])
    once = START_SECONDS + count * ROW_SECONDS
    seconds = parts[limit] + once
    if limit == "computing" and seconds - alone > 0.1 * seconds:
        limit = "start and manifest" if once > parts["computing"] - alone else "too few blocks"
    return Run(seconds / 3600, alone / seconds, limit)


def time_text(hours: float) -> str:
    """A time to be read, e.g. ``2.5 h``."""
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} d"


def table(images: Images) -> list[str]:
    """The Markdown table of one kind."""
    lines = [f"| {images.name} | " + " | ".join(f"{count // 10**6:,} million" for count in SIZES) + " |"]
    lines.append("| --- " * (len(SIZES) + 1) + "|")
    listing = [time_text(count * images.read / BANDWIDTH / 3600) for count in SIZES]
    lines.append("| before it, listing on one machine | " + " | ".join(listing) + " |")
    for workers in WORKERS:
        cells = [run(images, count, workers) for count in SIZES]
        told = [f"{time_text(cell.hours)}, {cell.efficiency:.0%}, {cell.limit}" for cell in cells]
        lines.append(f"| {workers} worker{'s' * (workers > 1)} | " + " | ".join(told) + " |")
    return lines


def plot(path: Path) -> None:
    """Draw hours over workers, for every kind and size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "featcache"  # the same picture at every drawing
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(KINDS), figsize=(9, 3.6), sharey=True)
    many = [2**power for power in range(9)]
    for axis, images in zip(axes, KINDS, strict=True):
        for count in SIZES:
            axis.loglog(
                many, [run(images, count, workers).hours for workers in many], label=f"{count // 10**6} million"
            )
            axis.loglog(many, [count / images.rate / workers / 3600 for workers in many], ":", color="grey")
        axis.set(title=images.name, xlabel="workers of two cores", xticks=many, xticklabels=many)
        axis.minorticks_off()
    axes[0].set_ylabel("hours (dotted: no overhead)")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw the picture, an SVG")
    arguments = parser.parse_args()
    for images in KINDS:
        print("\n".join(table(images)) + "\n")
    if arguments.plot is not None:
        plot(arguments.plot)


if __name__ == "__main__":
    main()
