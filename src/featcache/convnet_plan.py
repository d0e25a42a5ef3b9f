"""How a small convolutional network is trained: the settings, resolved for the rows at hand. NumPy only."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from featcache.augment import CONVNET_RECIPE, AugmentPolicy, affine_maps
from featcache.specs import ConvNetSpec

CONVNET_VERSION = 1  # raise it when the same settings train to other values
_PEAK_RATE = 3e-3
_STEPS, _EPOCHS = 600, (12, 60)  # what the default schedule aims at, and its fewest and most epochs
_WARM_UP = 0.25  # part of the steps in which one cycle's rate rises
_START, _END = 1 / 10, 1 / 1000  # the rate at its beginning and its end, as parts of the peak


@dataclass(frozen=True)
class ConvNetPlan:
    """Everything that decides what a network becomes, beside its seed, its fold and the rows.

    Attributes:
        image_size: side of the images in pixels.
        channels: 1 for grey images, 3 for RGB.
        classes: outputs of the softmax.
        rates: ((learning rate, epochs), ...), in order; empty for one cycle.
        epochs: passes over the training rows.
        batch_size: rows a step.
        precision: ``float32`` or ``bfloat16``, what the training steps compute in; predictions are float32.
        policy: how far an image is changed, anew in each epoch.
    """

    image_size: int
    channels: int
    classes: int
    rates: tuple[tuple[float, int], ...]
    epochs: int
    batch_size: int
    precision: str
    policy: AugmentPolicy = CONVNET_RECIPE

    def settings(self) -> dict[str, object]:
        """The plan as JSON-able values, for records."""
        return asdict(self)

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of step `step` of the `steps` in epoch `epoch`, both from 0."""
        if self.rates:
            return [rate for rate, epochs in self.rates for _ in range(epochs)][epoch]
        done = (epoch * steps + step) / max(1, self.epochs * steps - 1)
        low, part = (_START, done / _WARM_UP) if done < _WARM_UP else (_END, (1 - done) / (1 - _WARM_UP))
        return _PEAK_RATE * (low + (1 - low) * (1 - math.cos(math.pi * part)) / 2)

    def momentum(self, steps: int) -> float:
        """Of batch normalisation's moving averages: they span about the last tenth of all steps, at most 100."""
        return float(np.clip(1 - 10 / (self.epochs * steps), 0.9, 0.99))


def resolve(spec: ConvNetSpec, rows: int, channels: int, classes: int, precision: str) -> ConvNetPlan:
    """Fill in what the rows decide; what the user set wins.

    Args:
        spec: the settings.
        rows: usable training rows, one fold left out.
        channels: 1 for grey images, 3 for RGB.
        classes: number of classes.
        precision: ``float32`` or ``bfloat16``.
    """
    rates, size = spec.schedule or (), min(spec.batch_size, rows)
    epochs = sum(epochs for _, epochs in rates) or spec.epochs
    if not epochs:
        fewest, most = _EPOCHS
        epochs = min(most, max(fewest, math.ceil(_STEPS / (rows // size))))
    return ConvNetPlan(spec.image_size, channels, classes, rates, epochs, size, precision)


@dataclass(frozen=True, eq=False)
class Epoch:
    """One epoch of one network: its rows in their order, and each row's map. A pure function of seed, fold and number.

    Attributes:
        order: (steps, b) int64, rows of the training split.
        maps: (steps, b, 8) float32, result's pixel to image's pixel, see `featcache.augment.affine_maps`.
        dropout_seed: seeds the epoch's dropout masks.
    """

    order: npt.NDArray[np.int64]
    maps: npt.NDArray[np.float32]
    dropout_seed: int

    def batches(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield (rows (b,), maps (b, 8)) of each step; full batches only."""
        yield from zip(self.order, self.maps, strict=True)


def draw_epoch(plan: ConvNetPlan, rows: npt.NDArray[np.int64], seed: int, fold: int, number: int) -> Epoch:
    """Draw epoch `number`, from 0, of the network that is seeded `seed` and hasn't seen `fold`.

    Args:
        plan: batch size, image size and policy.
        rows: (r,) int64, the rows that it is trained on.
        seed: the member's.
        fold: the fold that is left out.
        number: of the epoch.
    """
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, fold, number])))
    steps = len(rows) // plan.batch_size
    order = generator.permutation(rows)[: steps * plan.batch_size].reshape(steps, plan.batch_size)
    draws = generator.uniform(-1, 1, (order.size, 6))
    maps = affine_maps(plan.policy, draws, plan.image_size, plan.image_size).astype(np.float32)
    return Epoch(order, maps.reshape(steps, plan.batch_size, 8), int(generator.integers(1 << 31)))
