"""What `featcache init` takes a folder of images for, and the luigi.cfg that it writes."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from featcache.core import paths
from featcache.core.disk import write_text
from featcache.core.formatting import Lines, Table, pluralize, printable
from featcache.core.names import first_names
from featcache.core.rows import label_counts
from featcache.dataset import Manifest, only_folder, recognise, survey_images
from featcache.ensemble import find_sample, layout_of, match_ids, read_sample, submission_format
from featcache.errors import SettingsError
from featcache.project import config_text, open_project, overridden
from featcache.settings import SECTIONS, full_texts

_LAYOUTS = {
    "folder": "class folders",
    "table": "images, and a table of their labels: {table}",
    "filename": "images with labels in their names",
    "parquet": "Parquet files with images in column {images}",
    "digits": "the embedded digits; featcache init PATH takes images of your own",
    "csv": "tables of pixels",
    "idx": "MNIST's idx files",
}
_SMALL = 112  # pixels of the longer side: images up to it are enlarged to twice their side, and not to photos'
_LEAST = 48
_LOSSY = "set [Submission] format = probabilities if it is scored by AUC or log-loss"
_DEFAULT = Path("luigi.cfg")
_CLASSES_SHOWN = 5
_ALL_HEAD = (
    "Written by featcache init: every setting with its default, for the embedded digits; featcache run takes it."
)
_HEAD = (
    "Written by featcache init. All other settings have their defaults; `luigi --module pipeline --help` lists them."
)

Sections = dict[str, dict[str, str]]


def init_record(path: Path | None, overrides: Sequence[str], output: Path | None = None) -> dict[str, Any]:
    """Look at a folder and write its luigi.cfg.

    Args:
        path: the folder; None for the embedded digits, whose luigi.cfg has every setting with its default.
        overrides: settings that are decided, ``Section.key=value`` each.
        output: the file to write; None: luigi.cfg, or where that is there already, a .cfg with the folder's name.

    Returns:
        layout, settings, rows and rejected rows by split, whether rows have several labels, rows by class or label, first id, groups, image sides, left out files,
        the submission's header, notices and the file that was written, as JSON-able values.

    Raises:
        SettingsError: the file is there already, or a setting is impossible.
        SourceError: the folder isn't recognised, or could be several things.
        SubmissionError: the sample submission asks for other rows or columns.
        StorageError: the file can't be written.
    """
    name = "digits" if path is None else _name(image_folder(path))
    output = output or (Path(f"{name}.cfg") if os.path.lexists(_DEFAULT) else _DEFAULT)
    if os.path.lexists(output):
        raise SettingsError(f"{output} is there already: remove it, or name another file, --output FILE")
    sections, record = first_settings(path, overridden({}, overrides))
    written = full_texts(sections) if path is None else sections
    write_text(output, config_text(written, _ALL_HEAD if path is None else _HEAD))
    return {**record, "file": str(output)}


def first_settings(path: Path | None, given: Mapping[str, Mapping[str, str]]) -> tuple[Sections, dict[str, Any]]:
    """Look at a folder of images, none of which is read whole.

    Args:
        path: the folder; None for the embedded digits.
        given: settings that are decided: section -> key -> text.

    Returns:
        the settings that take it, with those that were given, and what `init_record` returns, but the file.

    Raises:
        SettingsError, SourceError, SubmissionError: as `init_record`.
    """
    sections: Sections = {"Dataset": {}, **{section: dict(values) for section, values in given.items()}}
    sample = None
    if path is None:
        sections["Dataset"] = {"name": "digits", "source": "digits", **sections["Dataset"]}
    else:
        path, dataset = image_folder(path), sections["Dataset"]
        named = Path(dataset["sample_submission"]) if dataset.get("sample_submission") else None
        found = find_sample(named, path)
        sample = read_sample(found) if found else None
        beside = (found.name, *sample.columns) if found and sample and found.parent == path else ()
        sections["Dataset"] = {"name": _name(path), **recognise(path, dataset, beside)}
    before = open_project(sections).settings
    manifest, sides = survey_images(before.dataset)
    side = median(map(max, sides)) if sides else _SMALL + 1
    if side <= _SMALL:
        sections["Features"] = {"image_size": str(max(_LEAST, 2 * round(side))), **sections.get("Features", {})}
    notices: list[str] = []
    if sample is not None:
        form = submission_format(before.ensemble.metric, manifest.class_names, sample, several=manifest.several)
        lossy = form == "labels" and len(manifest.class_names) == 2 and len(sample.labels) == 1
        notices += [_LOSSY] * lossy
        sections["Submission"] = {"format": form, **sections.get("Submission", {})}
        if form == "tags":
            sections["Ensemble"] = {"metric": "f1_samples", **sections.get("Ensemble", {})}
    sections = {name: {key: of[key] for key in SECTIONS[name] if key in of} for name, of in sections.items()}
    settings = open_project(sections).settings
    columns = None
    if "test" in manifest.splits:
        layout = layout_of(
            settings.submission,
            manifest.class_names,
            sample,
            settings.ensemble.metric,
            several=manifest.several,
        )
        columns, notices = list(layout.columns), [*notices, *layout.notices]
        if sample is not None:
            match_ids(manifest.splits["test"].case_ids, sample)
    return sections, _facts(manifest, sections, sides) | {"columns": columns, "notices": notices}


def image_folder(path: Path) -> Path:
    """Return the folder in which the images are: where it holds nothing but one folder, that one.

    Raises:
        SettingsError: it is no folder.
    """
    path = paths.expanded(path, "PATH")
    if not paths.is_folder(path):
        raise SettingsError(f"PATH={str(path)!r} is not a folder of images but {paths.what_is(path)}")
    return only_folder(path)


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-._") or "images"


def init_lines(record: Mapping[str, Any]) -> Lines:
    """Return the record as a table with a fact a row, and what to do next."""
    dataset = record["settings"]["Dataset"]
    classes = [f"{name} ({count:,})" for name, count in record["classes"].items()]
    facts = {
        "layout": _LAYOUTS[dataset["source"]].format(**dataset)
        + (f" ({dataset['path']})" if "path" in dataset else ""),
        "rows": " · ".join(f"{split} {count:,}" for split, count in record["rows"].items()),
        "labels" if record["several"] else "classes": f"{len(classes)}: {first_names(classes, _CLASSES_SHOWN, str)}",
        "ids": f"such as {record['id']}",
        "groups": f"{dataset.get('groups', '')}, {pluralize(record['groups'], 'group')} that no fold splits",
        "images": record["sides"],
        "submission": f"{first_names(record['columns'] or (), 6, str)} ({record['format']})",
        "rejected": ", ".join(f"{count:,}: {reason}" for reason, count in record["rejected"].items()),
        "not listed": ", ".join(f"{count:,} {kind}" for kind, count in record["left_out"].items()),
    }
    left = {"groups": record["groups"], "submission": record["columns"]}
    rows = [(name, printable(text)) for name, text in facts.items() if text and left.get(name, True)]
    rows += [("notice", printable(line)) for line in record["notices"]]
    taken = "" if Path(record["file"]) == _DEFAULT else f"LUIGI_CONFIG_PATH={shlex.quote(record['file'])} "
    return [Table(rows), f"{record['file']} is written; next: {taken}luigi --module pipeline Submit"]


def _facts(manifest: Manifest, sections: Sections, sides: Sequence[tuple[int, int]]) -> dict[str, Any]:
    train = manifest.splits["train"]
    counts = label_counts(train.labels, len(manifest.class_names)).tolist()
    smallest, largest = (f"{width} x {height}" for width, height in (min(sides), max(sides))) if sides else ("", "")
    return {
        "settings": sections,
        "rows": {split: len(rows) for split, rows in manifest.splits.items()},
        "several": manifest.several,
        "classes": dict(zip(manifest.class_names, counts, strict=True)),
        "id": train.ids[0],
        "groups": len(set(train.groups) - {""}),
        "sides": f"{smallest} to {largest} pixels" if smallest != largest else f"{smallest} pixels" if sides else "",
        "format": sections.get("Submission", {}).get("format", "labels"),
        "rejected": dict(Counter(reason for rows in manifest.splits.values() for reason in rows.reasons if reason)),
        "left_out": dict(manifest.left_out),
    }
