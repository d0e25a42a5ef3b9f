"""What a run would cost before anything is run: rows, disk, memory, and hours at the rate measured on this machine."""

import dataclasses
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import FEATURE_DTYPE, PARTIAL_SUFFIX, DigestIndex, Reader, Status, open_cache
from featcache.core.formatting import Lines, Table, printable, size_text
from featcache.core.paths import is_folder
from featcache.core.progress import Progress
from featcache.core.rows import Rows
from featcache.core.system import peak_bytes
from featcache.dataset import Manifest, preview_images
from featcache.errors import CacheError
from featcache.features import choose_precision
from featcache.project import Project, gpu_capability_of
from featcache.settings import FeaturesSpec, Tap, backbone_settings, is_model_file
from featcache.training import BY_GROUP, LINEAR, HeadPlan, resolve_heads

_MEASURE_SECONDS = 5.0
_MODEL_BYTES = 30_000  # of a .keras file beside its weights
_CONVNET_BYTES = 2_500_000
_VGG_CHANNELS = (64, 128, 256, 512, 512)
_WARM_UP = 2
_COLUMNS = ("split", "copy", "rows", "to compute", "to write")

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast this machine is.

    Attributes:
        images_per_second: of one pass.
        memory: peak bytes of the process that reached it; None where that isn't known.
        origin: where the numbers come from.
    """

    images_per_second: float
    memory: int | None
    origin: str


def plan_record(project: Project, progress: Progress, *, measure: bool = False) -> dict[str, Any]:
    """Return what a run would do and need, as JSON-able values; None where a number isn't known.

    Args:
        project: the settings.
        progress: is told of a measurement.
        measure: run the backbone for some seconds instead of looking for earlier runs; starts TensorFlow.

    Raises:
        SourceError: the images can't be listed.
        BackboneError: no such backbone or tap.
    """
    manifest = _manifest(project)
    readers = list(_readers(project.folder.parent))
    shapes, rate = _measured(project, progress) if measure else (_shapes(project.settings.features, readers), None)
    rate = rate or _recorded_rate(project, readers)
    row_bytes = FEATURE_DTYPE.itemsize * sum(map(math.prod, shapes.values())) if shapes else None
    caches = [_cache(project, manifest.splits[s], s, c, readers, row_bytes) for s, c in project.caches()]
    todo = sum(cache["compute"] for cache in caches)
    trained = _trained_bytes(project, manifest, shapes) if shapes else None
    known = [cache["bytes"] for cache in caches if cache["bytes"] is not None]
    parent = next(folder for folder in (project.folder, *project.folder.parents) if is_folder(folder))
    return {
        "folder": str(project.folder),
        "caches": caches,
        "rows_to_compute": todo,
        "features_bytes": sum(known) if len(known) == len(caches) else None,
        "heads_bytes": trained,
        "disk_bytes": sum(known) + trained if len(known) == len(caches) and trained is not None else None,
        "disk_free_bytes": shutil.disk_usage(parent).free,
        "memory_bytes": rate.memory if rate else None,
        "images_per_second": rate.images_per_second if rate else None,
        "rate_from": rate.origin if rate else None,
        "hours": round(todo / rate.images_per_second / 3600, 4) if rate else 0.0 if not todo else None,
    }


def plan_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `plan_record` as lines and tables."""
    rows = []
    for cache in record["caches"]:
        size = "?" if cache["bytes"] is None else size_text(cache["bytes"])
        rows.append([cache["split"], str(cache["copy"]), f"{cache['rows']:,}", f"{cache['compute']:,}", size])
    disk, memory, hours = record["disk_bytes"], record["memory_bytes"], record["hours"]
    unknown = "unknown, as no run of this backbone and image size is known here; --measure tells"
    free = f"{size_text(record['disk_free_bytes'])} free"
    parts = [
        f"{what} {size_text(record[f'{what}_bytes'])}" for what in ("features", "heads") if record[f"{what}_bytes"]
    ]
    parts_told = f" ({', '.join(parts)})" if parts else ""
    no_memory = unknown if record["rows_to_compute"] else "nothing to compute"
    speed = f" at {record['images_per_second']:,.0f} images/s ({record['rate_from']})" if record["rate_from"] else ""
    facts = [
        ("rows", f"{record['rows_to_compute']:,} forward passes"),
        ("disk", f"{size_text(disk) if disk is not None else unknown}{parts_told}, {free}"),
        ("memory", size_text(memory) if memory else no_memory),
        ("time", f"{unknown if hours is None else _duration(hours)}{speed}"),
    ]
    lines: list[str | Table] = [printable(record["folder"]), Table(rows, _COLUMNS), Table(facts)]
    if disk is not None and disk > record["disk_free_bytes"]:
        lines.append(f"the disk is too small: {size_text(disk - record['disk_free_bytes'])} are missing")
    return lines


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"


def _manifest(project: Project) -> Manifest:
    if project.manifest().key is not None:
        return Manifest.load(project.folder)
    now = preview_images(project.settings.dataset, project.folder, project.listing)
    project.foresee(now)
    return now


def _readers(artifacts: Path) -> Iterator[Reader]:
    """Every finished cache of all data sets: speed and shapes don't depend on the images."""
    for path in sorted(artifacts.glob("*/features/*.h5")):
        try:
            if not path.name.endswith(PARTIAL_SUFFIX) and not path.name.startswith("."):
                yield open_cache(path)
        except CacheError:
            continue


