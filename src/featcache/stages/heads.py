"""From features to heads: `TrainBag`, and all bags at once where there are workers: `TrainHeads`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from featcache.core.formatting import pluralize
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress, Silent
from featcache.core.rows import is_several, masked_labels
from featcache.errors import FeatcacheError
from featcache.features import Device, find_device, processor
from featcache.project import LOG_NAME, Project, fold_digests, split_features
from featcache.settings import KERAS
from featcache.stages.pseudo_labels import pseudo_labels
from featcache.stages.workers.client import connect
from featcache.stages.workers.job_queue import train_on_workers
from featcache.stages.workers.worker import Job
from featcache.training import (
    BY_GROUP,
    LDA,
    LINEAR,
    PATHS,
    PSEUDO,
    Examples,
    Features,
    HeadInput,
    HeadPlan,
    MakeEngine,
    Partition,
    Predictions,
    TrainedBag,
    assign_folds,
    by_folds,
    by_groups,
    curves_record,
    fit_input,
    fold_notices,
    judge_parts,
    normalizes,
    resolve_heads,
    save_bag,
    stored_rows,
    table_parts,
    train_heads,
    train_lda,
    train_linear,
)

_Seen = tuple[HeadInput, list[npt.NDArray[Any]]]
_kept: WeakKeyDictionary[Project, tuple[object, _Seen]] = WeakKeyDictionary()


def train_bag(project: Project, name: str, shape: str, progress: Progress) -> str:
    """Train the heads of one input and head type, folds x seeds, and store them with their out-of-fold predictions.

    Raises:
        CacheFormatError: features are damaged: heads would learn them, and look complete.
        TrainingError: the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted.
    """
    begun, spec, artifact = time.perf_counter(), project.settings.heads, project.bag(name, shape)
    bag, out_of_fold, parts, device = trained_bag(project, name, shape, progress)
    labels, names, folds = out_of_fold.labels, out_of_fold.class_names, np.asarray(out_of_fold.folds)
    record = {**artifact.record_header(project.run), "seconds": round(time.perf_counter() - begun, 3)}
    record |= {"device": device.name, "notices": fold_notices(folds, labels, names, spec.folds)}
    record |= {"tap": name, "shape": shape} | ({"curves": curves_record(bag)} if shape not in PATHS else {})
    save_bag(bag, artifact.path.parent, record, out_of_fold)
    if all(project.bag(*each).is_complete() for each in project.bags() if each[0] == name):
        _kept.pop(project, None)  # of many rows, gigabytes of disk
    path_unit = {LINEAR: "strength", LDA: "shrinkage"}.get(shape)
    steps = pluralize(len(bag.history.loss), path_unit) if path_unit else pluralize(bag.plan.epochs, "epoch")
    units = pluralize(len(parts.numbers), "group" if parts.by_group else "fold")
    known = out_of_fold.scored()
    means = ((rows, table.mean(axis=0)) for rows, table in table_parts(known.probabilities))  # over the bag's members
    scores = judge_parts(means, known.labels).scores()
    result = f"out of fold: accuracy {scores.accuracy:.4f}, log-loss {scores.log_loss:.4f}"
    return f"{name}/{shape}: {pluralize(len(bag.seeds), 'seed')} x {units}, {steps} · {result}"


def trained_bag(
    project: Project, name: str, shape: str, progress: Progress
) -> tuple[TrainedBag, Predictions, Partition, Device]:
    """Train the heads of one input and head type; return them, their out-of-fold predictions, parts and place."""
    spec = project.settings.heads
    numbers = (*project.views, *range(1, project.settings.features.copies + 1))
    found = [split_features(project, "train", copy) for copy in numbers]
    plain, usable = found[0].reader, np.logical_and.reduce([each.usable for each in found])
    labels, names = masked_labels(plain.labels, usable), plain.class_names
    folds = assign_folds(
        labels, plain.groups, spec.folds, class_names=names, digests=fold_digests(project, plain.digest_column)
    )
    parts = by_groups(plain.groups, usable, folds) if shape.endswith(BY_GROUP) else by_folds(folds, usable)
    seen_as, copies = _seen_rows(project, name, numbers, [each.features for each in found], usable)
    dealt = replace(spec, folds=int(folds.max()) + 1)
    groups = len({*plain.groups} - {""})
    sizes = sum(seen_as.widths), int(usable.sum()), len(names), groups, len(found)
    plan = resolve_heads(dealt, shape, *sizes, several=is_several(labels))
    pseudo = pseudo_labels(project, seen_as, parts) if shape.endswith(PSEUDO) else None
    examples = Examples(seen_as, copies, plain.labels, parts, pseudo, views=len(project.views))
    bag, device = _trained(project, shape, examples, plan, progress, name)
    members = tuple(f"{name}/{shape}/seed{seed}" for seed in bag.seeds)
    rows_key = project.splits()["train"]["key"]
    out_of_fold = Predictions(plain.ids, labels, members, bag.out_of_fold, names, folds, rows_key=rows_key)
    return bag, out_of_fold, parts, device


def _seen_rows(
    project: Project, name: str, copies: Sequence[int], features: Sequence[Features], usable: npt.NDArray[np.bool_]
) -> _Seen:
    """How an input's features become what heads see, and the rows so; kept for the next type of heads on the same files."""
    spec, taps = project.settings.heads, project.inputs()[name]
    files = [backbone.cache("train", copy).path.stat() for backbone in project.backbones for copy in copies]
    key = (name, normalizes(spec), *((file.st_ino, file.st_mtime_ns) for file in files))
    if _kept.get(project, (None,))[0] != key:
        _kept.pop(project, None)  # before the next is made: one fits into memory
        backbones = [backbone.label for tap in taps for backbone in project.backbones if backbone.owns(tap)]
        seen_as = fit_input(taps, features, usable, normalise=normalizes(spec), backbones=backbones)
        _kept[project] = key, (seen_as, [stored_rows(seen_as, each, project.folder) for each in features])
    return _kept[project][1]


