"""Training a bag of heads side by side: NumPy on processors, Keras on an accelerator.

On processors the heads are dealt out to groups, and each core takes one group after the other through an epoch. Which
heads share a group changes no bit of any of them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featcache.core.progress import Progress
from featcache.core.system import core_numbers
from featcache.errors import TrainingError
from featcache.settings import rates
from featcache.training.heads.bag import HeadId, History, TrainedBag
from featcache.training.heads.batches import Batch, Batches, HeadStream
from featcache.training.heads.evaluation import HeadEvaluator
from featcache.training.heads.examples import Examples
from featcache.training.heads.forward import Float32s, Weights, recompute_statistics
from featcache.training.heads.numpy_engine import NumpyEngine
from featcache.training.heads.presets import HeadPlan

_GROUP_VALUES = 5 << 18  # inputs of a step that a group of heads holds: 5 MB; larger groups wait less for each other


class TrainingEngine(Protocol):
    """Takes the steps of some heads: `NumpyEngine` or `featcache.training.heads.keras_engine.KerasEngine`."""

    @property
    def weights(self) -> Weights:
        """The heads' weights as they are now, (g, ...) each."""

    def train_step(self, batch: Batch, rate: float) -> Float32s:
        """Take one step; return (2, g), each head's loss and accuracy before it."""


MakeEngine = Callable[[HeadPlan, Weights], TrainingEngine]


def train_heads(
    examples: Examples,
    plan: HeadPlan,
    seeds: Sequence[int],
    progress: Progress,
    name: str = "heads",
    accelerator: MakeEngine | None = None,
    scratch: Path | None = None,
) -> TrainedBag:
    """Train one head for each seed, a member, and part, all side by side.

    Args:
        examples: the training rows and which of them each part is trained and scored on.
        plan: from `featcache.training.heads.presets.resolve_heads`.
        seeds: one member each.
        progress: counts epochs, under `name`.
        name: what `progress` calls it.
        accelerator: `featcache.training.heads.keras_engine.KerasEngine` to train all heads at once in Keras; None:
            NumPy on all cores.
        scratch: the folder for a file without a name that holds large out-of-fold probabilities; None: memory.

    Raises:
        TrainingError: examples and plan don't fit together, or weights became NaN or infinite.
        StorageError: there is no room in `scratch`.
    """
    examples.check(plan)
    heads = tuple(HeadId(int(seed), part) for seed in seeds for part in examples.parts.numbers)
    evaluator = HeadEvaluator(examples, len(plan.hidden))
    threads = 1 if accelerator else len(core_numbers())
    groups = _groups(examples, plan, heads, threads, accelerator or NumpyEngine)
    progress.start(name, plan.epochs, "epochs")
    try:
        history = _epochs(groups, plan, evaluator, threads, progress)
    finally:
        progress.finish()
    trained = [head for group in groups for head in group.take()]
    weights = {name: np.stack([head.pop(name) for head in trained]) for name in list(trained[0])}  # frees as it goes
    if not all(np.isfinite(head).all() for array in weights.values() for head in array):
        schedule = ", ".join(map(str, plan.schedule))
        raise TrainingError(f"the weights became NaN or infinite in training with {schedule}: lower [Heads] schedule")
    if plan.recompute_statistics:
        rows = {part: examples.parts.trained(part) for part in examples.parts.numbers}
        recompute_statistics(weights, examples.copies, [rows[head.fold] for head in heads], len(plan.hidden))
    seen_classes = np.tile(examples.seen_classes(plan.classes), (len(seeds), 1))
    out_of_fold = evaluator.out_of_fold(weights, heads, seen_classes, scratch)
    if plan.tempered:
        evaluator.temper(weights, heads, out_of_fold)
        out_of_fold = evaluator.out_of_fold(weights, heads, seen_classes, scratch)
    return TrainedBag(plan, examples.seen_as, heads, weights, seen_classes, history, out_of_fold)