def _cache(
    project: Project, rows: Rows, split: str, copy: int, readers: list[Reader], row_bytes: int | None
) -> dict[str, Any]:
    """One cache: its rows, how many aren't in any cache yet, and the bytes that it will take."""
    if project.features(split, copy).is_complete():
        return {"split": split, "copy": copy, "rows": len(rows), "compute": 0, "bytes": 0}
    wanted, missing = DigestIndex(rows.digests), rows.listed.copy()
    keys = set(project.tap_keys(copy).values())
    for reader in readers:
        if keys and keys <= {tap.key for tap in reader.taps.values()}:
            missing &= wanted.rows_in(reader.digest_column, np.asarray(reader.stored_status) == Status.OK) < 0
    size = None if row_bytes is None else row_bytes * len(rows)
    return {"split": split, "copy": copy, "rows": len(rows), "compute": int(missing.sum()), "bytes": size}


def _trained_bytes(project: Project, manifest: Manifest, shapes: Shapes) -> int:
    """About what heads, small CNNs and their predictions will take: weights stand in a model's own file and in the bag's."""
    spec, train, classes = project.settings.heads, manifest.splits["train"], len(manifest.class_names)
    rows, groups, value = int(train.listed.sum()), len({*train.groups} - {""}), np.dtype(np.float32).itemsize
    needed = members = 0
    for tap, shape in project.bags():
        seeds, parts = (1 if shape == LINEAR else spec.seeds), groups if shape.endswith(BY_GROUP) else spec.folds
        members += seeds
        if not project.bag(tap, shape).is_complete():
            plan = resolve_heads(spec, shape, math.prod(shapes[tap]), rows, classes, groups)
            needed += seeds * parts * (2 * value * _parameters(plan) + _MODEL_BYTES)
            needed += value * seeds * len(train) * classes
    open_convnets = sum(not artifact.is_complete() for artifact in project.convnets())
    needed += open_convnets * (spec.folds * _CONVNET_BYTES + value * len(train) * classes)
    members += len(project.convnets())
    open_splits = [split for split in project.scored_splits() if not project.predictions(split).is_complete()]
    return needed + sum(value * members * len(manifest.splits[split]) * classes for split in open_splits)


def _parameters(plan: HeadPlan) -> int:
    """Numbers of one head: kernels and biases, four for each unit's batch normalisation, two for each input's scale."""
    widths = (plan.features, *plan.hidden, plan.classes)
    dense = sum((before + 1) * after for before, after in pairwise(widths))
    return dense + 4 * sum(plan.hidden) + 2 * plan.features * plan.standardize


def _shapes(spec: FeaturesSpec, readers: list[Reader]) -> Shapes | None:
    """Each tap's shape as earlier caches have it, or as arithmetic says for VGG; None where one isn't known."""
    backbone = backbone_settings(spec)["backbone"]
    known: dict[str, tuple[int, ...]] = {}
    for reader in readers:
        for tap in reader.taps.values():
            same = (tap.settings.get("backbone"), tap.settings.get("image_size")) == (backbone, spec.image_size)
            if same and isinstance(tap.settings.get("tap"), str):
                known[str(tap.settings["tap"])] = tap.shape
    shapes = {tap.name: known.get(str(tap)) or _vgg_shape(str(backbone), tap, spec.image_size) for tap in spec.taps}
    return {name: shape for name, shape in shapes.items() if shape} if all(shapes.values()) else None


def _vgg_shape(backbone: str, tap: Tap, size: int) -> tuple[int, ...] | None:
    """VGG halves height and width after each of its five blocks."""
    block, _, layer = tap.layer.partition("_")
    number = block.removeprefix("block")
    if backbone not in ("vgg16", "vgg19") or number not in tuple("12345") or not layer.startswith(("conv", "pool")):
        return None
    channels, side = _VGG_CHANNELS[int(number) - 1], size >> (int(number) - (layer != "pool"))
    return (channels,) if tap.pooling else (side, side, channels)


def _recorded_rate(project: Project, readers: list[Reader]) -> Rate | None:
    """The rate of the largest run of this backbone and image size on this machine."""
    spec, precision, best, found = project.settings.features, project.precision(), 0, None
    wanted = {"backbone": backbone_settings(spec)["backbone"], "image_size": spec.image_size}
    wanted |= {"precision": precision} if precision else {}
    for reader in readers:
        settings, run = next(iter(reader.taps.values())).settings, reader.run
        same = all(settings.get(name) == value for name, value in wanted.items())
        computed, speed = int(run.get("computed") or 0), run.get("images_per_second")
        if same and speed and run.get("host") == platform.node() and computed > best:
            best, memory = computed, run.get("peak_bytes")
            found = Rate(float(speed), int(memory) if memory else None, f"{computed:,} rows of {reader.name} here")
    return found


def _measured(project: Project, progress: Progress) -> tuple[Shapes, Rate]:
    """Run the backbone on noise for some seconds; speed doesn't depend on what its weights are."""
    from featcache.core.keras_import import import_keras
    from featcache.features import resolve_weights

    spec = project.settings.features
    timed = spec if is_model_file(spec.backbone) else dataclasses.replace(spec, weights="random")
    import_keras(Path(os.devnull))
    from featcache.features import load_backbone

    precision = project.precision() or choose_precision(spec.precision, gpu_capability_of(project)).name
    weights = resolve_weights(timed, progress)

    backbone = load_backbone(timed, weights, precision)
    shape = (backbone.batch_size, spec.image_size, spec.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    progress.start("measuring", int(_MEASURE_SECONDS), "seconds")
    for _ in range(_WARM_UP):
        backbone.forward(images)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _MEASURE_SECONDS:
        backbone.forward(images)
        count += len(images)
    speed = count / (time.perf_counter() - begun)
    progress.finish()
    memory = peak_bytes()
    return backbone.taps, Rate(round(speed, 1), memory, f"{count:,} forward passes measured now, without decoding")
