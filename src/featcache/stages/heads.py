"""From features to heads: `TrainBag`, and all bags at once where there are workers: `TrainHeads`."""

import time

import numpy as np

from featcache.cache import Status, checked_cache
from featcache.core.formatting import pluralize
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress, Silent
from featcache.project import LOG_NAME, Project
from featcache.stages.pseudo_labels import pseudo_labels
from featcache.stages.workers.client import connect, verified_workers
from featcache.stages.workers.job_queue import Job
from featcache.training import (
    BY_GROUP,
    FOLD_SEED,
    LINEAR,
    PSEUDO,
    Examples,
    Predictions,
    Scores,
    assign_folds,
    by_folds,
    by_groups,
    curves_record,
    judge_parts,
    resolve_heads,
    table_parts,
    train_heads,
    train_linear,
)


def train_bag(project: Project, tap: str, shape: str, progress: Progress) -> str:
    """Train the heads of one tap and shape, folds x seeds, and keep them with their out-of-fold predictions.

    Raises:
        CacheFormatError: features aren't what was written: heads would learn them, and look complete.
        TrainingError: the rows can't be dealt out to folds, or training went wrong.
        StorageError: the disk is full, read-only or not permitted.
    """
    import_keras(project.folder / LOG_NAME)
    from featcache.training import KerasEngine, accelerated, save_bag

    begun, spec = time.perf_counter(), project.settings.heads
    copies = range(project.settings.features.copies + 1)
    readers = [checked_cache(project.features("train", copy).path) for copy in copies]
    plain = readers[0]
    usable = np.logical_and.reduce([reader.status == Status.OK for reader in readers])
    labels, names = np.where(usable, plain.labels, -1), plain.class_names
    folds = assign_folds(labels, plain.groups, spec.folds, FOLD_SEED, names, plain.digest_column)
    parts = by_groups(plain.groups, usable) if shape.endswith(BY_GROUP) else by_folds(folds, usable)
    width, rows = int(np.prod(plain.taps[tap].shape)), int(usable.sum())
    plan = resolve_heads(spec, shape, width, rows, len(names), groups=len(parts.numbers))
    pseudo = pseudo_labels(project, tap, parts) if shape.endswith(PSEUDO) else None
    examples = Examples([reader[tap] for reader in readers], plain.labels, parts, pseudo)
    if shape == LINEAR:
        bag = train_linear(examples, plan, progress, f"{tap}: {shape}", project.folder)
    else:
        accelerator = KerasEngine if accelerated() else None
        seeds, name, folder = range(spec.seeds), f"{tap}: {shape}", project.folder
        bag = train_heads(examples, plan, seeds, progress, name, accelerator, folder)
    artifact = project.bag(tap, shape)
    members = tuple(f"{tap}/{shape}/seed{seed}" for seed in bag.seeds)
    rows_key = project.splits()["train"]["key"]
    out_of_fold = Predictions(plain.ids, labels, members, bag.out_of_fold, names, folds, rows_key=rows_key)
    record = {**artifact.record_header(project.run), "seconds": round(time.perf_counter() - begun, 3)}
    record |= {"tap": tap, "shape": shape} | ({"curves": curves_record(bag)} if shape != LINEAR else {})
    save_bag(bag, artifact.path.parent, record, out_of_fold)
    score = _mean_scores(out_of_fold.scored())
    steps = pluralize(plan.epochs, "epoch") if shape != LINEAR else pluralize(len(bag.history.loss), "strength")
    what = pluralize(len(parts.numbers), "group" if parts.by_group else "fold")
    heads_of = f"{tap}/{shape}: {pluralize(len(bag.seeds), 'seed')} x {what}, {steps}"
    return f"{heads_of} · out of fold: accuracy {score.accuracy:.4f}, log-loss {score.log_loss:.4f}"


def _mean_scores(known: Predictions) -> Scores:
    """Scores of the mean over the bag's members."""
    told = ((rows, said.mean(axis=0)) for rows, said in table_parts(known.probabilities))
    return judge_parts(told, known.labels).scores()


def train_bags(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Train the bags that aren't complete: here one after the other, or by workers a job each; a second round after the first.

    Args:
        project: whose bags.
        progress: counts bags.
        fresh: train those again that are complete, unless this run of the program trained them.

    Raises:
        ClusterError: workers can't be had, don't fit, or die.
        TrainingError, StorageError: as `train_bag`.
    """
    cluster, run = connect(project), project.run if fresh else None
    todo = [bag for bag in project.bags() if not project.bag(*bag).is_complete(run)]
    todo.sort(key=lambda bag: bag[1].endswith(PSEUDO))
    if cluster is None:
        told = [train_bag(project, tap, shape, progress) for tap, shape in todo]
        return " · ".join(told) or "every bag is trained"
    progress.start("bags of heads", len(todo), "bags")
    try:
        with verified_workers(cluster, project, weights=False) as terms:
            for second in (False, True):
                jobs = [Job(f"bag {tap}/{shape}", train_bag_on_worker, (tap, shape)) for tap, shape in todo
                        if shape.endswith(PSEUDO) == second]  # fmt: skip
                for _, said in cluster.run(terms, jobs, progress, one_each=True):
                    progress.advance(1, said)
    finally:
        progress.finish()
    return f"{len(todo)} bags · {cluster.summary()}"


def train_bag_on_worker(project: Project, tap: str, shape: str) -> str:
    """Train a bag on a worker, whose artifacts folder is that of all."""
    return train_bag(project, tap, shape, Silent())
