"""Training one convnet on all folds but one, by Keras' `fit`. [Keras].

Rows, augmentation and dropout masks of an epoch are drawn from member, fold and epoch alone, and a step's learning rate
follows from its number: a training that resumes from a checkpoint ends with the same weights as one that never stopped.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from featcache.core.gpu import is_out_of_memory
from featcache.core.keras_import import plain_keras
from featcache.core.progress import Progress, Silent
from featcache.core.rows import is_several
from featcache.errors import TrainingError
from featcache.settings import rates
from featcache.training.class_weights import class_weights
from featcache.training.convnet.checkpoints import Checkpoint, EpochRecord
from featcache.training.convnet.model import PREDICT_BATCH, Images, build_convnet
from featcache.training.convnet.plan import ConvNetPlan, TrainingData, draw_epoch
from featcache.training.several_labels import balance, label_weights

_SCORED_ROWS = 2000  # of the fold that is left out, after each epoch
_BLOCK_ROWS = 64  # images that are summed up at a time
_CHECKPOINT_SECONDS = 20.0  # epochs that took less are sooner trained again than written
# name in records -> in Keras' logs
_HISTORY = {"loss": "loss", "accuracy": "accuracy", "fold_loss": "val_loss", "fold_accuracy": "val_accuracy"}


@plain_keras()
def train_network(
    plan: ConvNetPlan,
    data: TrainingData,
    seed: int,
    fold: int,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[keras.Model, EpochRecord]:
    """Train one convnet of member `seed`, which must not see `fold`.

    Args:
        plan: from `featcache.training.convnet.plan.resolve_convnet`.
        data: the rows of all folds.
        seed: the member's.
        fold: the one that is left out.
        checkpoint: where training resumes from, if there is anything, and is saved to; None: neither.
        progress: counts epochs, those before the checkpoint included.

    Returns:
        The convnet, in float32 and ending in probabilities, and one value an epoch of ``loss``, ``accuracy`` (of the
        training batches, with dropout and augmentation), ``fold_loss`` and ``fold_accuracy`` (of at most
        `_SCORED_ROWS` rows of `fold`).

    Raises:
        TrainingError: the loss became NaN or infinite, or a step doesn't fit into the GPU's memory.
        StorageError: a checkpoint could not be written.
    """
    progress, rows = progress or Silent(), np.flatnonzero(data.parts.trained(fold))
    moments = channel_statistics(data.images, rows)
    model = _compiled(plan, moments, len(rows) // plan.batch_size, seed, fold)
    training = _Training(_Batches(plan, data, rows, seed, fold), plan, checkpoint, progress)
    training.resume(model)
    held_out = np.flatnonzero(data.parts.scored(fold))
    scored = held_out[:: -(-len(held_out) // _SCORED_ROWS)]
    try:
        model.fit(
            training.batches,
            epochs=plan.epochs,
            initial_epoch=training.epochs,
            validation_data=(data.images[scored], _targets(data.labels[scored])),
            validation_batch_size=PREDICT_BATCH,
            callbacks=[training],
            shuffle=False,  # the batches are in their order already
            verbose=0,
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fault = (
            f"[ConvNet] batch_size={plan.batch_size}: a step doesn't fit into the GPU's memory ({type(error).__name__})"
        )
        fix = "nvidia-smi shows which programs hold it: end them, or set a smaller batch_size"
        raise TrainingError(f"{fault}: {fix}; finished folds are kept") from error
    trained = build_convnet(plan, *moments)
    trained.set_weights(model.get_weights())
    return trained, training.history


def _compiled(
    plan: ConvNetPlan, moments: tuple[list[float], list[float]], steps: int, seed: int, fold: int
) -> keras.Model:
    """The convnet as it is trained, `steps` an epoch, with fresh weights."""
    initial = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
    model = build_convnet(plan, *moments, initial, plan.momentum(steps), training=True)
    paces = [rate for epoch in range(plan.epochs) for rate in rates(plan.schedule, epoch, steps)]
    optimizer = keras.optimizers.Adam(_Rates(paces))
    optimizer.build(model.trainable_variables)
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric: Any = "accuracy"
    if plan.several:
        loss, metric = _label_loss, keras.metrics.MeanMetricWrapper(_right_rows, name="accuracy")
    # with XLA, Keras' choice, steps take four times as long on a CPU
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(optimizer, loss, metrics=[metric], jit_compile=jit)
    return model


def _targets(labels: npt.NDArray[np.integer], weights: npt.NDArray[np.float32] | None = None) -> npt.NDArray[Any]:
    """What the loss compares (b,) labels with; of several (b, C) float32 (b, 2 C), each cell's weight behind them."""
    if not is_several(labels):
        return labels
    counts = np.ones(labels.shape, np.float32) if weights is None else balance(labels, weights)
    return np.concatenate([labels.astype(np.float32), counts], axis=1)


def _label_loss(targets: Any, logits: Any) -> Any:
    """(b,) weighted binary cross-entropies, the mean over labels."""
    wanted, weights = keras.ops.split(keras.ops.cast(targets, "float32"), 2, axis=-1)
    return keras.ops.mean((keras.ops.softplus(logits) - logits * wanted) * weights, axis=-1)


