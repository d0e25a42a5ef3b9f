"""The settings of each part as frozen value objects, checked once when they are made and never again.

No Keras and no Luigi here: notebooks make these directly, `pipeline.config` makes them from luigi.cfg.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.errors import SettingsError
from featcache.settings.augment_policy import RECIPE, AugmentPolicy
from featcache.settings.schedules import SHAPES, Phase

SOURCES = ("digits", "folder", "csv", "idx")
PRECISIONS = ("auto", "float32", "bfloat16")
POOLINGS = ("avg", "max")
PRESETS = ("default", "recipe", "wide", "fast")
AUTO = "auto"
METHODS = (AUTO, "mean", "geometric", "greedy")
FORMATS = ("labels", "probabilities")
SMALLEST_CONVNET_IMAGE = 16  # below it two rounds of convolutions and pooling leave nothing
_LONGEST = 255  # what file systems take
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def one_of(setting: str, value: str, known: Iterable[str]) -> None:
    """Refuse a `value` that is not `known`, naming the nearest.

    Raises:
        SettingsError: `value` is not among `known`.
    """
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{setting}: expected one of {', '.join(known)}; got {setting.split()[-1]}={value!r}{hint}")


def at_least(setting: str, value: float, low: float) -> None:
    """Refuse a `value` below `low`.

    Raises:
        SettingsError: `value` is too small.
    """
    if not value >= low:
        raise SettingsError(f"{setting}: expected a number of at least {low}; got {setting.split()[-1]}={value!r}")


def _check_schedule(setting: str, schedule: Sequence[tuple[Any, ...]] | None) -> None:
    if schedule is not None and not schedule:
        raise SettingsError(f"{setting}: expected RATExEPOCHS, e.g. 1e-3x1, 1e-2x2; got schedule=''")
    for phase in (Phase(*phase) for phase in schedule or ()):
        one_of(setting, phase.shape, SHAPES)
        if not (math.isfinite(phase.rate) and phase.rate > 0 and phase.epochs >= 1):
            raise SettingsError(f"{setting}: expected rates above 0 and epochs of at least 1; got {phase}")


@dataclass(frozen=True)
class DatasetSpec:
    """Where images come from ([Dataset] in luigi.cfg).

    Attributes:
        name: folder below the artifacts folder; letters, digits, ``._-``.
        source: one of `SOURCES`.
        path: the data set's folder; None for `digits`, which is embedded.
        groups: ``FILE:COLUMN``, joined to training rows by file name; "" for none.
        sample_submission: a CSV (.gz, .zip) that fixes ids, columns and order; None for none.
    """

    name: str = "digits"
    source: str = "digits"
    path: Path | None = None
    groups: str = ""
    sample_submission: Path | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST:
            expected = f"expected at most {_LONGEST} letters, digits, '.', '_' and '-', as it names a folder"
            raise SettingsError(f"[Dataset] name: {expected}; got name={self.name!r}")
        one_of("[Dataset] source", self.source, SOURCES)
        if self.source != "digits" and self.path is None:
            raise SettingsError(
                f"[Dataset] path: expected the folder of the images for source={self.source!r}; got none"
            )
        if self.groups and ":" not in self.groups:
            raise SettingsError(f"[Dataset] groups: expected FILE:COLUMN; got groups={self.groups!r}")


@dataclass(frozen=True)
class Tap:
    """A named layer whose output is cached, optionally pooled over height and width first."""

    layer: str
    pooling: str = ""

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """Read ``LAYER``, ``LAYER:avg`` or ``LAYER:max``.

        Raises:
            SettingsError: the text is none of these.

        Example:
            >>> Tap.parse("block5_pool:avg").name
            'block5_pool_avg'
        """
        layer, _, pooling = text.strip().partition(":")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", layer):
            raise SettingsError(f"[Features] taps: expected a layer's name, LAYER:avg or LAYER:max; got taps={text!r}")
        if pooling or text.strip().endswith(":"):
            one_of("[Features] taps", pooling, POOLINGS)
        return cls(layer, pooling)

    @property
    def name(self) -> str:
        """The tap's dataset in a feature cache: ``block5_pool`` or ``block5_pool_avg``."""
        return f"{self.layer}_{self.pooling}" if self.pooling else self.layer

    def __str__(self) -> str:
        """The setting's text, which `parse` reads again."""
        return f"{self.layer}:{self.pooling}" if self.pooling else self.layer


@dataclass(frozen=True)
class FeaturesSpec:
    """What is cached ([Features] in luigi.cfg).

    Attributes:
        backbone: a `keras.applications` name in any case (``VGG16``, ``resnet50``) or the path of a ``.keras`` file.
        weights: ``auto``, ``imagenet``, ``random`` or the path of a notop HDF5 weights file.
        taps: the layers whose outputs are cached, all from one forward pass.
        image_size: side of the square every image is resized to, in pixels.
        precision: ``auto``, ``float32`` or ``bfloat16``: what the convolutions compute in; storage is float16.
        copies: augmented copies of the training split beside the plain one.
        augmentation: how far images are changed in them.
    """

    backbone: str = "vgg16"
    weights: str = "auto"
    taps: tuple[Tap, ...] = (Tap("block5_pool"),)
    image_size: int = 48
    precision: str = "auto"
    copies: int = 0
    augmentation: AugmentPolicy = RECIPE

    def __post_init__(self) -> None:
        """Refuse impossible settings; what only the backbone knows it refuses itself."""
        if not self.taps:
            raise SettingsError("[Features] taps: expected at least one layer; got taps=''")
        names = [tap.name for tap in self.taps]
        if len(set(names)) != len(names):
            raise SettingsError(f"[Features] taps: expected each tap once; got taps={', '.join(map(str, self.taps))!r}")
        at_least("[Features] image_size", self.image_size, 1)
        one_of("[Features] precision", self.precision, PRECISIONS)
        at_least("[Features] copies", self.copies, 0)


