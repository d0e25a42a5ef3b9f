"""What a run would cost before it starts: rows, disk, memory, and hours.

The forward pass is as fast as in an earlier run on this machine, whatever its images were; decoding is as fast as this data
set's own images are decoded, in that run or now, on some of them.
"""

import math
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import FEATURE_DTYPE, PARTIAL_SUFFIX, Reader, copy_name, open_cache, rows_of_digests
from featcache.core.formatting import Lines, Table, printable, size_text
from featcache.core.paths import is_folder
from featcache.core.rows import Rows
from featcache.core.system import core_numbers, processor_name
from featcache.dataset import Manifest, preview_images
from featcache.errors import CacheError, FeatcacheError
from featcache.project import COMPARE, BackboneFeatures, Project, image_loader
from featcache.settings import FeaturesSpec, Tap, backbone_settings
from featcache.training import BY_GROUP, PATHS, HeadPlan, normalizes, resolve_heads

_FLOAT = 4  # bytes of a weight or a probability
_BAG_BYTES = 10_000  # of a bag's files beside weights and predictions
_CONVNET_BYTES = 2_500_000
_VGG_CHANNELS = (64, 128, 256, 512, 512)
_COLUMNS = ("split", "copy", "rows", "to compute", "to write")
_DECODED = 24  # images
_DECODING_CORES = 12  # beyond them threads wait for Pillow's lock
_UNKNOWN = "unknown before the first run of this backbone and image size on this machine"

Shapes = Mapping[str, tuple[int, ...]]


def plan_record(project: Project) -> dict[str, Any]:
    """Return what a run would do and need, as JSON-able values; None where a number isn't known.

    Raises:
        SourceError: the images can't be listed.
        BackboneError: no such backbone or tap.
    """
    if project.manifest().key is not None:
        manifest = Manifest.load(project.folder)
    else:
        manifest = preview_images(project.settings.dataset, project.folder, project.listing)
        project = project.assuming(manifest)
    readers = list(_readers(project.folder.parent))
    parts = [_backbone_record(project, backbone, manifest, readers) for backbone in project.backbones]
    caches, rows = [cache for part in parts for cache in part["caches"]], sum(part["rows"] for part in parts)
    features = _sum(cache["bytes"] for cache in caches)
    known = all(part["shapes"] for part in parts)
    heads = (
        _trained_bytes(project, manifest, {k: v for part in parts for k, v in part["shapes"].items()})
        if known
        else None
    )
    hours, memory = _sum(part["hours"] for part in parts), [part["memory_bytes"] for part in parts]
    speed = parts[0]["speed"] if len(parts) == 1 else {}
    parent = next(folder for folder in (project.folder, *project.folder.parents) if is_folder(folder))
    return {
        "folder": str(project.folder),
        "caches": caches,
        "rows_to_compute": rows,
        "features_bytes": features,
        "heads_bytes": heads,
        "disk_bytes": None if features is None or heads is None else features + heads,
        "disk_free_bytes": shutil.disk_usage(parent).free,
        "memory_bytes": None if None in memory else max(memory),
        "images_per_second": speed.get("images_per_second"),
        "forward_per_second": speed.get("forward"),
        "decode_per_second": speed.get("decode"),
        "rate_from": parts[0]["rate_from"] if len(parts) == 1 else None,
        "hours": None if hours is None else round(hours, 4),
    }


def _sum(numbers: Iterable[float | None]) -> Any:
    """The sum; None where one isn't known."""
    found = list(numbers)
    return None if None in found else sum(filter(None, found))


def _backbone_record(
    project: Project, backbone: BackboneFeatures, manifest: Manifest, readers: Sequence[Reader]
) -> dict[str, Any]:
    """What extracting by one backbone would cost; of several, caches name theirs."""
    spec = backbone.spec
    name = str(backbone_settings(spec)["backbone"])
    wanted = {("backbone", name), ("image_size", spec.image_size)}
    alike = [reader for reader in readers if wanted <= _settings(reader).items()]
    shapes, run = _shapes(spec, name, alike), _largest_run(backbone.precision(), alike)
    row_bytes = FEATURE_DTYPE.itemsize * sum(map(math.prod, shapes.values())) if shapes else None
    mine = [(split, copy) for each, split, copy in project.caches() if each is backbone]
    caches = [_cache(backbone, manifest.splits[s], s, c, readers, row_bytes) for s, c in mine]
    rows = sum(cache["compute"] for cache in caches)
    speed = _speed(project, spec.image_size, manifest.splits, run) if run else {}
    rate = speed.get("images_per_second")
    return {
        "caches": [{"backbone": backbone.label, **cache} if backbone.label else cache for cache in caches],
        "rows": rows,
        "shapes": {backbone.input_name(tap): shape for tap, shape in (shapes or {}).items()},
        "speed": speed,
        "memory_bytes": run.get("peak_bytes"),
        "rate_from": f"{run['computed']:,} rows of {run['name']}" if rate else None,
        "hours": rows / rate / 3600 if rate else None if rows else 0.0,
    }


