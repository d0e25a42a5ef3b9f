"""The learning curves of bags and convnets, with a diagnosis."""

from typing import Any

import numpy as np

from featcache.project import Project
from featcache.training import CurveDiagnosis, diagnose, suggestions


def learning_curves(project: Project) -> list[dict[str, Any]]:
    """Return the curves of everything that was trained in epochs, as JSON-able values, bags first.

    Returns:
        ``name``; ``train``, ``fold``: loss after each epoch, means over heads; ``kept``, ``parted``, ``lowest``: epochs
        from 1, ``parted`` None where the curves don't diverge, ``lowest`` that of the lowest out-of-fold loss;
        ``verdict``: ``overfits``, ``diverges``, ``underfits`` or ``sound``; ``summary``: in words; ``suggestions``: name and flags
        each; ``augmented``: whether the training loss is of changed images, with dropout.
    """
    found = []
    for record in (project.bag(*bag).record() or {} for bag in project.bags()):
        if "curves" in record:
            curves: Any = record["curves"]
            tap = str(record["tap"])
            diagnosis = diagnose(curves["seen_loss"], curves["fold_loss"], curves["classes"], curves["kept"])
            hints = suggestions(diagnosis.kind, project.settings.features, tap, curves["hidden"], curves["dropout"])
            one = _record(f"{tap}/{record['shape']}", curves["seen_loss"], curves["fold_loss"], diagnosis)
            found.append(one | {"suggestions": list(map(list, hints))})
    classes = len((project.listed() or {}).get("class_names", ()))
    for seed, artifact in enumerate(project.convnets()):
        folds: Any = (artifact.record() or {}).get("history")
        if folds:
            train, fold = (np.mean([each[what] for each in folds.values()], axis=0) for what in ("loss", "fold_loss"))
            diagnosis = diagnose(train, fold, classes)
            one = _record(f"convnet/seed{seed}", train.round(5).tolist(), fold.round(5).tolist(), diagnosis)
            found.append(one | {"augmented": True})
    return found


def _record(name: str, train: list[float], fold: list[float], diagnosis: CurveDiagnosis) -> dict[str, Any]:
    return {
        "name": name,
        "train": train,
        "fold": fold,
        "kept": diagnosis.kept,
        "parted": diagnosis.parted,
        "lowest": 1 + int(np.argmin(fold)),
        "verdict": diagnosis.kind,
        "summary": diagnosis.summary,
        "suggestions": [],
        "augmented": False,
    }
