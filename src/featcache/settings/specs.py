"""The settings of each part as frozen value objects, checked once when they are made and never again.

What each attribute means is in `featcache.settings.SECTIONS`, which makes them from luigi.cfg's texts; notebooks make them
directly. No Keras and no Luigi here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.names import did_you_mean
from featcache.errors import SettingsError
from featcache.settings.architectures import HUB, auto_taps, is_model_file, is_preset
from featcache.settings.augment_policy import RECIPE, AugmentPolicy
from featcache.settings.schedules import SHAPES, Phase
from featcache.settings.tap import Tap

TRAINING_PRECISIONS = ("auto", "float32", "bfloat16")
PRECISIONS = (*TRAINING_PRECISIONS, "float16")
NUMPY, KERAS = "numpy", "keras"
AUTO = "auto"
REPORT, GROUP, IGNORE = NEAR_DUPLICATES = ("report", "group", "ignore")
STRETCH, CROP, PAD = "stretch", "crop", "pad"
METHODS = (AUTO, "weighted", "mean", "geometric", "greedy")
LOG_LOSS = "log_loss"
METRICS = (LOG_LOSS, "accuracy", "balanced_accuracy", "roc_auc", "f1_macro", "f1_micro", "f1_samples", "map@K", "qwk")
FORMATS = (AUTO, "labels", "probabilities", "tags", "topK")
SMALLEST_CONVNET_IMAGE = 16  # below it two rounds of convolutions and pooling leave nothing
CLIP = "auto, none or a number in (0, 1]"
ALONE, LOCAL = "none", "local"
PHOTO_SOURCES = ("folder", "table", "filename", "parquet")
SOURCES = ("digits", *PHOTO_SOURCES, "csv", "idx")
_TABLES = ("table", "parquet")  # the sources whose tables may have a column of groups
SEPARATORS = ("blank", ",", ";", "|")
_NEEDED = {"table": ("table",), "label": _TABLES, "pattern": ("filename",)}  # setting -> sources that can't do without
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}")
_LONGEST = 255  # what file systems take
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def one_of(setting: str, value: str, known: Sequence[str]) -> None:
    """Raise a `SettingsError` that names the nearest, unless `value` is `known`."""
    if value not in known:
        raise SettingsError(f"{setting}={value!r} is unknown{did_you_mean(value, known)}; known: {', '.join(known)}")


def _check_counted(setting: str, value: str, known: Sequence[str]) -> None:
    """`one_of`, where a K at the end of one that is known stands for a number of at least 1."""
    if value.upper() in (name.upper() for name in known if name.endswith("K")):
        raise SettingsError(f"{setting}={value!r} leaves open how many: write a number for K, {value[:-1]}5")
    one_of(setting, re.sub("(?<=@|p)[1-9][0-9]*$", "K", value), known)


def at_least(setting: str, value: float | None, low: float) -> None:
    """Raise a `SettingsError` if `value` is below `low`; None is not."""
    _check_range(setting, value, ok=value is None or value >= low, allowed=f"at least {low}")


def _check_range(setting: str, value: object, *, ok: bool, allowed: str) -> None:
    if not ok:
        raise SettingsError(f"{setting}={value!r} is out of range: {allowed}")


def _phases(setting: str, schedule: Sequence[tuple[Any, ...]] | None) -> tuple[Phase, ...] | None:
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


def _check_pattern(pattern: str) -> None:
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        raise SettingsError(f"[Dataset] pattern={pattern!r} is no regular expression: {error}") from error
    if pattern and not {"label"} <= groups <= {"label", "group"}:
        fix = "write (?P<label>...) around the class, and perhaps (?P<group>...)"
        raise SettingsError(f"[Dataset] pattern={pattern!r} has the groups {', '.join(groups) or '(none)'}: {fix}")


@dataclass(frozen=True)
class DatasetSpec:
    """Where images come from ([Dataset] in luigi.cfg)."""

    name: str = "digits"
    source: str = "digits"
    path: Path | None = None
    groups: str = ""
    sample_submission: Path | None = None
    table: str = ""
    id: str = ""
    label: tuple[str, ...] = ()
    split: str = ""
    images: tuple[str, ...] = ()
    test: str = ""
    pattern: str = ""
    separator: str = ""
    corrections: Path | None = None
    near_duplicates: str = REPORT

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST:
            allowed = f"at most {_LONGEST} letters, digits, '.', '_' and '-'"
            raise SettingsError(f"[Dataset] name={self.name!r} can't name a folder: {allowed}")
        one_of("[Dataset] source", self.source, SOURCES)
        if self.source != "digits" and self.path is None:
            raise SettingsError(f"[Dataset] path is missing: source={self.source!r} needs the folder of the images")
        if self.groups and ":" not in self.groups and self.source not in _TABLES:
            raise SettingsError(f"[Dataset] groups={self.groups!r} is not FILE:COLUMN")
        one_of("[Dataset] near_duplicates", self.near_duplicates, NEAR_DUPLICATES)
        for name, sources in _NEEDED.items():
            if self.source in sources and not getattr(self, name):
                raise SettingsError(f"[Dataset] {name} is missing, which source={self.source} needs")
        _check_pattern(self.pattern)
        self._check_separator()

    def _check_separator(self) -> None:
        if not self.separator:
            return
        one_of("[Dataset] separator", self.separator, SEPARATORS)
        if self.source not in _TABLES or len(self.label) > 1:
            found = f"source={self.source}" if self.source not in _TABLES else f"label={', '.join(self.label)!r}"
            needed = "one column of lists in a table: leave it empty"
            raise SettingsError(f"[Dataset] separator={self.separator!r} does not fit {found}; it is for {needed}")


def refuse_half_a_demo(dataset: DatasetSpec) -> None:
    """Raise a `SettingsError`: the defaults are those of the embedded digits; a path or source of one's own needs the other keys, too."""
    demo = DatasetSpec()
    if dataset.source == demo.source and dataset.path is not None:
        fault = f"[Dataset] source={dataset.source!r} has no path, but path={str(dataset.path)!r} is set"
        raise SettingsError(f"{fault}: choose folder, table, csv or another, e.g. --Dataset-source folder")
    if dataset.source != demo.source and dataset.name == demo.name:
        fault = f"[Dataset] name={dataset.name!r} belongs to the embedded digits, not to source={dataset.source!r}"
        raise SettingsError(f"{fault}: choose a name for your data set, --Dataset-name NAME")