def plan_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `plan_record` as lines and tables."""
    rows = []
    for cache in record["caches"]:
        size = "?" if cache["bytes"] is None else size_text(cache["bytes"])
        copy = copy_name(cache["copy"]).removeprefix("copy ")
        named = [cache["backbone"]] if "backbone" in cache else []
        rows.append([*named, cache["split"], copy, f"{cache['rows']:,}", f"{cache['compute']:,}", size])
    columns = (*["backbone"] * (bool(rows) and len(rows[0]) > len(_COLUMNS)), *_COLUMNS)
    disk, free, hours = record["disk_bytes"], record["disk_free_bytes"], record["hours"]
    sizes = [(what, record[f"{what}_bytes"]) for what in ("features", "heads")]
    parts = [*(f"{what} {size_text(size)}" for what, size in sizes if size), f"{size_text(free)} free"]
    source = record["rate_from"]
    if record["decode_per_second"]:
        forward, decode = record["forward_per_second"], record["decode_per_second"]
        source = f"forward {forward:,.0f}/s by {source}, decoding {decode:,.0f}/s by some of these images"
    speed = f" at {record['images_per_second']:,.0f} images/s ({source})" if source else ""
    duration = _UNKNOWN if hours is None else f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:,.1f} min"
    facts = [
        ("rows", f"{record['rows_to_compute']:,} forward passes"),
        ("disk", f"{_UNKNOWN if disk is None else size_text(disk)} ({', '.join(parts)})"),
        ("memory", size_text(record["memory_bytes"]) if record["memory_bytes"] else _UNKNOWN),
        ("time", duration + speed),
    ]
    lines: list[str | Table] = [printable(record["folder"]), Table(rows, columns), Table(facts)]
    if disk is not None and disk > free:
        lines.append(f"not enough disk space: {size_text(disk - free)} missing")
    return lines


def _speed(project: Project, size: int, splits: Mapping[str, Rows], run: Mapping[str, Any]) -> dict[str, float | None]:
    """Images a second: all in all, and of another data set's `run`, the forward pass alone and decoding these images."""
    rate = float(run["images_per_second"])
    decode = _decoding_rate(project, size, splits) if run["name"] != project.settings.dataset.name else None
    if decode is None:
        return {"images_per_second": rate}
    if run.get("device") not in (None, processor_name()):  # a GPU computes while the processor decodes
        return {"images_per_second": min(rate, decode), "forward": rate, "decode": decode}
    forward = rate / max(1 - run["shares"]["decode"], 1e-3)
    return {"images_per_second": 1 / (1 / forward + 1 / decode), "forward": forward, "decode": decode}


def _decoding_rate(project: Project, size: int, splits: Mapping[str, Rows]) -> float | None:
    """How many images of the largest split the threads decode a second, by some of them; None where none can be decoded."""
    rows = max(splits.values(), key=len)
    load, seconds = image_loader(project), []
    for row in np.linspace(0, len(rows) - 1, _DECODED + 1).astype(int).tolist():
        begun = time.thread_time()
        with suppress(FeatcacheError):
            load(rows.locations[row], rows.digests[row], size)
            seconds.append(time.thread_time() - begun)
    if len(seconds) < 2:
        return None
    return min(len(core_numbers()), _DECODING_CORES) / float(np.mean(seconds[1:]))  # the first one imports the decoder


def _readers(artifacts: Path) -> Iterator[Reader]:
    """Every finished cache of all data sets: rate and shapes don't depend on the images."""
    folders = "*/features", f"*/{COMPARE}/features"
    for path in sorted(path for folder in folders for path in artifacts.glob(f"{folder}/[!.]*.h5")):
        with suppress(CacheError):
            if not path.name.endswith(PARTIAL_SUFFIX):
                yield open_cache(path)


