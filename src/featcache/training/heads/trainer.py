"""Training a bag of heads side by side: NumPy on processors, Keras on an accelerator.

On processors the heads are dealt out to groups, and each core takes one group after the other through an epoch. Which
heads share a group changes no bit of any of them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from featcache.core.progress import Progress
from featcache.core.scratch_arrays import fits
from featcache.core.system import core_numbers
from featcache.errors import TrainingError
from featcache.settings import rates
from featcache.training.heads.bag import Float32s, HeadId, History, TrainedBag, Weights, recompute_statistics
from featcache.training.heads.batches import Batch, Batches, Examples, HeadStream, input_statistics
from featcache.training.heads.evaluation import EpochScores, HeadEvaluator
from featcache.training.heads.numpy_engine import NumpyEngine
from featcache.training.heads.presets import HeadPlan

_GROUP_VALUES = 5 << 18  # inputs of a step that a group of heads holds: 5 MB; larger groups wait less for each other


class TrainingEngine(Protocol):
    """What takes the steps of some heads: `featcache.training.heads.numpy_engine.NumpyEngine` or `featcache.training.heads.keras_engine.KerasEngine`."""

    @property
    def weights(self) -> Weights:
        """The heads' weights as they are now, (g, ...) each."""

    def train_step(self, batch: Batch, rate: float) -> Float32s:
        """Take one step; return (2, g), each head's loss and accuracy before it."""


MakeEngine = Callable[[HeadPlan, Sequence[HeadId], Weights], TrainingEngine]


def train_heads(
    examples: Examples,
    plan: HeadPlan,
    seeds: Sequence[int],
    progress: Progress,
    name: str = "heads",
    accelerator: MakeEngine | None = None,
    scratch: Path | None = None,
) -> TrainedBag:
    """Train one head for each seed and part, all side by side.

    Args:
        examples: the training rows and which of them each part is trained and scored on.
        plan: from `featcache.training.heads.presets.resolve_heads`.
        seeds: one member each.
        progress: counts epochs.
        name: what `progress` calls it.
        accelerator: `featcache.training.heads.keras_engine.KerasEngine` to train all heads at once in Keras; None: NumPy on all cores.
        scratch: the folder in which out-of-fold probabilities of more than
            `featcache.core.scratch_arrays.MEMORY_BYTES` stand, as a
            file without a name; None: in memory.

    Raises:
        TrainingError: what doesn't fit together, or weights that became NaN or infinite.
        StorageError: there is no room in `scratch`.
    """
    examples.check(plan)
    heads = tuple(HeadId(int(seed), part) for seed in seeds for part in examples.parts.numbers)
    small = fits((len(seeds), len(examples.labels), plan.classes), np.float32)  # larger, it is rather said once more
    judge = HeadEvaluator(examples, len(plan.hidden), remember=small and not plan.recompute_statistics)
    threads = 1 if accelerator else len(core_numbers())
    groups = _groups(examples, plan, heads, threads, accelerator or NumpyEngine)
    progress.start(name, plan.epochs, "epochs")
    try:
        history = _epochs(groups, plan, judge, threads, progress)
    finally:
        progress.finish()
    trained = [head for group in groups for head in group.take()]
    weights, said = _join([head for head, _ in trained]), [scores.said for _, scores in trained]
    _check_finite(weights, plan)
    if plan.recompute_statistics:
        recompute_statistics(weights, examples.copies, heads, examples.parts, len(plan.hidden))
    knows = judge.knows(heads, plan.classes)
    out_of_fold = judge.out_of_fold(weights, heads, knows, said, scratch)
    return TrainedBag(plan, tuple(examples.copies[0].shape[1:]), heads, weights, knows, history, out_of_fold)


class _Group:
    """Some heads of a bag, trained by one engine."""

    def __init__(
        self, examples: Examples, plan: HeadPlan, heads: Sequence[HeadId], inputs: dict[int, Weights], make: MakeEngine
    ) -> None:
        streams = [HeadStream(head, examples.count(head.fold)) for head in heads]
        self.heads, self._plan = heads, plan
        self._batches = Batches(examples, heads, streams, plan)
        self._engine = make(plan, heads, initial_weights(plan, heads, streams, inputs))
        self._scores: list[EpochScores] = []
        self._kept: list[tuple[Weights, EpochScores] | None] = [None] * len(heads)

    def epoch(self, number: int, judge: HeadEvaluator) -> tuple[Float32s, list[EpochScores]]:
        """Train one epoch; return (2, g) loss and accuracy in training, and each head's scores after it."""
        paces, engine = rates(self._plan.schedule, number, self._batches.steps), self._engine
        with np.errstate(all="ignore"):  # weights that become infinite are told at the end, once
            steps = [engine.train_step(batch, rate) for batch, rate in zip(self._batches.epoch(), paces, strict=True)]
            alone = _apart(engine.weights)
            self._scores = [judge.scores(weights, head) for weights, head in zip(alone, self.heads, strict=True)]
        return np.mean(steps, axis=0), self._scores

    def keep(self, parts: set[int]) -> None:
        """Remember the weights that heads of `parts` have now."""
        if not parts.isdisjoint(head.fold for head in self.heads):
            for place, alone in enumerate(_apart(self._engine.weights)):
                if self.heads[place].fold in parts:
                    copied = {name: array.copy() for name, array in alone.items()}
                    self._kept[place] = copied, self._scores[place]

    def take(self) -> list[tuple[Weights, EpochScores]]:
        """Each head's remembered weights and scores, or its last ones; the group is done and gives its memory back."""
        last = zip(_apart(self._engine.weights), self._scores, strict=True)
        taken = [own if kept is None else kept for kept, own in zip(self._kept, last, strict=True)]
        del self._engine, self._kept
        return taken


