"""Why an artifact isn't what settings and images demand now: one line of what changed, found in what it was made from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import PARTIAL_SUFFIX, Reader, open_cache
from featcache.core.keys import SHORT, canonical_json
from featcache.core.paths import is_file, modified
from featcache.core.rows import SPLITS, Rows
from featcache.core.texts import NOT_FOUND, ConstantText, index_of
from featcache.dataset import Manifest
from featcache.errors import CacheError
from featcache.features import row_settings
from featcache.project import Artifact, Project
from featcache.settings import backbone_settings

MISSING = "nothing there yet"
_UNRESOLVED = "unresolved"
# Row settings that follow from others, which say more.
_FOLLOWING = ("preprocessing", "weights", "storage", "augmentation")


def manifest_reason(folder: Path, now: Manifest) -> str:
    """Say what of the images changed since the manifest in `folder` was written."""
    try:
        before = Manifest.load(folder)
    except CacheError:
        return MISSING if not is_file(folder / "manifest.json") else "the manifest is damaged"
    changed = _changed("Dataset", before.settings, now.settings)
    if changed:
        return changed
    if before.class_names != now.class_names:
        extra, gone = set(now.class_names) - set(before.class_names), set(before.class_names) - set(now.class_names)
        names = [*(f"class {name!r} added" for name in sorted(extra)), *(f"class {n!r} removed" for n in sorted(gone))]
        rows = manifests_differ(before, now)
        return "; ".join(["Manifest: " + ", ".join(names or ["classes changed"]), *([rows] if rows else [])])
    return manifests_differ(before, now) or "Manifest: its listing.json doesn't vouch for it"


def cache_reason(project: Project, split: str, copy: int, manifest: Manifest | None) -> str:
    """Say why a feature cache isn't complete: settings that changed, or rows; "" where neither did.

    Args:
        project: the settings.
        split: ``train``, ``valid`` or ``test``.
        copy: 0 for plain images, 1.. for augmented ones.
        manifest: the rows now; None to leave rows out.
    """
    path = project.features(split, copy).path
    try:
        reader = open_cache(path) if is_file(path) else _sibling(path.parent, split, copy)
    except CacheError:
        return f"{path.name} is damaged"
    if reader is None:
        copies = (project.all_features().record() or {}).get("inputs", {})
        had = copies.get("settings", {}).get("Features", {}).get("copies") if isinstance(copies, dict) else None
        return MISSING if not copy or had is None else f"Features: copies {had} -> {project.settings.features.copies}"
    changed = features_reason(project, reader, copy)
    if changed or manifest is None:
        return changed
    return cached_rows_changed(reader, manifest)


def cached_rows_changed(reader: Reader, manifest: Manifest) -> str:
    """Say how the rows of a cache differ from what the manifest lists now; "" when they don't."""
    fine = ConstantText("", len(reader))
    stored = Rows(reader.ids, reader.labels, reader.groups, reader.digests, fine)
    counts = _RowChanges()
    listed = manifest.splits.get(reader.split)
    counts.compare(_Listed(stored, reader.class_names), _Listed(listed, manifest.class_names))
    return counts.text()


def record_reason(artifact: Artifact, siblings: Iterable[Path] = ()) -> tuple[str, tuple[str, ...]]:
    """Say why the artifact of a record isn't complete.

    Args:
        artifact: what is demanded now.
        siblings: records made with other settings, of which the newest is compared where there is none of its kind.

    Returns:
        The settings or files that changed ("" for none), and the stages upstream whose results did.
    """
    record = artifact.record()
    if record is None:
        newest = max(_of_other_keys(artifact.path) or siblings, key=modified, default=None)
        record = Artifact(newest, None).record() if newest else None
    if record is None or not isinstance(record.get("inputs"), dict):
        damaged = is_file(artifact.path)
        return (f"{artifact.path.name} is damaged" if damaged else MISSING), ()
    then: Any = record["inputs"]
    now: Any = _plain(artifact.inputs)
    reasons = [
        _changed(section, then.get("settings", {}).get(section, {}), values)
        for section, values in now.get("settings", {}).items()
    ]
    reasons += [
        f"{name} changed" for name, digest in now.get("files", {}).items() if then.get("files", {}).get(name) != digest
    ]
    if then.get("version") != now.get("version"):
        reasons.append(f"another version of featcache ({then.get('version')} -> {now.get('version')})")
    upstream = tuple(name for name, key in now["upstream"].items() if then.get("upstream", {}).get(name) != key)
    if not any(reasons) and not upstream and artifact.shown is not None:
        reasons.append(_shown_reason(artifact, artifact.shown))
    return "; ".join(filter(None, reasons)), upstream


def _of_other_keys(record: Path) -> list[Path]:
    """Records of the same kind in the folders that other keys name."""
    name, dash, _ = record.parent.name.rpartition("-")
    return sorted(
        record.parent.parent.glob(f"{name}{dash}{'?' * SHORT}/{record.name}")
    )  # "fast-pseudo" begins with "fast"


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


