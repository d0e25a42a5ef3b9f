"""Why an artifact is stale: one line of what changed in settings, files and rows since it was made."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import MIRROR, PARTIAL_SUFFIX, Reader, copy_name, open_cache
from featcache.core.keys import SHORT, canonical_json
from featcache.core.paths import is_file, modified
from featcache.core.rows import SPLITS, Rows, label_names
from featcache.core.texts import NOT_FOUND, ConstantText, index_of
from featcache.dataset import Manifest
from featcache.errors import CacheError
from featcache.features import row_settings
from featcache.project import Artifact, BackboneFeatures, Project
from featcache.settings import AUTO, FeaturesSpec, backbone_settings

MISSING = "nothing there yet"
_UNRESOLVED = "unresolved"
_NO_ROWS = Rows((), np.empty(0, np.int32), (), (), ())
# Row settings that follow from others, which are named instead, or that only a version changes.
_FOLLOWING = {"preprocessing", "weights", "storage", "augmentation", "stage", "decoding"}


def manifest_reason(folder: Path, now: Manifest) -> str:
    """Return how the images changed since the manifest in `folder` was written."""
    try:
        before = Manifest.load(folder)
    except CacheError:
        return MISSING if not is_file(folder / "manifest.json") else "the manifest is damaged"
    if changed := _changed("Dataset", before.settings, now.settings):
        return changed
    old, new = before.class_names, now.class_names
    names = [f"class {name!r} added" for name in sorted({*new} - {*old})]
    names += [f"class {name!r} removed" for name in sorted({*old} - {*new})]
    if old != new and not names:
        names = ["classes changed"]
    if before.several != now.several:
        names.append(f"rows have {'several labels' if now.several else 'one class'} each")
    splits = [(before.splits.get(split, _NO_ROWS), now.splits.get(split, _NO_ROWS)) for split in SPLITS]
    parts = [f"Manifest: {', '.join(names)}" if names else "", _rows_differ(splits, old, new)]
    return "; ".join(filter(None, parts)) or "Manifest: listing.json does not match"


def cache_reason(project: Project, backbone: BackboneFeatures, split: str, copy: int, manifest: Manifest | None) -> str:
    """Return why a feature cache isn't complete: settings that changed, or rows; "" where neither did.

    `manifest` has the rows now; None leaves rows out. Of several backbones the reason names which.
    """
    found = _cache_reason(project, backbone, split, copy, manifest)
    return backbone.of_backbone(found) if found else ""


def _cache_reason(
    project: Project, backbone: BackboneFeatures, split: str, copy: int, manifest: Manifest | None
) -> str:
    path = backbone.cache(split, copy).path
    try:
        reader = open_cache(path) if is_file(path) else _sibling(backbone, split, copy)
    except CacheError:
        return f"{path.name} is damaged"
    if reader is None:
        inputs = (project.all_features().record() or {}).get("inputs", {})
        had = inputs.get("settings", {}).get("Features", {}) if isinstance(inputs, dict) else {}
        if not copy or not had:
            return MISSING
        spec = backbone.spec
        now = {"mirror": True} if copy == MIRROR else {"copies": spec.copies}
        return _changed("Features", {"mirror": False} | had, now)
    changed = _features_reason(backbone, reader, copy)
    return changed if changed or manifest is None else cached_rows_changed(reader, manifest)


def cached_rows_changed(reader: Reader, manifest: Manifest) -> str:
    """Return how the rows of a cache differ from those that the manifest lists; "" when they don't."""
    stored = Rows(reader.ids, reader.labels, reader.groups, reader.digests, ConstantText("", len(reader)))
    listed = manifest.splits.get(reader.split, _NO_ROWS)
    return _rows_differ([(stored, listed)], reader.class_names, manifest.class_names)


def record_reason(artifact: Artifact, others: str = "") -> tuple[str, tuple[str, ...]]:
    """Return why the artifact of a record isn't complete.

    If there is no record of its kind, the newest is compared that the pattern `others` finds from where its folder is.

    Returns:
        The settings or files that changed ("" for none), and the stages upstream whose results did.
    """
    path = artifact.path
    record = artifact.record()
    if record is None:
        name, dash, _ = path.parent.name.rpartition("-")
        patterns = f"{name}{dash}{'?' * SHORT}/{path.name}", others  # not name*: "fast-pseudo" begins with "fast"
        found = (path.parents[1].glob(pattern) for pattern in patterns if pattern)
        newest = next((max(paths, key=modified) for each in found if (paths := sorted(each))), None)
        record = Artifact(newest, None).record() if newest else None
    if record is None or not isinstance(record.get("inputs"), dict):
        return f"{path.name} is damaged" if is_file(path) else MISSING, ()
    then: Any = record["inputs"]
    now: Any = _plain(artifact.inputs)
    settings, files = then.get("settings", {}), then.get("files", {})
    reasons = [_changed(name, settings.get(name, {}), values) for name, values in now.get("settings", {}).items()]
    reasons += [f"{name} changed" for name, digest in now.get("files", {}).items() if files.get(name) != digest]
    if then.get("version") != now.get("version"):
        reasons.append(f"another version of featcache ({then.get('version')} -> {now.get('version')})")
    upstream = tuple(name for name, key in now["upstream"].items() if then.get("upstream", {}).get(name) != key)
    if not any(reasons) and not upstream and artifact.shown is not None:
        reasons.append(_shown_reason(artifact, artifact.shown))
    return "; ".join(filter(None, reasons)), upstream


