"""A GPU, in under 8 minutes: how fast, how idle, how exact, and what it does when its memory is out.

    make bench-gpu          or: python benchmarks/gpu.py [OUT.json]

Needs no data: random weights (FEATCACHE_SHARED's, if it is set) and made-up photos of 500 x 400 pixels. Prints Markdown for
benchmarks/RESULTS.md, and writes the same numbers to OUT.json (artifacts/gpu.json). Without a GPU it is a rehearsal of the
same code on the processor, and says so; KERAS_BACKEND=jax rehearses or measures JAX.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from featcache.core.gpu import driver_version, free_bytes, is_out_of_memory
from featcache.core.keras_import import import_keras
from featcache.core.progress import Silent
from featcache.core.rows import Rows
from featcache.core.system import core_numbers, versions
from featcache.dataset.decoding.decode import decode_rgb
from featcache.features.devices import find_device
from featcache.features.extract import extract_copies
from featcache.features.extraction_job import Extraction, row_settings
from featcache.features.precision import choose_precision
from featcache.features.weights import resolve_weights
from featcache.settings.architectures import backbone_settings
from featcache.settings.specs import FeaturesSpec, HeadsSpec
from featcache.training.heads.examples import Examples
from featcache.training.heads.inputs import HeadInput, stored_rows
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import resolve_heads
from featcache.training.heads.trainer import MakeEngine, train_heads

import_keras(Path(os.devnull))
import keras  # noqa: E402  # under featcache's settings

from featcache.features import backbone as backbones  # noqa: E402
from featcache.features.backbone import Backbone, load_backbone  # noqa: E402
from featcache.features.self_check import check_images, load_checked  # noqa: E402

DEVICE = find_device()
REHEARSAL = DEVICE.capability is None
SECONDS = 2.0 if REHEARSAL else 20.0  # of each measurement
MOST_ROWS, FULL_BATCH = (256, 16) if REHEARSAL else (40_000, 512)
FITTING, COMPILED = 4, backbones._compiled  # a rehearsal pretends that memory is out beyond so many rows
HEAD_ROWS, HEAD_EPOCHS = (400, 2) if REHEARSAL else (5_000, 10)
STREAMS = 2  # passes at once, as in an extraction
SHARED = os.environ.get("FEATCACHE_SHARED")
WEIGHTS = str(Path(SHARED) / "weights/vgg16_imagenet_notop.h5") if SHARED else "random"


def jpegs(count: int = 64) -> list[bytes]:
    """Photos as far as their decoding goes: 500 x 400 pixels, smooth, about 40 kB each."""
    found = []
    for seed in range(count):
        patches = np.random.default_rng(seed).integers(0, 256, (26, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(patches).resize((500, 400), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


class Utilisation:
    """The share of time in which the GPU computes nothing, as nvidia-smi sees it; None where it can't."""

    def __enter__(self) -> "Utilisation":
        """Begin to ask, five times a second."""
        command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-i",
            "0",
            "-lms",
            "200",
        ]
        self._seen: list[int] = []
        try:
            self._asked = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError:
            return self
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        for line in self._asked.stdout or ():
            if line.strip().isdigit():
                self._seen.append(int(line))

    def __exit__(self, *_: object) -> None:
        """End."""
        if hasattr(self, "_asked"):
            self._asked.kill()

    @property
    def idle(self) -> float | None:
        """In 0..1."""
        return round(1 - float(np.mean(self._seen)) / 100, 3) if self._seen else None


def bare(backbone: Backbone, images: np.ndarray) -> float:
    """Images a second of the forward passes alone, two at once, on images in memory."""
    end, counts = time.perf_counter() + SECONDS, [0] * STREAMS

    def stream(number: int) -> None:
        while time.perf_counter() < end:
            backbone.forward(images)
            counts[number] += len(images)

    begun = time.perf_counter()
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(stream, range(STREAMS)))
    return sum(counts) / (time.perf_counter() - begun)


def whole(spec: FeaturesSpec, digest: str, backbone: Backbone, precision: str, count: int) -> dict[str, Any]:
    """An extraction of `count` photos, JPEG bytes to published file."""
    photos = jpegs()
    ids = [f"{row:06d}" for row in range(count)]
    rows = Rows(
        ids,
        np.arange(count, dtype=np.int32) % 2,
        [""] * count,
        [f"{row:064x}" for row in range(count)],
        [""] * count,
        ids,
    )
    settings = row_settings(spec, backbone_settings(spec), digest, precision, 0)
    job = Extraction("bench", "train", 0, rows, ("a", "b"), spec, settings)

    def load(location: str, _: str, size: int) -> np.ndarray:
        return decode_rgb(photos[int(location) % len(photos)], size)

    with tempfile.TemporaryDirectory() as folder, Utilisation() as utilisation:
        begun = time.perf_counter()
        extract_copies({Path(folder) / "a.h5": job}, load, lambda: backbone, Silent())
        seconds = time.perf_counter() - begun
    return {"images": count, "images_per_second": count / seconds, "idle": utilisation.idle}