def features_reason(project: Project, reader: Reader, copy: int) -> str:
    """Say which settings a cache was made with that are others now; what only follows from one of them isn't named."""
    spec = project.settings.features
    weights, precision = project.weights_digest() or _UNRESOLVED, project.precision() or _UNRESOLVED
    now = row_settings(spec, backbone_settings(spec), weights, precision, copy)
    taps, stored = {str(tap) for tap in spec.taps}, [tap.settings for tap in reader.taps.values()]
    then: Mapping[str, Any] = stored[0]
    parts = []
    if {str(settings["tap"]) for settings in stored} != taps:
        parts.append(f"taps {', '.join(sorted(str(s['tap']) for s in stored))} -> {', '.join(sorted(taps))}")
    current = next(iter(now.values()))
    different = [name for name, value in current.items() if _plain(then.get(name)) != _plain(value) and name != "tap"]
    for name in [name for name in different if name not in (*_FOLLOWING, "stage", "decoding")]:
        value = spec.precision if name == "precision" and precision == _UNRESOLVED else current[name]
        parts.append(f"{name} {_text(then.get(name))} -> {_text(value)}")
    file_changed = False
    if "weights" in different and "backbone" not in different:
        before = _weights_setting(reader)
        file_changed = before in (None, spec.weights)
        parts += [] if file_changed else [f"weights {before} -> {spec.weights}"]
    reasons = [f"Features: {', '.join(parts)}"] if parts else []
    reasons += ["weights file changed"] if file_changed else []
    if {"stage", "decoding"} & set(different):
        reasons.append("another version of featcache decodes or computes otherwise")
    return "; ".join(reasons)


def _weights_setting(reader: Reader) -> object:
    """``[Features] weights`` as it was when the file was made; another file may stand behind the same one."""
    stored = reader.run.get("weights")
    return stored.get("setting") if isinstance(stored, dict) else None


def _sibling(folder: Path, split: str, copy: int) -> Reader | None:
    """The newest published cache of the same split and copy, made with other settings."""
    paths = [p for p in folder.glob(f"{split}-copy{copy}-*.h5") if not p.name.endswith(PARTIAL_SUFFIX)]
    for path in sorted(paths, key=modified, reverse=True):
        try:
            return open_cache(path)
        except CacheError:
            continue
    return None


def manifests_differ(before: Manifest, now: Manifest) -> str:
    """``Manifest: 3 added, 1 changed``; "" when all rows are the same."""
    counts = _RowChanges()
    for split in SPLITS:
        counts.compare(
            *(_Listed(manifest.splits.get(split), manifest.class_names) for manifest in (before, now)),
        )
    return counts.text()


class _Listed:
    """The rows of one split, with labels as names: their indices shift when a class is added."""

    def __init__(self, rows: Rows | None, class_names: Sequence[str]) -> None:
        self.rows = Rows((), np.empty(0, np.int32), (), (), ()) if rows is None else rows
        self._names = (*class_names, "")  # -1, an unknown label, is the last

    def what(self, row: int) -> tuple[str, str]:
        """What else than its content makes a row: the label's name and the group."""
        return self._names[self.rows.labels[row]], self.rows.groups[row]


class _RowChanges:
    """Counts, split after split, of how rows differ; a row that went and came back elsewhere was renamed."""

    def __init__(self) -> None:
        self.changed = self.labelled = 0
        self.moved = False
        self._came: list[str] = []
        self._went: list[str] = []

    def compare(self, then: _Listed, now: _Listed) -> None:
        """Count the rows of one split."""
        places = index_of(now.rows.ids, then.rows.ids)
        kept = np.zeros(len(then.rows), bool)
        kept[places[places != NOT_FOUND]] = True
        self._went += [then.rows.digests[row] for row in np.flatnonzero(~kept).tolist()]
        self._came += [now.rows.digests[row] for row in np.flatnonzero(places == NOT_FOUND).tolist()]
        self.moved |= not np.array_equal(places, np.arange(len(then.rows)))
        for row, digest in enumerate(now.rows.digests):
            before = int(places[row])
            if before == NOT_FOUND:
                continue
            if then.rows.digests[before] != digest:
                self.changed += 1
            elif then.what(before) != now.what(row):
                self.labelled += 1

    def text(self) -> str:
        """``Manifest: 3 added, 1 changed``; "" when nothing changed."""
        gone = set(self._went)
        renamed = sum(digest in gone for digest in self._came)
        counts = {
            "added": len(self._came) - renamed,
            "removed": max(0, len(self._went) - renamed),
            "renamed": renamed,
            "changed": self.changed,
            "labelled otherwise": self.labelled,
        }
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        if not parts and self.moved:
            parts = ["order changed"]
        return f"Manifest: {', '.join(parts)}" if parts else ""