@dataclass(frozen=True)
class FeaturesSpec:
    """What is cached ([Features] in luigi.cfg); `backbone` is a `keras.applications` name in any case, or a path.

    No `taps` are those that ``auto`` means for the backbone.
    """

    backbone: str = "vgg16"
    weights: str = "auto"
    taps: tuple[Tap, ...] = ()
    image_size: int = 48
    image_fit: str = STRETCH
    precision: str = "auto"
    deterministic: bool = False
    mirror: bool = False
    copies: int = 0
    augmentation: AugmentPolicy = RECIPE

    def __post_init__(self) -> None:
        if not self.taps:
            object.__setattr__(self, "taps", tuple(map(Tap.parse, auto_taps(self.backbone))))
        # the backbone checks the names of the taps
        names = [tap.name for tap in self.taps]
        if len(set(names)) != len(names):
            raise SettingsError(f"[Features] taps={', '.join(map(str, self.taps))!r} names a tap twice")
        at_least("[Features] image_size", self.image_size, 1)
        one_of("[Features] image_fit", self.image_fit, (STRETCH, CROP, PAD))
        one_of("[Features] precision", self.precision, PRECISIONS)
        at_least("[Features] copies", self.copies, 0)

    @property
    def label(self) -> str:
        """What it is called among several: ``vgg16@224``; one's own file by its name without folder and suffix."""
        name = Path(self.backbone).stem if is_model_file(self.backbone) else self.backbone.lower()
        name = Path(self.backbone.removeprefix(HUB)).name if is_preset(self.backbone) else name
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}@{self.image_size}"


@dataclass(frozen=True)
class CompareSpec:
    """Which backbones `CompareBackbones` compares, on how many training rows ([Compare] in luigi.cfg)."""

    backbones: tuple[FeaturesSpec, ...] = ()
    rows: int = 2000

    def __post_init__(self) -> None:
        at_least("[Compare] rows", self.rows, 10)