def _cache(
    backbone: BackboneFeatures, rows: Rows, split: str, copy: int, readers: Sequence[Reader], row_bytes: int | None
) -> dict[str, Any]:
    """One cache: its rows, how many are in no cache yet, and the bytes that it will take."""
    if backbone.cache(split, copy).is_complete():
        return {"split": split, "copy": copy, "rows": len(rows), "compute": 0, "bytes": 0}
    missing = rows.listed.copy()
    keys = set(backbone.tap_keys(copy).values())
    for reader in readers:
        if keys and keys <= {tap.key for tap in reader.taps.values()}:
            missing &= rows_of_digests(reader, rows.digests) < 0
    size = None if row_bytes is None else row_bytes * len(rows)
    return {"split": split, "copy": copy, "rows": len(rows), "compute": int(missing.sum()), "bytes": size}


def _trained_bytes(project: Project, manifest: Manifest, shapes: Shapes) -> int:
    """About what heads, convnets and their predictions will take."""
    spec, train, classes = project.settings.heads, manifest.splits["train"], len(manifest.class_names)
    rows, groups = int(train.listed.sum()), len({*train.groups} - {""})
    needed, members = 0, len(project.convnets())
    for name, shape in project.bags():
        seeds, parts = (1 if shape in PATHS else spec.seeds), groups if shape.endswith(BY_GROUP) else spec.folds
        members += seeds
        if not project.bag(name, shape).is_complete():
            features = sum(math.prod(shapes[tap]) for tap in project.inputs()[name])
            plan = resolve_heads(spec, shape, features, rows, classes, groups, several=manifest.several)
            numbers = seeds * (parts * _parameters(plan) + len(train) * classes) + features * normalizes(spec)
            needed += _FLOAT * numbers + _BAG_BYTES
    missing = sum(not artifact.is_complete() for artifact in project.convnets())
    needed += missing * (spec.folds * _CONVNET_BYTES + _FLOAT * len(train) * classes)
    splits = [split for split in project.scored_splits() if not project.predictions(split).is_complete()]
    return needed + sum(_FLOAT * members * len(manifest.splits[split]) * classes for split in splits)


def _parameters(plan: HeadPlan) -> int:
    """Numbers of one head: kernels and biases, and four for each unit's batch normalisation."""
    dense = sum((before + 1) * after for before, after in pairwise((plan.features, *plan.hidden, plan.classes)))
    return dense + 4 * sum(plan.hidden)


def _shapes(spec: FeaturesSpec, backbone: str, readers: Sequence[Reader]) -> Shapes | None:
    """Each tap's shape from earlier caches, or for VGG by arithmetic; None where one isn't known."""
    known = {str(tap.settings.get("tap")): tap.shape for reader in readers for tap in reader.taps.values()}
    shapes = {tap.name: known.get(str(tap)) or _vgg_shape(backbone, tap, spec.image_size) for tap in spec.taps}
    return {name: shape for name, shape in shapes.items() if shape} if all(shapes.values()) else None


def _vgg_shape(backbone: str, tap: Tap, size: int) -> tuple[int, ...] | None:
    """VGG halves height and width after each of its five blocks."""
    found = re.fullmatch(r"block([1-5])_(conv|pool).*", tap.layer)
    if backbone not in ("vgg16", "vgg19") or found is None:
        return None
    block = int(found[1])
    channels, side = _VGG_CHANNELS[block - 1], size >> (block - (found[2] != "pool"))
    return (channels,) if tap.pooling else (side, side, channels)


def _settings(reader: Reader) -> Mapping[str, Any]:
    """Those that all taps of a cache share, and the first one's own."""
    return next(iter(reader.taps.values())).settings


def _largest_run(precision: str | None, readers: Sequence[Reader]) -> Mapping[str, Any]:
    """The record of the largest extraction in this precision on this machine; {} for none."""
    alike = [reader for reader in readers if precision in (None, _settings(reader).get("precision"))]
    runs = [{**reader.run, "name": reader.name} for reader in alike if reader.run.get("images_per_second")]
    here = [run for run in runs if run.get("host") == platform.node()]
    return max(here, key=lambda run: int(run["computed"]), default={})