def at_size(side: int) -> dict[str, Any]:
    """Everything about one image size."""
    spec = FeaturesSpec(weights=WEIGHTS, image_size=side)
    weights, precision = resolve_weights(spec, Silent()), choose_precision("auto", DEVICE.capability).name
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        backbone = load_checked(spec, weights, precision, Path(folder) / "devices.json")
    loaded = time.perf_counter()
    images = check_images(side)
    batch = images[np.arange(backbone.batch_size) % len(images)]
    backbone.forward(batch)
    first = time.perf_counter()
    rate = bare(backbone, batch)
    found = whole(spec, weights.digest, backbone, precision, int(np.clip(rate * SECONDS, 16, MOST_ROWS)))
    exact = load_backbone(spec, weights, "float32", len(images), find_device().refused("")).forward(images)
    return {
        "side": side,
        "precision": precision,
        "device": backbone.device.name,
        "problem": backbone.device.problem,
        "load_and_check_seconds": loaded - begun,
        "first_call_seconds": first - loaded,
        "batch_size": backbone.batch_size,
        "bare_per_second": rate,
        "whole_per_second": found["images_per_second"],
        "whole_images": found["images"],
        "idle": found["idle"],
        "idle_by_rates": max(0.0, 1 - found["images_per_second"] / rate),
        "lowest_cosine": min(cosine(backbone.forward(images)[tap], exact[tap]) for tap in exact),
    }


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """The lowest of the rows'."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (found, expected))
    return float(((a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def out_of_memory() -> dict[str, int]:
    """The batch that is left where others hold nearly all of the memory; a rehearsal pretends that few rows fit."""
    spec, precision = FeaturesSpec(weights=WEIGHTS, image_size=224), choose_precision("auto", DEVICE.capability).name
    with contextlib.ExitStack() as stack:
        if REHEARSAL:
            stack.enter_context(mock.patch.object(backbones, "_compiled", scarce))
        ballast = [] if REHEARSAL else occupied()
        backbone = load_backbone(spec, resolve_weights(spec, Silent()), precision, FULL_BATCH)
        backbone.forward(check_images(224))
        del ballast
    return {"from": FULL_BATCH, "to": backbone.batch_size}


def occupied() -> list[Any]:
    """Tensors in all of the GPU's memory but about 1.5 GB."""
    tensors: list[Any] = []
    try:
        while True:
            tensors.append(keras.ops.ones((1 << 26,), "float32"))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return tensors[:-6]


def scarce(network: Any, shape: tuple[int, ...], place: str, *, constant: bool) -> Callable[..., Any]:
    """In place of `_compiled`: more than a few rows don't fit."""

    def fail(_: np.ndarray) -> Any:
        raise MemoryError("RESOURCE_EXHAUSTED: pretended")

    return fail if shape[0] > FITTING else COMPILED(network, shape, place, constant=constant)


def heads(engine: MakeEngine | None) -> float:
    """Seconds an epoch of 15 default heads on 2,560 values, without what the first step compiles."""
    labels = np.arange(HEAD_ROWS) % 10
    values = np.random.default_rng(0).normal(labels[:, None] / 5, 1, (HEAD_ROWS, 2560)).astype(np.float16)
    parts, seen_as = by_folds(np.arange(HEAD_ROWS) % 5, np.ones(HEAD_ROWS, bool)), HeadInput({"tap": (2560,)})
    examples = Examples(seen_as, [stored_rows(seen_as, {"tap": values}, None)], labels, parts)
    plan = resolve_heads(HeadsSpec(early_stop=0), "dense", 2560, HEAD_ROWS, 10)
    times: list[float] = []

    class Clock(Silent):
        def advance(self, count: int, status: str = "") -> None:
            times.append(time.perf_counter())
            if len(times) > HEAD_EPOCHS:
                raise StopIteration

    with contextlib.suppress(StopIteration):
        train_heads(examples, plan, range(3), Clock(), accelerator=engine)
    return float(np.diff(times).mean())


def size_row(found: dict[str, Any]) -> str:
    """A row of the table."""
    idle = "-" if REHEARSAL else f"{found['idle_by_rates'] if found['idle'] is None else found['idle']:.0%}"
    times = f"{found['load_and_check_seconds']:.1f} s | {found['first_call_seconds']:.1f} s"
    rates = f"{found['bare_per_second']:,.1f} | {found['whole_per_second']:,.1f}"
    what = f"{found['side']} | {found['precision']} | {found['batch_size']}"
    return f"| {what} | {times} | {rates} | {idle} | {found['lowest_cosine']:.6f} |"


def main() -> None:
    """Measure, print and write each part as it is done."""
    from featcache.training.heads.keras_engine import KerasEngine

    begun, backend = time.perf_counter(), keras.backend.backend()
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/gpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"rehearsal": REHEARSAL, **vars(DEVICE), "backend": backend, "driver": driver_version()}
    record |= {"free_bytes": free_bytes(), "versions": versions(("featcache", "keras", backend, "numpy"))}
    record |= {"cores": len(core_numbers()), "sizes": []}

    def keep(**found: Any) -> None:
        record.update(found, seconds=round(time.perf_counter() - begun, 1))
        out.write_text(json.dumps(record, indent=2) + "\n")

    facts = f"{DEVICE.name}, {backend} {record['versions'][backend]}, driver {driver_version() or 'none'}"
    print(f"**{'rehearsal, no GPU' if REHEARSAL else 'GPU'}**: {facts}, {record['cores']} cores")
    print(f"{DEVICE.problem}\n" if DEVICE.problem else "")
    print("| side | precision | batch | load, check | first call | bare/s | whole/s | GPU idle | lowest cosine |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for side in (224, 48):
        found = at_size(side)
        keep(sizes=[*record["sizes"], found])
        print(size_row(found), flush=True)
    epochs = {"numpy": heads(None), "keras": heads(KerasEngine)}
    keep(heads_epoch_seconds=epochs)
    print(f"\nHeads, seconds an epoch of {HEAD_ROWS:,} rows: NumPy {epochs['numpy']:.2f}, Keras {epochs['keras']:.2f}.")
    memory = out_of_memory()
    keep(out_of_memory=memory)
    print(f"Memory nearly full, 224 pixels: a batch of {memory['from']} became {memory['to']}.")
    print(f"{record['seconds']:.0f} s in all; {out}")


if __name__ == "__main__":
    main()