def _shown_reason(artifact: Artifact, shown: Path) -> str:
    if not artifact.is_stored():
        return f"{artifact.content.relative_to(artifact.path.parents[2])} is missing or damaged"
    if not is_file(shown):
        return f"{shown.name} is missing"
    return f"{shown.name} {'was changed by hand' if artifact.shown_key() == artifact.key else 'is of other settings'}"


def _changed(section: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """``Heads: dropout 0.5 -> 0.3, seeds 3 -> 2``; "" when nothing changed."""
    parts = [
        f"{name} {_text(then.get(name))} -> {_text(value)}"
        for name, value in now.items()
        if canonical_json(_plain(then.get(name))) != canonical_json(_plain(value))
    ]
    return f"{section}: {', '.join(parts)}" if parts else ""


def _plain(value: object) -> object:
    """`value` as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))


def _text(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value)


def _features_reason(backbone: BackboneFeatures, reader: Reader, copy: int) -> str:
    """Which settings changed since a cache was made, without those that only follow from others."""
    spec = backbone.spec
    weights, precision = backbone.weights_digest() or _UNRESOLVED, backbone.precision() or _UNRESOLVED
    now = row_settings(spec, backbone_settings(spec), weights, precision, copy)
    stored, current = [tap.settings for tap in reader.taps.values()], next(iter(now.values()))
    different = {name for name, value in current.items() if _plain(stored[0].get(name)) != _plain(value)} - {"tap"}
    shown = [name for name in current if name in different - _FOLLOWING]
    before: dict[str, Any] = {"taps": ", ".join(sorted({str(each["tap"]) for each in stored}))}
    after: dict[str, Any] = {"taps": ", ".join(sorted({str(tap) for tap in spec.taps}))}
    if before != after and len(spec.taps) > 1 and spec.taps == FeaturesSpec(spec.backbone).taps:
        after["taps"] = AUTO
    before |= {name: stored[0].get(name) for name in shown}
    after |= {name: current[name] for name in shown}
    if "decoding" in different:
        before["image_fit"], after["image_fit"] = _fit(stored[0]), spec.image_fit
    if after.get("precision") == _UNRESOLVED:
        after["precision"] = spec.precision
    same_setting = False
    if "weights" in different and "backbone" not in different:
        recorded = reader.run.get("weights")  # the setting when the file was made; the file behind it may have changed
        setting = recorded.get("setting") if isinstance(recorded, dict) else None
        same_setting = setting in (None, spec.weights)
        before["weights"], after["weights"] = spec.weights if same_setting else setting, spec.weights
    reasons = [_changed("Features", before, after)]
    reasons += ["weights file changed"] if same_setting else []
    if {"stage", "decoding"} & different and before.get("image_fit") == after.get("image_fit"):
        reasons.append("another version of featcache decodes or computes differently")
    return "; ".join(filter(None, reasons))


def _fit(settings: Mapping[str, Any]) -> object:
    decoding = settings.get("decoding")
    return decoding.get("fit") if isinstance(decoding, dict) else None


def _sibling(backbone: BackboneFeatures, split: str, copy: int) -> Reader | None:
    """The newest published cache of the same split and copy, made with other settings; of several, by the same network."""
    own = backbone.cache(split, copy).path
    paths = [
        p
        for p in own.parent.glob(f"{split}-{copy_name(copy).replace(' ', '')}-*.h5")
        if not p.name.endswith(PARTIAL_SUFFIX)
    ]
    for path in sorted(paths, key=modified, reverse=True):
        with suppress(CacheError):
            reader = open_cache(path)
            made_by = next(iter(reader.taps.values())).settings.get("backbone")
            if not backbone.label or made_by == backbone_settings(backbone.spec)["backbone"]:
                return reader
    return None


def _rows_differ(splits: Sequence[tuple[Rows, Rows]], old_names: Sequence[str], new_names: Sequence[str]) -> str:
    """Compare rows before and now, split by split; a row that was removed and added elsewhere was renamed."""
    came, went, changed, relabelled, moved = list[str](), list[str](), 0, 0, False
    for then, now in splits:
        places = index_of(now.ids, then.ids)
        kept = np.flatnonzero(places != NOT_FOUND)
        went += [then.digests[row] for row in np.delete(np.arange(len(then)), places[kept]).tolist()]
        came += [now.digests[row] for row in np.flatnonzero(places == NOT_FOUND).tolist()]
        moved |= not np.array_equal(places, np.arange(len(then)))
        for row, before in zip(kept.tolist(), places[kept].tolist(), strict=True):
            same_label = label_names(then.labels, before, old_names) == label_names(now.labels, row, new_names)
            if then.digests[before] != now.digests[row]:
                changed += 1
            elif not same_label or then.groups[before] != now.groups[row]:
                relabelled += 1
    gone = set(went)
    renamed = sum(digest in gone for digest in came)
    counts = {"added": len(came) - renamed, "removed": max(0, len(went) - renamed), "renamed": renamed}
    counts |= {"changed": changed, "relabelled": relabelled}
    parts = [f"{count:,} {what}" for what, count in counts.items() if count] or ["order changed"] * moved
    return f"Manifest: {', '.join(parts)}" if parts else ""
