"""How a convnet is trained: the settings resolved for the training rows, and what each epoch draws. NumPy only."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from featcache import dataset
from featcache.settings import CONVNET_RECIPE, ONE_CYCLE, AugmentPolicy, ConvNetSpec, HeadsSpec, Phase
from featcache.training.heads.partition import Partition
from featcache.training.heads.presets import shared_settings

CONVNET_VERSION = 2  # raise it when the same settings train to other values
_RATE, _STEPS, _FEWEST, _MOST = 3e-3, 600, 12, 60  # of the default schedule: steps and epochs


@dataclass(frozen=True)
class ConvNetPlan:
    """Everything that decides what a convnet becomes, besides its seed, its fold and the rows.

    Attributes:
        image_size: side of the images in pixels; they have 1 channel (grey) or 3 (RGB).
        schedule: learning rates and epochs, in order.
        batch_size: rows a step.
        precision: ``float32`` or ``bfloat16``, what the training steps compute in; predictions are float32.
        policy: how far an image is changed, differently in each epoch.
        balanced: rows count by `featcache.training.class_weights`, so that every class counts the same.
        several: a row may have several of the classes: sigmoid and binary cross-entropy, the mean over labels.
    """

    image_size: int
    channels: int
    classes: int
    schedule: tuple[Phase, ...]
    batch_size: int
    precision: str
    policy: AugmentPolicy = CONVNET_RECIPE
    balanced: bool = False
    several: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training rows."""
        return sum(phase.epochs for phase in self.schedule)

    def settings(self) -> dict[str, object]:
        """The plan as JSON-able values, for records."""
        return {name: value for name, value in asdict(self).items() if name != "several" or value}

    def momentum(self, steps: int) -> float:
        """Of batch normalisation's moving averages, `steps` an epoch: they span a tenth of all steps, at most 100."""
        return float(np.clip(1 - 10 / (self.epochs * steps), 0.9, 0.99))


def member_settings(spec: ConvNetSpec, seed: int, heads: HeadsSpec) -> dict[str, dict[str, object]]:
    """Return the settings that decide one member, by section, for its key: not how many members there are."""
    own = {name: value for name, value in asdict(spec).items() if name != "members"}
    return {"ConvNet": {"seed": seed, **own}, "Heads": shared_settings(heads)}


def resolve_convnet(
    spec: ConvNetSpec,
    rows: int,
    channels: int,
    classes: int,
    precision: str,
    *,
    balanced: bool = False,
    several: bool = False,
) -> ConvNetPlan:
    """Fill in what the `rows` decide, usable training rows, the largest fold left out; what the user set wins."""
    size = max(1, min(spec.batch_size, rows))
    epochs = min(_MOST, max(_FEWEST, math.ceil(_STEPS / max(1, rows // size))))
    schedule = spec.schedule or (Phase(_RATE, epochs, ONE_CYCLE),)
    return ConvNetPlan(
        spec.image_size, channels, classes, schedule, size, precision, balanced=balanced, several=several
    )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What the convnets of all folds are trained on.

    Attributes:
        images: (n, size, size, channels) uint8; memory-mapped ones stay on the disk.
        labels: (n,) int32 class indices, or (n, C) int8 of 0 and 1 where a row may have several.
        parts: the folds.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer]
    parts: Partition


@dataclass(frozen=True, eq=False)
class Epoch:
    """The draws of one epoch.

    Attributes:
        order: (steps, b) int64, rows of the training split.
        maps: (steps, b, 8) float32, result's pixel to image's pixel, see `featcache.dataset.affine_maps`.
        dropout_seed: seeds the epoch's dropout masks.
    """

    order: npt.NDArray[np.int64]
    maps: npt.NDArray[np.float32]
    dropout_seed: int


def draw_epoch(plan: ConvNetPlan, rows: npt.NDArray[np.int64], seed: int, fold: int, number: int) -> Epoch:
    """Draw epoch `number`, from 0, of the convnet that is trained on `rows` (r,), a function of the arguments alone."""
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, fold, number])))
    steps = len(rows) // plan.batch_size
    order = generator.permutation(rows)[: steps * plan.batch_size].reshape(steps, plan.batch_size)
    draws = generator.uniform(-1, 1, (order.size, 6))
    maps = dataset.affine_maps(plan.policy, draws, plan.image_size, plan.image_size).astype(np.float32)
    return Epoch(order, maps.reshape(steps, plan.batch_size, 8), int(generator.integers(1 << 31)))