def _apart(weights: Weights) -> list[Weights]:
    """Each head's weights, as views."""
    return [{name: array[place] for name, array in weights.items()} for place in range(len(weights["kernel_0"]))]


def _groups(
    examples: Examples, plan: HeadPlan, heads: Sequence[HeadId], threads: int, make: MakeEngine
) -> list[_Group]:
    """Deal the heads out in order, to about as many on each core, and to few enough to stay near it."""
    inputs = input_statistics(examples.copies, examples.parts) if plan.standardize else {}
    size = len(heads)
    if make is NumpyEngine:
        size = max(1, min(_GROUP_VALUES // (plan.batch_size * max(plan.features, *plan.hidden, 1)), size))
        size = -(-len(heads) // (threads * -(-len(heads) // (threads * size))))
    parts = [heads[first : first + size] for first in range(0, len(heads), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda some: _Group(examples, plan, some, inputs, make), parts))


def initial_weights(
    plan: HeadPlan, heads: Sequence[HeadId], streams: Sequence[HeadStream], inputs: dict[int, Weights]
) -> Weights:
    """What Keras' Dense and BatchNormalization begin with, drawn from each head's own stream; `inputs` by part."""
    weights: Weights = {}
    widths = (plan.features, *plan.hidden, plan.classes)
    for layer, (before, after) in enumerate(pairwise(widths)):
        weights[f"kernel_{layer}"] = np.stack([stream.kernel(before, after) for stream in streams])
        fills = {"bias": 0, "gamma": 1, "beta": 0, "mean": 0, "variance": 1}
        for name, fill in fills.items() if layer < len(plan.hidden) else [("bias", 0)]:
            weights[f"{name}_{layer}"] = np.full((len(heads), after), fill, np.float32)
    if inputs:
        for name in ("input_mean", "input_variance"):
            weights[name] = np.stack([inputs[head.fold][name] for head in heads])
    return weights


def _epochs(groups: list[_Group], plan: HeadPlan, judge: HeadEvaluator, threads: int, progress: Progress) -> History:
    """Train epoch by epoch; every group remembers its heads' weights where they are the best yet."""
    columns, table = [], []
    best: dict[int, int] = {}
    with _one_blas_thread(threads > 1), ThreadPoolExecutor(threads) as pool:
        for epoch in range(plan.epochs):
            done = list(pool.map(lambda group: group.epoch(epoch, judge), groups))  # noqa: B023  # used up at once
            scores = [score for _, each in done for score in each]
            table.append(np.sum([score.losses for score in scores], axis=0))
            seen, fold = np.array([score.seen for score in scores]).T, np.array([score.fold for score in scores]).T
            columns.append(np.concatenate([*(np.concatenate([loss for loss, _ in done], axis=1), seen, fold)]))
            progress.advance(1, f"loss {columns[-1][0].mean():.3f}, out of fold {columns[-1][4].mean():.3f}")
            if plan.keep_best:
                before, best = best, judge.best(np.array(table))
                better = {part for part, number in best.items() if before.get(part) != number}
                for group in groups:
                    group.keep(better)
                if plan.early_stop and epoch - max(best.values()) >= plan.early_stop:
                    break
    kept = [best.get(head.fold, len(table) - 1) for group in groups for head in group.heads]
    loss, accuracy, seen_loss, seen_accuracy, fold_loss, fold_accuracy = np.stack(columns, axis=1).astype(np.float32)
    return History(loss, accuracy, seen_loss, seen_accuracy, fold_loss, fold_accuracy, np.array(kept, np.int32))


@contextmanager
def _one_blas_thread(wanted: bool) -> Iterator[None]:
    """Where each core trains heads of its own, a matrix product must not take all cores."""
    if not wanted:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def _join(heads: list[Weights]) -> Weights:
    """Stack the heads' weights, giving back each array as it is copied."""
    return {name: np.stack([head.pop(name) for head in heads]) for name in list(heads[0])}


def _check_finite(weights: Weights, plan: HeadPlan) -> None:
    if not all(np.isfinite(head).all() for array in weights.values() for head in array):
        schedule = ", ".join(map(str, plan.schedule))
        raise TrainingError(f"the weights became NaN or infinite in training with {schedule}: lower [Heads] schedule")
