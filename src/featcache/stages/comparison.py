"""Which backbones are worth their hours, by some of the training rows: `CompareBackbones`."""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import open_cache
from featcache.core.json_records import write_json
from featcache.core.names import first_names
from featcache.core.progress import Progress
from featcache.core.rows import Rows, is_several
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble, select_ensemble
from featcache.errors import SettingsError
from featcache.project import Project, comparison_artifact, comparison_project
from featcache.settings import FeaturesSpec
from featcache.stages.features import extract_split, resolve_features
from featcache.stages.heads import trained_bag
from featcache.training import Predictions, by_case, joined_members

_SEED = 0
_LEAST = 5  # rows of a class, if it has them: as many as there are folds by default
_TEXTS = ("ids", "groups", "digests", "reasons", "locations", "cases")


def compare_backbones(project: Project, progress: Progress) -> str:
    """Extract some training rows by each backbone of [Compare], train heads on them, and record what each is worth.

    Backbones are ranked by their own nested log-loss. From the best on, each is added to those that were worth it before,
    and is worth it where the nested log-loss of all of them side by side falls.

    Raises:
        SettingsError: [Compare] names no backbones.
        WeightsError: the weights of one can't be had; it is named.
        StorageError: the disk is full, read-only or not permitted.
        TrainingError: the rows can't be dealt out to folds.
    """
    specs = project.settings.compare.backbones
    if not specs:
        example = "--Compare-backbones vgg16,resnet50,efficientnetv2b0"
        raise SettingsError(f"[Compare] backbones='' names none: name what to compare, e.g. {example}")
    manifest = Manifest.load(project.folder)
    rows = some_rows(manifest.splits["train"], project.settings.compare.rows)
    part = Manifest(manifest.class_names, {"train": rows}, manifest.settings)
    part.save(comparison_project(project, specs).folder, {"run": project.run})
    whole = comparison_project(project, specs)
    resolve_features(whole, progress)
    extract_split(whole, "train", progress)
    entries = _ranked(project, whole, progress)
    kept = [entry["backbone"] for entry in entries if entry["kept"]]
    artifact, named = comparison_artifact(project), {spec.label: spec for spec in specs}
    setting = ", ".join(f"{named[label].backbone}@{named[label].image_size}" for label in kept)
    record = {**artifact.record_header(project.run), "rows": len(rows), "entries": entries, "setting": setting}
    write_json(artifact.path, record)
    return f"{len(specs)} backbones on {len(rows):,} rows: {first_names(kept, 6, str)}"


def some_rows(rows: Rows, count: int) -> Rows:
    """Return about `count` of the rows that listing found nothing wrong with: of every class its share; whole cases."""
    listed = np.flatnonzero(rows.listed)
    if len(listed) <= count:
        chosen = listed
    else:
        cases = np.asarray(rows.cases if len(rows.cases) else rows.ids, object)[listed]
        first, units = np.unique(cases.astype(str), return_index=True, return_inverse=True)[1:]
        labels, draw = rows.labels[listed][first], np.random.default_rng(_SEED)
        order = draw.permutation(len(first))
        order = order[
            np.argsort(_places(_classes(labels)[order]), kind="stable")
        ]  # the n-th parts of all classes together
        taken = np.isin(units, order[: max(1, round(count * len(first) / len(listed)))])
        chosen = listed[taken]
    texts = {name: [getattr(rows, name)[row] for row in chosen.tolist()] for name in _TEXTS if len(getattr(rows, name))}
    return Rows(labels=rows.labels[chosen], **texts)


def _classes(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """(n,) classes; of several labels a row its rarest one, and of rows without any a class by itself."""
    if not is_several(labels):
        return labels
    rare = np.argsort(labels.sum(axis=0), kind="stable")
    return np.asarray(np.where(labels.any(axis=1), rare[labels[:, rare].argmax(axis=1)], labels.shape[1]))


def _places(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """(n,) each row's rank among those of its class, scaled to 1; 0 for the first ones, which no class can do without."""
    places = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        places[mine] = np.arange(1, len(mine) + 1) / len(mine)
        places[mine[:_LEAST]] = 0
    return places


def _ranked(project: Project, whole: Project, progress: Progress) -> list[dict[str, Any]]:
    """An entry for each backbone, the best first."""
    alone = {}
    for backbone in whole.backbones:
        part = comparison_project(project, [backbone.spec])
        alone[backbone.spec.label] = part, _built(part, progress)
    entries: list[dict[str, Any]] = []
    kept: list[FeaturesSpec] = []
    best = float("inf")
    for label, (part, built) in sorted(alone.items(), key=lambda each: each[1][1].scores.log_loss):
        spec, scores = part.settings.features, built.scores
        joint = _built(comparison_project(project, [*kept, spec]), progress).scores if kept else scores
        worth = joint.log_loss < best
        entries.append(
            {
                "backbone": label,
                "accuracy": scores.accuracy,
                "log_loss": scores.log_loss,
                "interval": asdict(built.interval),
                **_costs(project, part),
                "joint_log_loss": joint.log_loss,
                "adds": best - joint.log_loss if kept else None,
                "kept": worth,
            }
        )
        if worth:
            best, kept = joint.log_loss, [*kept, spec]
    return entries


def _built(part: Project, progress: Progress) -> Ensemble:
    """The ensemble of the heads that a run with these backbones would train."""
    found: list[Predictions] = [trained_bag(part, *bag, progress)[1] for bag in part.bags()]
    rows = Manifest.load(part.folder).splits["train"]
    known = by_case(joined_members(found), rows.cases, part.folder)
    return select_ensemble(known, part.settings.ensemble.method)


def _costs(project: Project, part: Project) -> dict[str, Any]:
    """Images a second, bytes a row and hours for all images; None where the rows were cached before."""
    runs = [open_cache(backbone.cache("train", copy).path) for backbone, _, copy in part.caches()]
    rates = [float(reader.run["images_per_second"]) for reader in runs if reader.run.get("images_per_second")]
    images = sum(facts["rows"] for facts in project.splits().values())
    copies = project.settings.features.copies * project.splits()["train"]["rows"]
    passes = images * len(project.views) + copies
    rate = min(rates, default=None)
    return {
        "images_per_second": rate,
        "row_bytes": sum(tap.row_bytes for tap in runs[0].taps.values()),
        "hours": passes / rate / 3600 if rate else None,
    }