def _trained(
    project: Project, shape: str, examples: Examples, plan: HeadPlan, progress: Progress, name: str
) -> tuple[TrainedBag, Device]:
    """Train a bag of that head type; Keras is imported only where its engine is asked for. Also return where it was trained."""
    title = f"{name}: {shape}"
    if shape in PATHS:
        train = train_linear if shape == LINEAR else train_lda
        return train(examples, plan, progress, title, project.folder), processor()
    seeds = range(project.settings.heads.seeds)
    if project.settings.heads.engine == KERAS:
        try:
            engine, device = _keras_engine(project)
            return train_heads(examples, plan, seeds, progress, title, engine, project.folder), device
        except FeatcacheError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a framework raises: no ptxas, no memory, no GPU
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            progress.notice(f"[Heads] engine=keras failed for {name}/{shape} ({why}): NumPy trains it on the processor")
    return train_heads(examples, plan, seeds, progress, title, None, project.folder), processor()


def _keras_engine(project: Project) -> tuple[MakeEngine, Device]:
    """Keras' engine and the GPU that it trains on; a `RuntimeError` where there is none."""
    import_keras(project.folder / LOG_NAME)
    from featcache.training import KerasEngine, accelerated

    device = find_device()
    if not accelerated():
        raise RuntimeError(device.problem or "Keras sees no GPU")
    return KerasEngine, device


def train_bags(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Train the bags that aren't complete, one after the other or by workers a job each; a second round after the first.

    With `fresh`, complete bags are trained too, unless this run of the program trained them.

    Raises:
        ClusterError: there are no workers, they don't fit, or they die.
        TrainingError, StorageError: as `train_bag`.
    """
    cluster, run = connect(project), project.run if fresh else None
    todo = [bag for bag in project.bags() if not project.bag(*bag).is_complete(run)]
    todo.sort(key=lambda bag: bag[1].endswith(PSEUDO))
    if cluster is None:
        return " · ".join(train_bag(project, *bag, progress) for bag in todo) or "every bag is trained"
    for second in (False, True):
        bags = [bag for bag in todo if bag[1].endswith(PSEUDO) == second]
        jobs = [Job(f"bag {tap}/{shape}", train_bag, (tap, shape, Silent())) for tap, shape in bags]
        if jobs:
            train_on_workers(cluster, project, "bags of heads", "bags", jobs, progress)
    return f"{len(todo)} bags · {cluster.summary()}"