class _Group:
    """Some heads of a bag, trained by one engine."""

    def __init__(self, examples: Examples, plan: HeadPlan, heads: Sequence[HeadId], make: MakeEngine) -> None:
        streams = [HeadStream(head, examples.count(head.fold)) for head in heads]
        self.heads, self._plan = heads, plan
        self._batches = Batches(examples, heads, streams, plan)
        self._engine = make(plan, initial_weights(plan, streams))
        self._best: list[Weights | None] = [None] * len(heads)

    def epoch(self, number: int, evaluator: HeadEvaluator) -> tuple[Float32s, list[Any], list[Any]]:
        """Train one epoch; return (2, g) loss and accuracy in training, and what each head's `evaluator.scores` are."""
        paces, engine = rates(self._plan.schedule, number, self._batches.steps), self._engine
        with np.errstate(all="ignore"):  # weights that become infinite are reported at the end, once
            steps = [engine.train_step(batch, rate) for batch, rate in zip(self._batches.epoch(), paces, strict=True)]
            separate = _separate(engine.weights)
            scores = [evaluator.scores(weights, head) for weights, head in zip(separate, self.heads, strict=True)]
        return np.mean(steps, axis=0), [score for score, _ in scores], [losses for _, losses in scores]

    def remember(self, parts: set[int]) -> None:
        """Copy the weights that heads of `parts` have now: their best."""
        if not parts.isdisjoint(head.fold for head in self.heads):
            for place, weights in enumerate(_separate(self._engine.weights)):
                if self.heads[place].fold in parts:
                    self._best[place] = {name: array.copy() for name, array in weights.items()}

    def take(self) -> list[Weights]:
        """Each head's remembered weights, or its last ones; the group is done and frees its memory."""
        last = _separate(self._engine.weights)
        taken = [own if best is None else best for best, own in zip(self._best, last, strict=True)]
        del self._engine, self._best
        return taken


def _separate(weights: Weights) -> list[Weights]:
    """Each head's weights, as views."""
    return [{name: array[place] for name, array in weights.items()} for place in range(len(weights["kernel_0"]))]


def _groups(
    examples: Examples, plan: HeadPlan, heads: Sequence[HeadId], threads: int, make: MakeEngine
) -> list[_Group]:
    """Deal the heads out in order, to about as many on each core, and to few enough to stay near it."""
    size = len(heads)
    if make is NumpyEngine:
        size = max(1, min(_GROUP_VALUES // (plan.batch_size * max(plan.features, *plan.hidden, 1)), size))
        size = -(-len(heads) // (threads * -(-len(heads) // (threads * size))))
    parts = [heads[first : first + size] for first in range(0, len(heads), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda some: _Group(examples, plan, some, make), parts))


def initial_weights(plan: HeadPlan, streams: Sequence[HeadStream]) -> Weights:
    """The initial weights of Keras' Dense and BatchNormalization, drawn from each head's stream."""
    weights: Weights = {}
    widths = (plan.features, *plan.hidden, plan.classes)
    for layer, (before, after) in enumerate(pairwise(widths)):
        weights[f"kernel_{layer}"] = np.stack([stream.kernel(before, after) for stream in streams])
        fills = {"bias": 0, "gamma": 1, "beta": 0, "mean": 0, "variance": 1}
        for name, fill in fills.items() if layer < len(plan.hidden) else [("bias", 0)]:
            weights[f"{name}_{layer}"] = np.full((len(streams), after), fill, np.float32)
    return weights


def _epochs(
    groups: list[_Group], plan: HeadPlan, evaluator: HeadEvaluator, threads: int, progress: Progress
) -> History:
    """Train epoch by epoch; every group copies its heads' weights where they are the best yet."""
    from threadpoolctl import threadpool_limits

    columns, table = [], []
    best: dict[int, int] = {}
    one_each = threadpool_limits(1 if threads > 1 else None, user_api="blas")  # no matrix product takes all cores
    with one_each, ThreadPoolExecutor(threads) as pool:
        for epoch in range(plan.epochs):
            done = list(pool.map(lambda group: group.epoch(epoch, evaluator), groups))  # noqa: B023  # used up at once
            table.append(np.sum([losses for *_, each in done for losses in each], axis=0))
            trained = np.concatenate([loss for loss, *_ in done], axis=1)
            evaluated = np.array([score for _, each, _ in done for score in each]).T
            columns.append(np.concatenate([trained, evaluated]))
            progress.advance(1, f"loss {columns[-1][0].mean():.3f}, out of fold {columns[-1][4].mean():.3f}")
            if plan.keep_best:
                before, best = best, evaluator.best_epochs(np.array(table))
                better = {part for part, number in best.items() if before.get(part) != number}
                for group in groups:
                    group.remember(better)
                if plan.early_stop and epoch - max(best.values()) >= plan.early_stop:
                    break
    chosen = [best.get(head.fold, len(table) - 1) for group in groups for head in group.heads]
    loss, accuracy, seen_loss, seen_accuracy, fold_loss, fold_accuracy = np.stack(columns, axis=1).astype(np.float32)
    best_epoch = np.array(chosen, np.int32)
    return History(loss, accuracy, seen_loss, seen_accuracy, fold_loss, fold_accuracy, best_epoch)