def _right_rows(targets: Any, logits: Any) -> Any:
    """(b,) 1 where all labels of a row are right."""
    wanted = keras.ops.split(targets, 2, axis=-1)[0] > 0
    return keras.ops.cast(keras.ops.all(keras.ops.equal(logits > 0, wanted), axis=-1), "float32")


class _Rates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step of a training."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = np.array(values, np.float32)

    def __call__(self, step: Any) -> Any:
        return keras.ops.take(self._values, step)


class _Batches(keras.utils.PyDataset):
    """The augmented batches of one epoch."""

    def __init__(
        self, plan: ConvNetPlan, data: TrainingData, rows: npt.NDArray[np.int64], seed: int, fold: int
    ) -> None:
        super().__init__()
        self.fold, self.name = fold, f"fold {fold} of convnet/seed{seed}"
        self._data, self._drawn_from = data, (plan, rows, seed, fold)
        labels, self._weights = data.labels[rows], None
        if plan.balanced:
            self._weights = label_weights(labels) if plan.several else class_weights(labels, plan.classes)
        self.draw(0)

    def draw(self, number: int) -> None:
        """Make them those of epoch `number`."""
        self.epoch = draw_epoch(*self._drawn_from, number)

    def __len__(self) -> int:
        return len(self.epoch.order)

    def __getitem__(self, step: int) -> tuple[npt.NDArray[Any], ...]:
        rows = self.epoch.order[step]
        images = self._data.images[rows].astype(np.float32)
        moved = keras.ops.image.affine_transform(
            images, self.epoch.maps[step], "bilinear", "nearest", data_format="channels_last"
        )
        labels = self._data.labels[rows]
        if is_several(labels):
            return keras.ops.convert_to_numpy(moved), _targets(labels, self._weights)
        weights = () if self._weights is None else (self._weights[labels],)
        return keras.ops.convert_to_numpy(moved), labels, *weights


class _Training(keras.callbacks.Callback):
    """Gives each epoch its rows and dropout masks, and keeps the history and the checkpoint."""

    def __init__(self, batches: _Batches, plan: ConvNetPlan, checkpoint: Checkpoint | None, progress: Progress) -> None:
        super().__init__()
        self.batches, self._plan, self._checkpoint, self._progress = batches, plan, checkpoint, progress
        self.history: dict[str, list[float]] = {name: [] for name in _HISTORY}
        self._written = time.perf_counter()

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.history["loss"])

    def resume(self, model: keras.Model) -> None:
        """Take variables and history from the checkpoint; one of other variables is ignored with a notice."""
        found = self._checkpoint.load() if self._checkpoint else None
        if found is None:
            return
        (state, history), variables = found, _variables(model)
        if [value.shape for value in state] != [tuple(each.shape) for each in variables] or set(history) != {*_HISTORY}:
            self._progress.notice(
                f"{self.batches.name} starts again: its checkpoint is of another network (Keras was changed?)"
            )
            return
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        self.history = history
        self._progress.advance(self.epochs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Draw the epoch."""
        self.batches.draw(epoch)
        state = self.model.get_layer("dropout").seed_generator.state
        state.assign(np.array([self.batches.epoch.dropout_seed, 0], keras.backend.standardize_dtype(state.dtype)))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note the scores; save a checkpoint now and then."""
        if not math.isfinite(logs["loss"]):
            schedule = ", ".join(map(str, self._plan.schedule))
            raise TrainingError(
                f"the loss became {logs['loss']} in epoch {epoch + 1} of {schedule}: lower the rates of [ConvNet] schedule"
            )
        for name, log in _HISTORY.items():
            self.history[name].append(float(logs[log]))
        loss, fold_loss = self.history["loss"][-1], self.history["fold_loss"][-1]
        self._progress.advance(1, f"fold {self.batches.fold}: loss {loss:.3f}, out of fold {fold_loss:.3f}")
        due = time.perf_counter() - self._written > _CHECKPOINT_SECONDS and self.epochs < self._plan.epochs
        if self._checkpoint and due:
            state = [np.asarray(keras.ops.convert_to_numpy(each)) for each in _variables(self.model)]
            self._checkpoint.save(state, self.history)
            self._written = time.perf_counter()


def _variables(model: keras.Model) -> list[Any]:
    return [*model.weights, *model.optimizer.variables]


def channel_statistics(images: Images, rows: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over `rows` of `images`, 0 to 255, exact whatever the order."""
    total = squares = np.zeros(images.shape[-1], np.int64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = images[rows[start : start + _BLOCK_ROWS]].astype(np.int64)
        total = total + block.sum(axis=(0, 1, 2))
        squares = squares + np.square(block).sum(axis=(0, 1, 2))
    pixels = len(rows) * images.shape[1] * images.shape[2]
    mean = total / pixels
    return mean.tolist(), np.sqrt(np.maximum(squares / pixels - mean**2, 0)).tolist()
