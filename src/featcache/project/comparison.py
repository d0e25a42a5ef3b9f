"""A comparison of backbones: a project of some training rows in a folder of its own, and its record."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from featcache.project.artifact import Artifact, key_of
from featcache.project.project import COMPARE, ENSEMBLE_VERSION, Project
from featcache.settings import IGNORE, FeaturesSpec, backbone_settings
from featcache.training import first_round, head_type_settings

COMPARE_VERSION = 2  # raised when the same settings and rows would give other values than before


def comparison_project(project: Project, specs: Sequence[FeaturesSpec]) -> Project:
    """Return the project of a comparison, with backbones by these specs and the rows that were last saved there."""
    heads = replace(project.settings.heads, per_group=False, pseudo_weight=0.0)
    dataset = replace(project.settings.dataset, name=COMPARE, near_duplicates=IGNORE)
    settings = replace(project.settings, artifacts=project.folder, dataset=dataset, heads=heads)
    return Project(replace(settings, features=specs[0], others=tuple(specs[1:]))).as_stored()


def comparison_artifact(project: Project) -> Artifact:
    """The record of the comparison that [Compare] asks for."""
    spec, heads = project.settings.compare, project.settings.heads
    inputs = {
        "version": COMPARE_VERSION,
        "settings": {
            "Compare": {
                "backbones": [[each.label, each.weights, backbone_settings(each)] for each in spec.backbones],
                "rows": spec.rows,
            },
            "Heads": {kind: head_type_settings(heads, kind) for kind in first_round(heads, several=project.several)},
            "Ensemble": {**asdict(project.settings.ensemble), "version": ENSEMBLE_VERSION},
        },
        "upstream": {"IndexImages": project.splits().get("train", {}).get("key")},
    }
    return Artifact(project.folder / COMPARE / "compare.json", key_of(inputs), inputs)
