"""Training one small convolutional network, on all folds but its own. [Keras].

An epoch's rows, their augmentation and the dropout masks are drawn from member, fold and epoch alone, so training that
goes on from a checkpoint comes out as if it had never stopped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from featcache.core.keras_import import plain_keras
from featcache.errors import CacheMismatchError, TrainingError
from featcache.settings import rates
from featcache.training.convnet.checkpoints import EpochRecord, State
from featcache.training.convnet.model import Images, build_convnet, predict_convnet
from featcache.training.convnet.plan import ConvNetPlan, draw_epoch

_WATCHED = 2000  # rows of its own fold that a network is scored on after each epoch
_HISTORY = ("loss", "accuracy", "fold_loss", "fold_accuracy")


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        model: in float32, ending in probabilities.
        history: ``loss``, ``accuracy`` (of the training batches, dropout and augmentation included), ``fold_loss``,
            ``fold_accuracy`` (of at most `_WATCHED` rows of the fold that it hasn't seen), one value an epoch.
    """

    model: keras.Model
    history: EpochRecord


@dataclass(frozen=True, eq=False)
class Training:
    """What a network is trained on.

    Attributes:
        images: (n, size, size, channels) uint8, all rows; memory-mapped ones stay on the disk.
        labels: (n,) class indices.
        own: (r,) int64, the rows to train on.
        held_out: (f,) int64, the usable rows of the fold that it must not see.
        seed: the member's.
        fold: the held-out fold's number.
    """

    images: Images
    labels: npt.NDArray[np.integer]
    own: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    seed: int
    fold: int


@plain_keras()
def train_network(
    plan: ConvNetPlan,
    training: Training,
    begun: tuple[State, EpochRecord] | None = None,
    after_epoch: Callable[[Callable[[], State], EpochRecord], None] = lambda state, history: None,
) -> Network:
    """Train one network.

    Args:
        plan: from `featcache.training.convnet.plan.resolve_convnet`.
        training: rows, seed and fold.
        begun: state and history as `after_epoch` got them, to go on from there; what comes out is the same.
        after_epoch: is called with a function that returns the state, and the history so far.

    Raises:
        CacheMismatchError: `begun` is of another network, such as another release of Keras builds; nothing was trained.
        TrainingError: fewer than 2 rows to train on, or the loss became NaN or infinite.
    """
    learner = _learner(plan, training)
    judge = build_convnet(plan, *statistics(training.images, training.own))
    variables = [*learner.weights, *learner.optimizer.variables]
    history: dict[str, list[float]] = {name: [] for name in _HISTORY}
    if begun is not None:
        _check_begun([tuple(variable.shape) for variable in variables], *begun)
        for variable, stored in zip(variables, begun[0], strict=True):
            variable.assign(stored)
        history = {name: list(values) for name, values in begun[1].items()}
    watched = training.held_out[:: -(-len(training.held_out) // _WATCHED)]

    def state() -> State:
        return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]

    for number in range(len(history["loss"]), plan.epochs):
        trained = _train_epoch(plan, training, learner, number)
        judge.set_weights(learner.get_weights())
        scores = _scores(judge, training.images, training.labels, watched)
        for name, value in zip(_HISTORY, (*trained, *scores), strict=True):
            history[name].append(value)
        after_epoch(state, history)
    judge.set_weights(learner.get_weights())
    return Network(judge, history)


def _check_begun(shapes: list[tuple[int, ...]], state: State, history: EpochRecord) -> None:
    if shapes != [value.shape for value in state] or set(history) != set(_HISTORY):
        got = f"{len(state)} variables, {', '.join(sorted(history))}"
        raise CacheMismatchError(f"expected a checkpoint of {len(shapes)} variables of this network; got {got}")


def _learner(plan: ConvNetPlan, training: Training) -> keras.Model:
    """The network as it is trained, with fresh weights."""
    if len(training.own) < 2:
        raise TrainingError(
            f"expected at least 2 rows to train on beside fold {training.fold}; got rows={len(training.own)}: "
            "add images or lower [Heads] folds"
        )
    seed = int(np.random.SeedSequence([training.seed, training.fold]).generate_state(1)[0])
    momentum = plan.momentum(len(training.own) // plan.batch_size)
    learner = build_convnet(plan, *statistics(training.images, training.own), seed, momentum, training=True)
    optimizer = keras.optimizers.Adam()
    optimizer.build(learner.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # compiled by XLA, which is what Keras would do, steps take longer on a CPU
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    learner.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit)
    return learner


def _train_epoch(plan: ConvNetPlan, training: Training, learner: keras.Model, number: int) -> tuple[float, float]:
    """Mean loss and accuracy of one epoch's batches."""
    epoch = draw_epoch(plan, training.own, training.seed, training.fold, number)
    state = learner.get_layer("dropout").seed_generator.state
    state.assign(np.array([epoch.dropout_seed, 0], keras.backend.standardize_dtype(state.dtype)))
    told = []
    for rate, rows, maps in zip(rates(plan.schedule, number, len(epoch.order)), epoch.order, epoch.maps, strict=True):
        learner.optimizer.learning_rate.assign(rate)
        images = keras.ops.image.affine_transform(
            training.images[rows].astype(np.float32), maps, "bilinear", "nearest", data_format="channels_last"
        )
        learner.reset_metrics()  # some releases of Keras do it themselves, others go on averaging
        now = learner.train_on_batch(images, training.labels[rows].astype(np.int32), return_dict=True)
        told.append((float(now["loss"]), float(now["accuracy"])))
    loss, accuracy = np.mean(told, axis=0).tolist()
    if not math.isfinite(loss):
        schedule = ", ".join(map(str, plan.schedule))
        raise TrainingError(
            f"the loss became {loss} in epoch {number + 1} of {schedule}: lower the rates of [ConvNet] schedule"
        )
    return loss, accuracy


def statistics(images: Images, rows: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over `rows` of `images`, 0 to 255, exact whatever the order."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(rows), 4096):
        block = images[rows[start : start + 4096]]
        for channel in range(images.shape[-1]):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    return mean.tolist(), np.sqrt(shares @ values**2 - mean**2).tolist()


def _scores(
    model: keras.Model, images: Images, labels: npt.NDArray[np.integer], rows: npt.NDArray[np.int64]
) -> tuple[float, float]:
    said = predict_convnet([model], images, rows)
    chosen = said[np.arange(len(rows)), labels[rows]]
    return float(-np.log(np.maximum(chosen, 1e-7)).mean()), float((said.argmax(axis=1) == labels[rows]).mean())
