"""The report's content, gathered from a project's artifacts as JSON-able values; no TensorFlow."""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featcache import __version__
from featcache.core.formatting import printable
from featcache.core.paths import regular
from featcache.core.progress import Progress
from featcache.core.rows import known_labels
from featcache.core.texts import NOT_FOUND, index_of
from featcache.ensemble import MAJORITY
from featcache.errors import CacheFormatError
from featcache.inspection import compared, score_names, summary
from featcache.project import REJECTED_CSV, Project, notices
from featcache.report.class_metrics import class_table, reliability
from featcache.report.image_sections import Explain, pictures
from featcache.report.label_sets import label_table
from featcache.report.learning_curves import learning_curves
from featcache.report.predictions import Run, load_run
from featcache.report.provenance import provenance, settings_text
from featcache.report.suspects import corrections

_REJECTED = 200
_SHOWN_SETTINGS = {
    "features": ("copies",),
    "heads": ("preset", "seeds", "pseudo_weight", "balanced"),
}


def report_content(project: Project, progress: Progress, explain: Explain | None = None) -> dict[str, Any]:
    """Gather the report of a project whose artifacts but submission and report are complete; `explain` looks into images.

    Returns:
        JSON-able values with printable texts; the same artifacts give the same content.

    Raises:
        CacheError: an artifact is missing, damaged or of other settings.
        SourceChangedError: an image is no longer what the manifest says.
        TrainingError: no member is trained.
    """
    parts: dict[str, Callable[[Run], Any]] = {
        # first: images are decoded beside imports that other parts need, too
        "pictures": lambda run: pictures(run, explain),
        "overview": _overview,
        "learning": lambda _: learning_curves(project),
        "classes": _classes,
        "calibration": _calibration,
        "leaderboard": _leaderboard,
        "rejected": lambda _: _rejected(project),
        "corrections": _corrections,
        "provenance": lambda _: {"settings": settings_text(project.settings), "facts": provenance(project)},
    }
    progress.start("report", len(parts), "parts")
    try:
        run = load_run(project)
        none = ["no label"] if run.built.several else []  # on the map
        content: dict[str, Any] = {"version": __version__, "several": run.built.several, "names": [*run.names, *none]}
        for name, gather in parts.items():
            content[name] = gather(run)
            progress.advance(1, name)
    finally:
        progress.finish()
    printed: dict[str, Any] = _printable(content)
    return printed


def _overview(run: Run) -> dict[str, Any]:
    facts, built, settings = summary(run.project), run.built, run.project.settings
    ensemble, single = run.leaderboard["entries"][:2]
    names = score_names(run.leaderboard)
    return {
        **{name: facts[name] for name in ("name", "rows", "classes", "rejected", "corrections", "seconds")},
        **{name: getattr(getattr(settings, spec), name) for spec, names in _SHOWN_SETTINGS.items() for name in names},
        "notices": notices(run.project),
        "image_sizes": sorted({spec.image_size for spec in settings.backbones}),
        "folds": len(built.folds),
        "source": settings.dataset.source,
        "groups": bool(settings.dataset.groups),
        "backbones": [
            {**own, "taps": [str(tap) for tap in spec.taps], "weights": _weights(own["weights"])}
            for own, spec in zip(facts["backbones"], settings.backbones, strict=True)
        ],
        "convnets": settings.convnet.members,
        "metric": _own_metric(names),
        "scored": run.leaderboard["rows"],
        "ensemble": {**ensemble, "method": built.whole.method, "members": len(built.members)},
        "single": {**single, "name": built.best_single},
        "baselines": [{**each, "gained": compared(each, ensemble, names)} for each in run.leaderboard["baselines"]],
        "candidates": len(built.candidates),
        "splits": ensemble["splits"],
        "random": any(own["weights"].get("kind") == "random" for own in facts["backbones"]),
    }


def _own_metric(names: Iterable[str]) -> str:
    """The metric that is shown before accuracy and log-loss; "" for none."""
    return next((name for name in names if name not in ("accuracy", "log_loss")), "")


def _weights(record: Mapping[str, Any]) -> str:
    kind, setting = record.get("kind"), Path(str(record.get("setting")))
    return setting.name if kind == "file" else f"{kind or 'unknown'} weights"


def _classes(run: Run) -> dict[str, Any]:
    """Confusions and class scores of the training rows out of fold, and of other splits whose labels are known."""
    known = {split: each for split, each in run.predictions.items() if known_labels(each.labels).any()}
    if run.built.several:
        thresholds = run.built.decision.thresholds
        return {split: label_table(each, run.names, thresholds) for split, each in known.items()}
    return {split: class_table(each, run.names) for split, each in known.items()}


def _calibration(run: Run) -> dict[str, Any]:
    train, whole = run.predictions["train"], run.built.whole
    before, after = (reliability(each, train.labels) for each in (train.uncalibrated, train.probabilities))
    return {
        "temperature": whole.temperature,
        "clip": min(whole.clips or (whole.clip,)),
        "before": before,
        "after": after,
    }


def _leaderboard(run: Run) -> dict[str, Any]:
    entries = run.leaderboard["entries"]
    shown = [
        entry for entry in entries if entry["member"] != MAJORITY
    ]  # far below, it would leave no room for the rest
    accuracies = [bound for entry in shown for bound in entry["interval"]["accuracy"]]
    splits = list(dict.fromkeys(split for entry in entries for split in entry["splits"]))
    return {
        **run.leaderboard,
        "metric": _own_metric(score_names(run.leaderboard)),
        "span": [min(accuracies), max(accuracies)],
        "splits": splits,
    }


def _rejected(project: Project) -> dict[str, Any]:
    """How many images were rejected, and split, id and reason of the first of them."""
    path, rows, total = project.folder / REJECTED_CSV, [], 0
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="", opener=regular) as stream:
            for total, row in enumerate(csv.DictReader(stream, strict=True), start=1):
                if total <= _REJECTED:
                    rows.append([row["split"], row["id"], row["reason"]])
    except (OSError, csv.Error, KeyError) as error:
        raise CacheFormatError(
            f"{path} is not a table of rejected images ({error!r}): run ExtractFeatures with --rerun"
        ) from error
    return {"total": total, "rows": rows}


def _corrections(run: Run) -> list[list[str]]:
    """Id, label and split of every line of `[Dataset] corrections`: the page's marks begin with them."""
    lines, train = corrections(run.project), run.manifest.splits["train"]
    ids = [line.id for line in lines]
    trained = np.maximum(index_of(ids, train.ids), index_of(ids, train.case_ids)) != NOT_FOUND
    splits = np.where(trained, "train", "valid").tolist()
    return [[line.id, line.label, line.split or split] for line, split in zip(lines, splits, strict=True)]


def _printable(value: Any) -> Any:
    """The same with printable texts: names of files and classes are the user's."""
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, Mapping):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, (list, tuple)) else value