@dataclass(frozen=True)
class HeadsSpec:
    """How heads are trained ([Heads] in luigi.cfg). None means: as the preset has it.

    Attributes:
        preset: one of `PRESETS`.
        hidden: widths of the dense layers, e.g. (128, 128).
        dropout: the recipe's p, 0 <= p < 1.
        schedule: phases in order; plain (learning rate, epochs) pairs are constant ones.
        weight_decay: what Adam takes off each kernel a step, times the learning rate.
        label_smoothing: the share of each label that is spread over all classes, 0 <= label_smoothing < 1.
        early_stop: epochs without a better one after which training ends, 0: never.
        batch_size: rows a step.
        seeds: heads per fold, seeded 0..seeds-1.
        folds: out-of-fold parts of the training rows, at least 2.
        pseudo_weight: what a test row with soft labels counts for beside a training row, in a second round; 0: no such round.
        per_group: also train heads of each group alone.
    """

    preset: str = "default"
    hidden: tuple[int, ...] | None = None
    dropout: float | None = None
    schedule: tuple[Phase, ...] | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    early_stop: int | None = None
    batch_size: int = 64
    seeds: int = 3
    folds: int = 5
    pseudo_weight: float = 0.0
    per_group: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        one_of("[Heads] preset", self.preset, PRESETS)
        for width in self.hidden or ():
            at_least("[Heads] hidden", width, 1)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SettingsError(f"[Heads] dropout: expected 0 <= dropout < 1; got dropout={self.dropout!r}")
        if self.schedule is not None:
            object.__setattr__(self, "schedule", tuple(Phase(*phase) for phase in self.schedule))
        _check_schedule("[Heads] schedule", self.schedule)
        if self.weight_decay is not None and not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise SettingsError(f"[Heads] weight_decay: expected 0 or more; got weight_decay={self.weight_decay!r}")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise SettingsError(
                f"[Heads] label_smoothing: expected 0 <= label_smoothing < 1; got label_smoothing={self.label_smoothing!r}"
            )
        if self.early_stop is not None:
            at_least("[Heads] early_stop", self.early_stop, 0)
        at_least("[Heads] batch_size", self.batch_size, 2)
        at_least("[Heads] seeds", self.seeds, 1)
        at_least("[Heads] folds", self.folds, 2)
        if not 0 <= self.pseudo_weight <= 1:
            expected = "expected 0 (off) to 1 (as much as a labelled row)"
            raise SettingsError(f"[Heads] pseudo_weight: {expected}; got pseudo_weight={self.pseudo_weight!r}")


@dataclass(frozen=True)
class ConvNetSpec:
    """How small convolutional networks are trained end to end ([ConvNet] in luigi.cfg).

    Attributes:
        members: seeds 0..members-1, a network for each and fold; 0 trains none.
        image_size: side of the square every image is resized to, in pixels; at least `SMALLEST_CONVNET_IMAGE`.
        schedule: phases in order; None for one cycle whose epochs the number of rows decides.
        batch_size: rows a step.
        precision: ``auto``, ``float32`` or ``bfloat16``: what training computes in; predictions are float32.
    """

    members: int = 0
    image_size: int = 28
    schedule: tuple[Phase, ...] | None = None
    batch_size: int = 128
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        at_least("[ConvNet] members", self.members, 0)
        at_least("[ConvNet] image_size", self.image_size, SMALLEST_CONVNET_IMAGE)
        if self.schedule is not None:
            object.__setattr__(self, "schedule", tuple(Phase(*phase) for phase in self.schedule))
        _check_schedule("[ConvNet] schedule", self.schedule)
        at_least("[ConvNet] batch_size", self.batch_size, 2)
        one_of("[ConvNet] precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class EnsembleSpec:
    """How members are combined ([Ensemble] in luigi.cfg); `method` is one of `METHODS`."""

    method: str = AUTO

    def __post_init__(self) -> None:
        """Refuse an unknown method."""
        one_of("[Ensemble] method", self.method, METHODS)


@dataclass(frozen=True)
class ReportSpec:
    """Whether `Submit` also asks for the report ([Report] in luigi.cfg)."""

    enabled: bool = True


@dataclass(frozen=True)
class SubmissionSpec:
    """How the submission is written ([Submission] in luigi.cfg).

    Attributes:
        format: ``labels`` (one class a row) or ``probabilities``.
        columns: header names, the id column first; () means: from the sample submission, or ``id, label`` /
            ``id, <class names>``. With ``probabilities`` each stands for the class of its name, or for CLASS as
            ``COLUMN = CLASS``; a single one for two classes, of a name like ``label``, for the second.
        clip: ``auto`` (found on out-of-fold log-loss), ``none``, or the upper bound mx, 1/classes < mx <= 1.
        gzip: write ``submission.csv.gz``, without a time stamp inside.
    """

    format: str = "labels"
    columns: tuple[str, ...] = ()
    clip: str | float = "auto"
    gzip: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        one_of("[Submission] format", self.format, FORMATS)
        if len(self.columns) == 1:
            raise SettingsError(
                f"[Submission] columns: expected the id column and at least one more; got columns={self.columns[0]!r}"
            )
        if isinstance(self.clip, str):
            one_of("[Submission] clip", self.clip, ("auto", "none"))
        elif not 0 < self.clip <= 1:
            raise SettingsError(f"[Submission] clip: expected auto, none or a number in (0, 1]; got clip={self.clip!r}")
