"""What would fail at the end, or half way, and is known before the work: another sample submission, a small disk."""

import math
import shutil
from collections.abc import Mapping

import numpy as np

from featcache.cache import FEATURE_DTYPE, copy_name, partials_of
from featcache.core.rows import masked_labels
from featcache.dataset import Manifest
from featcache.ensemble import check_forms, layout_of, match_ids, read_sample
from featcache.errors import SettingsError, StorageError
from featcache.project import BackboneFeatures, Project, SplitRows, check_usable
from featcache.training import assign_folds, by_groups, check_metric, fold_notices

_STAT_BLOCK = 512  # bytes, whatever the file system's own blocks are


def check_submission(project: Project) -> None:
    """Compare the sample submission's ids and columns with the test images and classes, which only the submission needs.

    Raises:
        SubmissionError: the sample can't be read, names other rows, or it or the settings have other columns; two test
            images have one name, or none is usable.
    """
    listed, path = project.listed(), project.settings.dataset.sample_submission
    if listed and "test" in listed["splits"]:
        rows = Manifest.load(project.folder).splits["test"]
        check_usable(
            SplitRows("test", rows.labels, rows.listed), (), lambda row: f"{rows.ids[row]!r}, {rows.reasons[row]}"
        )
        sample = read_sample(path) if path is not None else None
        check_forms(rows.case_ids, "test images")
        if sample is not None:
            match_ids(rows.case_ids, sample)
        layout_of(
            project.settings.submission,
            listed["class_names"],
            sample,
            project.settings.ensemble.metric,
            several=project.several,
        )


def check_clip(project: Project) -> None:
    """Raise a `SettingsError` for a clip by which no class could be more probable than the others."""
    clip, listed = project.settings.submission.clip, project.listed()
    classes = len(listed["class_names"]) if listed else 0
    if project.several:
        classes = 2  # of each label
    if classes and not isinstance(clip, str) and clip * classes <= 1:
        advice = "give auto, none or a larger number"
        raise SettingsError(f"[Submission] clip={clip!r} is not above 1/{classes} for {classes} classes: {advice}")


def check_heads(project: Project) -> list[str]:
    """Refuse kinds of heads that need rows or groups which the data set doesn't have; return notices about the folds.

    Raises:
        SettingsError: models by group without groups, or labels for test images without test images.
        TrainingError: the rows can't be dealt out to folds, or to models by group.
    """
    heads, manifest = project.settings.heads, Manifest.load(project.folder)
    check_metric(project.settings.ensemble.metric, several=manifest.several)
    train = manifest.splits["train"]
    labels, names = masked_labels(train.labels, train.listed), manifest.class_names
    folds = assign_folds(labels, train.groups, heads.folds, class_names=names, digests=train.digests)
    if heads.per_group and not train.known_groups:
        advice = "set [Dataset] groups = FILE:COLUMN, or per_group = false"
        raise SettingsError(f"[Heads] per_group: the training rows have no groups: {advice}")
    if heads.per_group:
        by_groups(train.groups, train.listed, folds)
    if heads.pseudo_weight and "test" not in project.splits():
        advice = "put images into PATH/test, or set pseudo_weight = 0"
        raise SettingsError(f"[Heads] pseudo_weight: there are no test images to label: {advice}")
    return fold_notices(folds, labels, names, heads.folds)


def check_space(project: Project, backbone: BackboneFeatures, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a `StorageError` if a backbone's caches that are still to be made need more than is free.

    A row of each tap has its one of `shapes`.
    """
    row = np.dtype(FEATURE_DTYPE).itemsize * sum(math.prod(shape) for shape in shapes.values())
    rows = {split: int(facts["rows"]) for split, facts in project.splits().items()}
    mine = [(split, copy) for each, split, copy in project.caches() if each is backbone]
    caches = {cache: backbone.cache(*cache) for cache in mine}
    open_caches = {cache: artifact.path for cache, artifact in caches.items() if not artifact.is_complete()}
    folder = project.all_features().path.parent
    folder.mkdir(parents=True, exist_ok=True)
    partials = [partial for path in open_caches.values() for partial in partials_of(path)]
    reserved = sum(partial.stat().st_blocks * _STAT_BLOCK for partial in partials)
    needed = sum(rows[split] * row for split, _ in open_caches) - reserved
    free = shutil.disk_usage(folder).free
    if needed > free:
        parts = ", ".join(f"{split}{f' {copy_name(copy)}' * bool(copy)}" for split, copy in open_caches)
        raise StorageError(
            f"{folder}: the features of {parts} need {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; make room, "
            "put [Paths] artifacts on another disk, or cache less (LAYER:avg, a smaller image_size, fewer copies)"
        )
