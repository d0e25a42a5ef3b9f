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
    """Raise a `SettingsError` that names the nearest, unless `value` is `known`."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{setting}={value!r} is unknown{hint}; known: {', '.join(known)}")


def at_least(setting: str, value: float, low: float) -> None:
    """Raise a `SettingsError` if `value` is below `low`."""
    _check_range(setting, value, ok=value >= low, allowed=f"at least {low}")


def _check_range(setting: str, value: object, *, ok: bool, allowed: str) -> None:
    if not ok:
        raise SettingsError(f"{setting}={value!r} is out of range: {allowed}")


def _phases(setting: str, schedule: Sequence[tuple[Any, ...]] | None) -> tuple[Phase, ...] | None:
    """Return plain tuples as phases, checked."""
    if schedule is None:
        return None
    phases = tuple(Phase(*phase) for phase in schedule)
    if not phases:
        raise SettingsError(f"{setting}='' has no phase: RATExEPOCHS, e.g. 1e-3x1, 1e-2x2")
    for phase in phases:
        one_of(setting, phase.shape, SHAPES)
        ok = math.isfinite(phase.rate) and phase.rate > 0 and phase.epochs >= 1
        _check_range(setting, str(phase), ok=ok, allowed="rates above 0 and epochs of at least 1")
    return phases


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
            allowed = f"at most {_LONGEST} letters, digits, '.', '_' and '-'"
            raise SettingsError(f"[Dataset] name={self.name!r} can't name a folder: {allowed}")
        one_of("[Dataset] source", self.source, SOURCES)
        if self.source != "digits" and self.path is None:
            raise SettingsError(f"[Dataset] path is missing: source={self.source!r} needs the folder of the images")
        if self.groups and ":" not in self.groups:
            raise SettingsError(f"[Dataset] groups={self.groups!r} is not FILE:COLUMN")


@dataclass(frozen=True)
class Tap:
    """A named layer whose output is cached, optionally pooled over height and width first."""

    layer: str
    pooling: str = ""

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """Parse ``LAYER``, ``LAYER:avg`` or ``LAYER:max``.

        Raises:
            SettingsError: the text is none of these.

        Example:
            >>> Tap.parse("block5_pool:avg").name
            'block5_pool_avg'
        """
        layer, _, pooling = text.strip().partition(":")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", layer):
            raise SettingsError(f"[Features] taps={text!r} is not a layer's name, LAYER:avg or LAYER:max")
        if pooling or text.strip().endswith(":"):
            one_of("[Features] taps", pooling, POOLINGS)
        return cls(layer, pooling)

    @property
    def name(self) -> str:
        """The tap's dataset in a feature cache: ``block5_pool`` or ``block5_pool_avg``."""
        return f"{self.layer}_{self.pooling}" if self.pooling else self.layer

    def __str__(self) -> str:
        """The setting's text, for `parse`."""
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
        """Refuse impossible settings; the backbone checks the names of the taps."""
        if not self.taps:
            raise SettingsError("[Features] taps='' names no layer")
        names = [tap.name for tap in self.taps]
        if len(set(names)) != len(names):
            raise SettingsError(f"[Features] taps={', '.join(map(str, self.taps))!r} names a tap twice")
        at_least("[Features] image_size", self.image_size, 1)
        one_of("[Features] precision", self.precision, PRECISIONS)
        at_least("[Features] copies", self.copies, 0)


@dataclass(frozen=True)
class HeadsSpec:
    """How heads are trained ([Heads] in luigi.cfg). None means the preset's value.

    Attributes:
        preset: one of `PRESETS`.
        hidden: widths of the dense layers, e.g. (128, 128).
        dropout: the recipe's p, 0 <= p < 1.
        schedule: phases in order; plain (learning rate, epochs) pairs are constant ones.
        weight_decay: decoupled weight decay of the kernels, as in AdamW.
        label_smoothing: the share of each label that is spread over all classes, 0 <= label_smoothing < 1.
        early_stop: epochs without improvement after which training ends, 0: never.
        batch_size: rows a step.
        seeds: heads per fold, seeded 0..seeds-1.
        folds: out-of-fold parts of the training rows, at least 2.
        pseudo_weight: the weight of a test row with soft labels beside a training row, in a second round; 0: no such round.
        per_group: also train heads on each group alone.
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
        for name in ("dropout", "label_smoothing"):
            value = getattr(self, name)
            _check_range(f"[Heads] {name}", value, ok=value is None or 0 <= value < 1, allowed=f"0 <= {name} < 1")
        object.__setattr__(self, "schedule", _phases("[Heads] schedule", self.schedule))
        decay = self.weight_decay
        _check_range("[Heads] weight_decay", decay, ok=decay is None or 0 <= decay < math.inf, allowed="0 or more")
        at_least("[Heads] early_stop", self.early_stop or 0, 0)
        at_least("[Heads] batch_size", self.batch_size, 2)
        at_least("[Heads] seeds", self.seeds, 1)
        at_least("[Heads] folds", self.folds, 2)
        allowed = "0 (off) to 1 (as much as a labelled row)"
        _check_range("[Heads] pseudo_weight", self.pseudo_weight, ok=0 <= self.pseudo_weight <= 1, allowed=allowed)


@dataclass(frozen=True)
class ConvNetSpec:
    """How convnets are trained end to end ([ConvNet] in luigi.cfg).

    Attributes:
        members: seeds 0..members-1, each with a convnet a fold; 0 trains none.
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
        object.__setattr__(self, "schedule", _phases("[ConvNet] schedule", self.schedule))
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
            ``id, <class names>``. With ``probabilities`` each is the class of its name, or CLASS as
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
                f"[Submission] columns={self.columns[0]!r}: the id column needs at least one more beside it"
            )
        if isinstance(self.clip, str):
            one_of("[Submission] clip", self.clip, ("auto", "none"))
        else:
            _check_range(
                "[Submission] clip", self.clip, ok=0 < self.clip <= 1, allowed="auto, none or a number in (0, 1]"
            )
