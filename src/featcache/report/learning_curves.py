"""The learning curves of bags and convnets, with a diagnosis."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.project import Project
from featcache.training import CurveDiagnosis, diagnose, suggestions


def learning_curves(project: Project) -> list[dict[str, Any]]:
    """Return the curves of everything that was trained in epochs, as JSON-able values, bags first.

    Returns:
        ``name``; ``train``, ``fold``: loss after each epoch, means over heads; ``kept``, ``parted``, ``lowest``: epochs
        from 1, ``parted`` None where the curves don't diverge, ``lowest`` that of the lowest out-of-fold loss;
        ``verdict``: ``overfits``, ``underfits`` or ``sound``; ``summary``: in words; ``suggestions``: name and flags
        each; ``augmented``: whether the training loss is of changed images, with dropout.
    """
    bags = [project.bag(*bag).record() or {} for bag in project.bags()]
    found = [_bag(project, record) for record in bags if "curves" in record]
    classes = len((project.listed() or {}).get("class_names", ()))
    records: list[Mapping[str, Any]] = [artifact.record() or {} for artifact in project.convnets()]
    members = [record.get("history") for record in records]
    return found + [_convnet(f"convnet/seed{seed}", classes, each) for seed, each in enumerate(members) if each]


def _bag(project: Project, record: Mapping[str, Any]) -> dict[str, Any]:
    curves = record["curves"]
    diagnosis = diagnose(curves["seen_loss"], curves["fold_loss"], curves["classes"], curves["kept"])
    hints = suggestions(diagnosis.kind, project.settings.features, record["tap"], curves["hidden"], curves["dropout"])
    name = f"{record['tap']}/{record['shape']}"
    return _record(name, curves["seen_loss"], curves["fold_loss"], diagnosis) | {"suggestions": list(map(list, hints))}


def _convnet(name: str, classes: int, folds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    train, fold = (np.mean([history[what] for history in folds.values()], axis=0) for what in ("loss", "fold_loss"))
    diagnosis = diagnose(train, fold, classes)
    return _record(name, train.round(5).tolist(), fold.round(5).tolist(), diagnosis) | {"augmented": True}


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