@dataclass(frozen=True)
class HeadsSpec:
    """How heads are trained ([Heads] in luigi.cfg). None means the preset's value; `engine`, where to compute, is in no key.

    Plain (learning rate, epochs) pairs of `schedule` are constant phases. The seeds are 0 to ``seeds - 1``.
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
    class_weight: str = "none"
    engine: str = NUMPY

    def __post_init__(self) -> None:
        one_of("[Heads] preset", self.preset, ("default", "recipe", "wide", "fast"))
        one_of("[Heads] class_weight", self.class_weight, ("none", "balanced"))
        one_of("[Heads] engine", self.engine, (NUMPY, KERAS))
        for width in self.hidden or ():
            at_least("[Heads] hidden", width, 1)
        for name in ("dropout", "label_smoothing"):
            value = getattr(self, name)
            _check_range(f"[Heads] {name}", value, ok=value is None or 0 <= value < 1, allowed=f"0 <= {name} < 1")
        object.__setattr__(self, "schedule", _phases("[Heads] schedule", self.schedule))
        decay = self.weight_decay
        _check_range("[Heads] weight_decay", decay, ok=decay is None or 0 <= decay < math.inf, allowed="0 or more")
        for name, low in (("early_stop", 0), ("batch_size", 2), ("seeds", 1), ("folds", 2)):
            at_least(f"[Heads] {name}", getattr(self, name), low)
        allowed = "0 (off) to 1 (as much as a labelled row)"
        _check_range("[Heads] pseudo_weight", self.pseudo_weight, ok=0 <= self.pseudo_weight <= 1, allowed=allowed)

    @property
    def balanced(self) -> bool:
        """Whether every class counts the same in training."""
        return self.class_weight == "balanced"


@dataclass(frozen=True)
class ConvNetSpec:
    """How convnets are trained end to end ([ConvNet] in luigi.cfg): a convnet a fold of each of the seeds 0 to `members` - 1."""

    members: int = 0
    image_size: int = 28
    schedule: tuple[Phase, ...] | None = None
    batch_size: int = 128
    precision: str = "auto"

    def __post_init__(self) -> None:
        at_least("[ConvNet] members", self.members, 0)
        at_least("[ConvNet] image_size", self.image_size, SMALLEST_CONVNET_IMAGE)
        object.__setattr__(self, "schedule", _phases("[ConvNet] schedule", self.schedule))
        at_least("[ConvNet] batch_size", self.batch_size, 2)
        one_of("[ConvNet] precision", self.precision, TRAINING_PRECISIONS)


@dataclass(frozen=True)
class EnsembleSpec:
    """How members are combined ([Ensemble] in luigi.cfg); `method` is one of `METHODS`, `metric` of `METRICS`."""

    method: str = AUTO
    metric: str = LOG_LOSS

    def __post_init__(self) -> None:
        one_of("[Ensemble] method", self.method, METHODS)
        _check_counted("[Ensemble] metric", self.metric, METRICS)


@dataclass(frozen=True)
class ReportSpec:
    """Whether `Submit` also asks for the report ([Report] in luigi.cfg)."""

    enabled: bool = True


@dataclass(frozen=True)
class SubmissionSpec:
    """How the submission is written ([Submission] in luigi.cfg); 1/classes < `clip` <= 1 where it is a number.

    With ``probabilities`` each of `columns` is the class of its name, or CLASS as ``COLUMN = CLASS``; a single one for two
    classes, of a name like ``label``, is the second.
    """

    format: str = "labels"
    columns: tuple[str, ...] = ()
    clip: str | float = "auto"
    gzip: bool = False

    def __post_init__(self) -> None:
        _check_counted("[Submission] format", self.format, FORMATS)
        if len(self.columns) == 1:
            raise SettingsError(f"[Submission] columns={self.columns[0]!r}: the id needs at least one more beside it")
        if isinstance(self.clip, str):
            one_of("[Submission] clip", self.clip, ("auto", "none"))
        elif not 0 < self.clip <= 1:
            raise SettingsError(f"[Submission] clip={self.clip!r} is out of range: {CLIP}")


@dataclass(frozen=True)
class ClusterSpec:
    """Where to compute ([Cluster] in luigi.cfg), in no key.

    Local workers listen on the loopback only, and no two of them see the same GPU.
    """

    scheduler: str = ALONE
    workers: int = 0
    threads: int = 0
    gpus_per_worker: int = 0

    def __post_init__(self) -> None:
        if self.scheduler not in (ALONE, LOCAL) and not _ADDRESS.fullmatch(self.scheduler):
            allowed = "none, local, tcp://HOST:PORT or tls://HOST:PORT"
            raise SettingsError(f"[Cluster] scheduler={self.scheduler!r} is not {allowed}")
        for name in ("workers", "threads", "gpus_per_worker"):
            at_least(f"[Cluster] {name}", getattr(self, name), 0)
        if self.scheduler not in (ALONE, LOCAL) and (self.threads or self.gpus_per_worker):
            name = "threads" if self.threads else "gpus_per_worker"
            advice = "set it where these workers are started"
            raise SettingsError(f"[Cluster] {name} must be 0 for scheduler={self.scheduler!r}: {advice}")
