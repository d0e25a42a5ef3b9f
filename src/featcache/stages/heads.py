"""From features to heads: `TrainBag`, and all bags at once where there are workers: `TrainHeads`."""

import time
from dataclasses import replace

import numpy as np

from featcache.cache import Status, checked_cache
from featcache.core.formatting import pluralize
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress, Silent
from featcache.project import LOG_NAME, Project
from featcache.stages.pseudo_labels import pseudo_labels
from featcache.stages.workers.client import connect
from featcache.stages.workers.job_queue import train_on_workers
from featcache.stages.workers.worker import Job
from featcache.training import (
    BY_GROUP,
    LINEAR,
    PSEUDO,
    Examples,
    Predictions,
    assign_folds,
    by_folds,
    by_groups,
    curves_record,
    fold_notices,
    judge_parts,
    resolve_heads,
    table_parts,
    train_heads,
    train_linear,
)


def train_bag(project: Project, tap: str, shape: str, progress: Progress) -> str:
    """Train the heads of one tap and head type, folds x seeds, and store them with their out-of-fold predictions.

    Raises:
        CacheFormatError: features are damaged: heads would learn them, and look complete.
        TrainingError: the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache.training import KerasEngine, accelerated, save_bag

    begun, spec, artifact = time.perf_counter(), project.settings.heads, project.bag(tap, shape)
    copies = range(project.settings.features.copies + 1)
    readers = [checked_cache(project.features("train", copy).path) for copy in copies]
    plain, usable = readers[0], np.logical_and.reduce([reader.status == Status.OK for reader in readers])
    labels, names = np.where(usable, plain.labels, -1), plain.class_names
    folds = assign_folds(labels, plain.groups, spec.folds, class_names=names, digests=plain.digest_column)
    parts = by_groups(plain.groups, usable, folds) if shape.endswith(BY_GROUP) else by_folds(folds, usable)
    width = int(np.prod(plain.taps[tap].shape))
    dealt = replace(spec, folds=int(folds.max()) + 1)
    plan = resolve_heads(dealt, shape, width, int(usable.sum()), len(names), groups=len(parts.numbers))
    pseudo = pseudo_labels(project, tap, parts) if shape.endswith(PSEUDO) else None
    examples, name = Examples([reader[tap] for reader in readers], plain.labels, parts, pseudo), f"{tap}: {shape}"
    if shape == LINEAR:
        bag = train_linear(examples, plan, progress, name, project.folder)
    else:
        accelerator = KerasEngine if accelerated() else None
        bag = train_heads(examples, plan, range(spec.seeds), progress, name, accelerator, project.folder)
    members = tuple(f"{tap}/{shape}/seed{seed}" for seed in bag.seeds)
    rows_key = project.splits()["train"]["key"]
    out_of_fold = Predictions(plain.ids, labels, members, bag.out_of_fold, names, folds, rows_key=rows_key)
    record = {**artifact.record_header(project.run), "seconds": round(time.perf_counter() - begun, 3)}
    record |= {"notices": fold_notices(folds, labels, names, spec.folds)}
    record |= {"tap": tap, "shape": shape} | ({"curves": curves_record(bag)} if shape != LINEAR else {})
    save_bag(bag, artifact.path.parent, record, out_of_fold)
    steps = pluralize(plan.epochs, "epoch") if shape != LINEAR else pluralize(len(bag.history.loss), "strength")
    units = pluralize(len(parts.numbers), "group" if parts.by_group else "fold")
    known = out_of_fold.scored()
    means = ((rows, table.mean(axis=0)) for rows, table in table_parts(known.probabilities))  # over the bag's members
    scores = judge_parts(means, known.labels).scores()
    result = f"out of fold: accuracy {scores.accuracy:.4f}, log-loss {scores.log_loss:.4f}"
    return f"{tap}/{shape}: {pluralize(len(bag.seeds), 'seed')} x {units}, {steps} · {result}"


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
