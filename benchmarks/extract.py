"""Extraction, files on disk to published cache, as ratios to bare forward passes and to the naive way, in one run.

    FEATCACHE_SHARED=PATH python benchmarks/extract.py [CASE ...]

PATH holds ``data/{hymenoptera,flowers5,mnist}`` and ``weights/vgg16_imagenet_notop.h5``. With OpenVINO installed (the extra
``bench``) its bare forward pass is measured too, with one stream and with two, whichever is faster. Each figure is the median
of ROUNDS, taken in turn (A B C A B C), so that a drift of the machine hits all alike. The backbone is as it is once it has
found its fastest program, with the number of convolutions that work on images side by side; `plain` is the one it begins with.
Precision is what this processor would choose. Prints Markdown for benchmarks/RESULTS.md.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featcache.core.progress import Silent
from featcache.core.rows import Rows
from featcache.dataset.listing import list_images
from featcache.dataset.sources.source import open_source
from featcache.features.backbone import load_backbone
from featcache.features.extract import extract_copies
from featcache.features.extraction_job import Extraction, row_settings
from featcache.features.precision import choose_precision
from featcache.features.weights import resolve_weights
from featcache.settings.architectures import backbone_settings
from featcache.settings.specs import DatasetSpec, FeaturesSpec

SHARED = Path(os.environ["FEATCACHE_SHARED"])
WEIGHTS = SHARED / "weights" / "vgg16_imagenet_notop.h5"
ROUNDS = 3
STREAMS = 2  # passes at once, as extraction has them
PRECISION = choose_precision("auto").name
OPENVINO = {"float32": "f32", "bfloat16": "bf16"}
SCRATCH = Path(__file__).parent.parent / "artifacts"  # what a killed run leaves there is ignored by git
NAIVE = 1024  # as many rows as PNG files; one image costs what the other does


class Case:
    """One data set at one image size."""

    def __init__(self, name: str, source: str, size: int, limit: int) -> None:
        """List the rows and load the backbone."""
        self.name, self.size = name, size
        path = SHARED / "data" / name
        self.dataset = DatasetSpec(name=name, source=source, path=path)
        self.spec = FeaturesSpec(weights=str(WEIGHTS), image_size=size, precision=PRECISION)
        with tempfile.TemporaryDirectory() as folder:
            self.manifest = list_images(self.dataset, Path(folder))
        self.split = "train"
        rows = self.manifest.splits["train"]
        keep = range(min(limit, len(rows)))
        columns = (rows.ids, rows.groups, rows.digests, rows.reasons, rows.locations)
        ids, groups, digests, reasons, locations = ([column[i] for i in keep] for column in columns)
        self.rows = Rows(ids, rows.labels[: len(keep)], groups, digests, reasons, locations)
        self.weights = resolve_weights(self.spec, Silent())
        self.backbone = load_backbone(self.spec, self.weights, PRECISION)
        self.plain_program = self.backbone._program
        self.backbone.settle()
        self.load = open_source(self.dataset).load
        self.images = np.stack(
            [self.load(rows.locations[i], rows.digests[i], size) for i in range(self.backbone.batch_size)]
        )

    def pipeline(self) -> float:
        """Seconds of a whole extraction, decoding to fsynced and published file."""
        settings = row_settings(self.spec, backbone_settings(self.spec), self.weights.digest, PRECISION, 0)
        job = Extraction(self.name, self.split, 0, self.rows, self.manifest.class_names, self.spec, settings)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            begun = time.perf_counter()
            extract_copies({Path(folder) / "a.h5": job}, self.load, lambda: self.backbone, Silent())
            return time.perf_counter() - begun

    def bare(self) -> float:
        """Seconds of the backbone's forward passes alone, on images in memory, two at once as in an extraction."""
        return self._passes(self.backbone.forward)

    def plain(self) -> float:
        """Seconds of the same passes by the program that the backbone begins with."""
        return self._passes(self.plain_program.run)

    def _passes(self, run: Callable[[Any], Any]) -> float:
        begun = time.perf_counter()
        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(run, [self.images] * -(-len(self.rows) // self.backbone.batch_size)))
        return time.perf_counter() - begun

    def decode(self) -> float:
        """Seconds of decoding alone, on all cores."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pairs = zip(self.rows.locations, self.rows.digests, strict=True)
            list(pool.map(lambda pair: self.load(pair[0], pair[1], self.size), pairs, chunksize=16))
        return time.perf_counter() - begun

    def openvino(self) -> Callable[[], float] | None:
        """The same forward passes by OpenVINO, or None where it isn't installed."""
        try:
            import openvino as ov
        except ImportError:
            return None
        import tensorflow as tf

        batch = self.backbone.batch_size
        float32 = load_backbone(self.spec, self.weights, "float32")._network
        call = tf.function(lambda images: next(iter(float32(images).values())), autograph=False)
        signature = tf.TensorSpec((batch, self.size, self.size, 3), tf.float32)
        core = ov.Core()
        images = self.images.astype(np.float32)
        batches = -(-len(self.rows) // batch)
        model = ov.convert_model(call.get_concrete_function(signature))

        def timed(streams: int) -> Callable[[], float]:
            hints = {
                "INFERENCE_PRECISION_HINT": OPENVINO[PRECISION],
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": streams,
            }
            requests = ov.AsyncInferQueue(core.compile_model(model, "CPU", hints), streams)

            def run() -> float:
                begun = time.perf_counter()
                for _ in range(batches):
                    requests.start_async(images)
                requests.wait_all()
                return time.perf_counter() - begun

            return run

        return min((timed(1), timed(2)), key=lambda run: min(run(), run()))

    def naive(self) -> Callable[[], float]:
        """What one would write first: image_dataset_from_directory, model.predict in float32, np.save."""
        import keras

        model = keras.applications.VGG16(include_top=False, weights=str(WEIGHTS), input_shape=(self.size, self.size, 3))
        folder = SHARED / "data" / self.name / "train"
        self.naive_rows = len(self.manifest.splits["train"]) if folder.is_dir() else min(NAIVE, len(self.rows))
        if not folder.is_dir():  # the idx file's rows as PNG files, as one would unpack them first
            self.files = tempfile.TemporaryDirectory(dir=SCRATCH)
            folder = Path(self.files.name)
            (folder / "all").mkdir()
            for i, (location, digest) in enumerate(
                list(zip(self.rows.locations, self.rows.digests, strict=True))[:NAIVE]
            ):
                Image.fromarray(self.load(location, digest, 28)).save(folder / "all" / f"{i:05d}.png")

        def run() -> float:
            begun = time.perf_counter()
            data = keras.utils.image_dataset_from_directory(
                folder, label_mode=None, image_size=(self.size, self.size), shuffle=False, batch_size=32, verbose=False
            ).map(keras.applications.vgg16.preprocess_input)
            with tempfile.TemporaryDirectory(dir=SCRATCH) as out:
                np.save(Path(out) / "features.npy", model.predict(data, verbose=0))
            return time.perf_counter() - begun

        return run


def measure(case: Case) -> list[str]:
    """Table rows of one case: images per second of each way, and the ratios that count."""
    ways = {"pipeline": case.pipeline, "bare": case.bare, "plain": case.plain, "decode": case.decode}
    ways |= {name: way for name, way in (("naive", case.naive()), ("openvino", case.openvino())) if way is not None}
    for way in ways.values():
        way()  # compile, warm the page cache
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(way())
    n = len(case.rows)
    rate = {name: n / statistics.median(times) for name, times in seconds.items()}
    rate["naive"] *= case.naive_rows / n
    fastest = max(rate["bare"], rate.get("openvino", 0))
    shared = 1 / (1 / fastest + 1 / rate["decode"])
    shown = ("pipeline", "bare", "plain", "openvino", "decode", "naive")
    rates = " | ".join(f"{rate[name]:.1f}" if name in rate else "-" for name in shown)
    ratios = [rate["pipeline"] / fastest, rate["pipeline"] / shared, rate["pipeline"] / rate.get("naive", float("nan"))]
    beside = len(case.backbone.side_by_side)
    return [
        f"| {case.name} {case.size} | {n:,} | {beside} | {rates} | "
        + " | ".join(f"{ratio:.2f}" for ratio in ratios)
        + " |"
    ]


CASES = {
    "hymenoptera-224": ("hymenoptera", "folder", 224, 96),
    "flowers5-224": ("flowers5", "folder", 224, 96),
    "mnist-48": ("mnist", "idx", 48, 2048),
    "flowers5-48": ("flowers5", "folder", 48, 550),
    "hymenoptera-48": ("hymenoptera", "folder", 48, 245),
}

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(CASES):
        sys.exit(f"expected cases of {', '.join(CASES)}; got {', '.join(sorted(unknown))}")
    print(
        "| set | images | side by side | pipeline/s | bare/s | plain bare/s | OpenVINO bare/s | decode/s | naive/s | of fastest bare | of 1/(1/f+1/d) | of naive |"
    )
    print(f"{'| --- ' * 12}|")
    for chosen in sys.argv[1:] or CASES:
        for line in measure(Case(*CASES[chosen])):
            print(line, flush=True)
