"""The report's content, gathered from a project's artifacts as JSON-able values; no TensorFlow."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from featcache import __version__
from featcache.core.formatting import printable
from featcache.core.progress import Progress
from featcache.inspection import summary
from featcache.project import Project
from featcache.report.class_metrics import BINS, Reliability, collapse, reliability, top_confusions
from featcache.report.image_sections import pictures
from featcache.report.inputs import Run
from featcache.report.learning_curves import learning_curves
from featcache.report.predictions import EnsemblePredictions
from featcache.report.provenance import provenance, settings_text
from featcache.report.rejected import rejected_rows

MATRIX_CLASSES = 20
"""The most classes that a confusion matrix shows one by one."""
_CONFUSIONS = 10


def report_content(project: Project, progress: Progress) -> dict[str, Any]:
    """Gather the report.

    Args:
        project: its artifacts but submission and report are complete.
        progress: counts the report's parts.

    Returns:
        JSON-able values with printable texts; the same artifacts give the same content.

    Raises:
        CacheError: an artifact is missing, damaged or of other settings.
        SourceChangedError: an image is no longer what the manifest says.
        TrainingError: no member is trained.
    """
    run = Run(project)
    parts: dict[str, Callable[[], Any]] = {
        "overview": lambda: _overview(run),
        "learning": lambda: learning_curves(project),
        "classes": lambda: _classes(run),
        "calibration": lambda: _calibration(run),
        "leaderboard": lambda: _leaderboard(run),
        "rejected": lambda: rejected_rows(project),
        "pictures": lambda: pictures(run),
        "provenance": lambda: {"settings": settings_text(project.settings), "facts": provenance(project)},
    }
    progress.start("report", len(parts), "parts")
    content: dict[str, Any] = {"version": __version__, "names": list(run.names)}
    try:
        for name, gather in parts.items():
            content[name] = gather()
            progress.advance(1, name)
    finally:
        progress.finish()
    printed: dict[str, Any] = _printable(content)
    return printed


def _overview(run: Run) -> dict[str, Any]:
    facts, built, settings = summary(run.project), run.built, run.project.settings
    ensemble, single = run.leaderboard["entries"][:2]
    return {
        "name": facts["name"],
        "rows": facts["rows"],
        "classes": facts["classes"],
        "rejected": facts["rejected"],
        "source": settings.dataset.source,
        "scored": run.leaderboard["rows"],
        "ensemble": {**ensemble, "method": built.whole.method, "members": len(built.members)},
        "single": {**single, "name": built.best_single},
        "candidates": len(built.candidates),
        "splits": ensemble["splits"],
        "seconds": facts["seconds"],
        "weights": facts["weights"].get("kind"),
        "weights_name": _weights_name(facts["weights"]),
        "precision": facts["precision"],
        "backbone": settings.features.backbone,
        "taps": [str(tap) for tap in settings.features.taps],
        "image_size": settings.features.image_size,
        "copies": settings.features.copies,
        "preset": settings.heads.preset,
        "folds": settings.heads.folds,
        "seeds": settings.heads.seeds,
        "convnets": settings.convnet.members,
        "pseudo_weight": settings.heads.pseudo_weight,
        "groups": bool(settings.dataset.groups),
    }


def _weights_name(weights: Mapping[str, Any]) -> str:
    """``random weights``, ``imagenet weights``, or the name of their file."""
    kind = weights.get("kind") or "unknown"
    return Path(str(weights.get("setting"))).name if kind == "file" else f"{kind} weights"


def _classes(run: Run) -> dict[str, Any]:
    """Confusions and class scores of the training rows out of fold, and of other splits whose labels are known."""
    return {
        split: class_table(predictions, run.names)
        for split, predictions in run.predictions.items()
        if (predictions.labels >= 0).any()
    }


def class_table(predictions: EnsemblePredictions, names: tuple[str, ...]) -> dict[str, Any]:
    """Return confusions, precision and recall as JSON-able values.

    Args:
        predictions: rows, of which at least one has a known label; the others don't count.
        names: the C classes.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    known, classes = predictions.labels >= 0, np.arange(len(names))
    labels, predicted = predictions.labels[known], predictions.predicted[known]
    counts = confusion_matrix(labels, predicted, labels=classes)  # of class i (line) predicted as j (column)
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=np.nan)
    small = collapse(counts, MATRIX_CLASSES)
    table = [
        {"name": name, "rows": int(rows), "precision": _number(p), "recall": _number(r), "f1": _number(f)}
        for name, p, r, f, rows in zip(names, *columns, strict=True)
    ]
    shown = [names[each] for each in small.classes] + [f"{small.others} others"] * bool(small.others)
    return {
        "rows": len(labels),
        "wrong": int((predicted != labels).sum()),
        "table": table,
        "f1": _number(np.nanmean(columns[2])),
        "matrix": {"names": shown, "counts": small.counts.tolist(), "others": small.others},
        "confusions": [
            [names[i], names[j], rows, int(counts[i].sum())] for i, j, rows in top_confusions(counts, _CONFUSIONS)
        ],
    }


def _calibration(run: Run) -> dict[str, Any]:
    train = run.predictions["train"]
    before, after = (reliability(each, train.labels) for each in (train.uncalibrated, train.probabilities))
    whole = run.built.whole
    return {"temperature": whole.temperature, "clip": whole.clip, "before": _bins(before), "after": _bins(after)}


def _bins(found: Reliability) -> dict[str, Any]:
    columns = (found.rows, found.confidence, found.accuracy)
    bins = [
        {
            "low": 100 * i // BINS,
            "high": 100 * (i + 1) // BINS,
            "rows": int(rows),
            "confidence": _number(sure),
            "accuracy": _number(right),
        }
        for i, (rows, sure, right) in enumerate(zip(*columns, strict=True))
    ]
    return {"error": found.error, "bins": bins}


def _leaderboard(run: Run) -> dict[str, Any]:
    record = run.leaderboard
    accuracies = [bound for entry in record["entries"] for bound in entry["interval"]["accuracy"]]
    splits = list(dict.fromkeys(split for entry in record["entries"] for split in entry["splits"]))
    methods = {name: asdict(score) for name, score in run.built.method_scores.items()}
    return {**record, "span": [min(accuracies), max(accuracies)], "splits": splits, "methods": methods}


def _number(value: float) -> float | None:
    """`value`, or None for NaN, which JSON doesn't have."""
    return None if np.isnan(value) else float(value)


def _printable(value: Any) -> Any:
    """The same with printable texts: names of files and classes are the user's."""
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, Mapping):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, (list, tuple)) else value
