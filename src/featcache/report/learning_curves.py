"""The learning curves of bags and small CNNs, and what they come to, as the report shows them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from featcache.project import Project
from featcache.training import OVERFITS, SOUND, UNDERFITS, CurveDiagnosis, diagnose, suggestions

_SAID = {OVERFITS: "overfits", UNDERFITS: "learns too little", SOUND: "sound"}


def learning_curves(project: Project) -> list[dict[str, Any]]:
    """Return the curves of everything that was trained in epochs, as JSON-able values, bags first.

    Returns:
        ``name``; ``train``, ``fold``: loss after each epoch, means over heads; ``kept``, ``parted``, ``lowest``: epochs from 1; ``parted``
        is None where curves don't part, ``lowest`` that of the lowest loss out of fold; ``verdict``: `OVERFITS`, `UNDERFITS` or `SOUND`; ``said``: in words; ``remedies``: what
        is at hand, name and flags each; ``augmented``: whether the training loss is of changed images, with dropout.
    """
    bags = [project.bag(*bag).record() or {} for bag in project.bags()]
    found = [_bag(project, record) for record in bags if "curves" in record]
    classes = len((project.listed() or {}).get("class_names", ()))
    records: list[Mapping[str, Any]] = [artifact.record() or {} for artifact in project.convnets()]
    members = [record.get("history") for record in records]
    return found + [_convnet(f"convnet/seed{seed}", classes, each) for seed, each in enumerate(members) if each]


def _bag(project: Project, record: Mapping[str, Any]) -> dict[str, Any]:
    curves = record["curves"]
    verdict = diagnose(np.array(curves["seen_loss"]), np.array(curves["fold_loss"]), curves["classes"], curves["kept"])
    found = suggestions(verdict.kind, project.settings.features, record["tap"], curves["hidden"], curves["dropout"])
    name = f"{record['tap']}/{record['shape']}"
    return _summary_line(name, curves["seen_loss"], curves["fold_loss"], verdict, found, augmented=False)


def _convnet(name: str, classes: int, folds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    train, fold = (np.mean([history[what] for history in folds.values()], axis=0) for what in ("loss", "fold_loss"))
    verdict = diagnose(train, fold, classes)
    return _summary_line(name, train.round(5).tolist(), fold.round(5).tolist(), verdict, [], augmented=True)


def _summary_line(
    name: str,
    train: list[float],
    fold: list[float],
    verdict: CurveDiagnosis,
    found: list[tuple[str, str]],
    *,
    augmented: bool,
) -> dict[str, Any]:
    apart = (
        "are apart from the first epoch on"
        if verdict.parted == 1
        else f"part at epoch {verdict.parted} of {verdict.epochs}"
    )
    where = f"the curves {apart if verdict.parted else 'stay together'}"
    losses = f"loss {verdict.train_loss:.3f} in training, {verdict.fold_loss:.3f} out of fold"
    rise = (
        f", {verdict.rise:.3f} above its lowest at the end" if verdict.kind == OVERFITS and verdict.rise > 0.01 else ""
    )
    return {
        "name": name,
        "train": train,
        "fold": fold,
        "kept": verdict.kept,
        "parted": verdict.parted,
        "lowest": 1 + int(np.argmin(fold)),
        "verdict": verdict.kind,
        "said": f"{_SAID[verdict.kind]}: {where}; at the epoch that was kept ({verdict.kept}) {losses}{rise}",
        "remedies": [list(each) for each in found],
        "augmented": augmented,
    }
