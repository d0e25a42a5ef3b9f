"""Settings from text to specs.

`SECTIONS` is the one table of luigi.cfg's settings: `pipeline.config` makes Luigi's parameters of it, `parse_settings`
parses values by it, and a test compares luigi.cfg with it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from featcache.core import paths
from featcache.core.names import did_you_mean
from featcache.errors import SettingsError
from featcache.settings import specs
from featcache.settings.architectures import backbone_settings
from featcache.settings.augment_policy import AugmentPolicy
from featcache.settings.backbones import backbone_specs, compared_specs
from featcache.settings.luigi_sections import LOGGING, LUIGI_SECTIONS
from featcache.settings.schedules import CONSTANT, SHAPES, Phase
from featcache.settings.tap import Tap

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_OUTPUT = ("quiet", "verbose")  # how much a run prints; no settings of a project
_FLATTENING = ("recipe", "wide")  # the presets of heads on a flattened tap
# Keys of [Features] whose default changed in 0.2, which `inspection.changed_defaults` announces: the former text.
FORMER_DEFAULTS = {"taps": "block5_pool", "image_size": "48"}


@dataclass(frozen=True)
class Setting:
    """One key of luigi.cfg: its default as text, how its text is parsed, and what it means."""

    default: str
    read: Callable[[str], object]
    meaning: str


@dataclass(frozen=True)
class Settings:
    """All specs of one project, each of the class that its section's texts make, and the folder of artifacts.

    `features` is the first backbone's, and holds what all backbones share; `others` are those of further ones.
    """

    dataset: specs.DatasetSpec
    features: specs.FeaturesSpec
    heads: specs.HeadsSpec
    convnet: specs.ConvNetSpec
    ensemble: specs.EnsembleSpec
    submission: specs.SubmissionSpec
    report: specs.ReportSpec
    cluster: specs.ClusterSpec
    artifacts: Path
    others: tuple[specs.FeaturesSpec, ...] = ()
    compare: specs.CompareSpec = field(default_factory=specs.CompareSpec)
    unset: tuple[str, ...] = field(default=(), repr=False, compare=False)  #: keys of [Features] left at their default
    #: section -> key -> text of every setting; empty where the specs weren't made of texts
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The folder of this project's artifacts: ``<artifacts>/<name>``."""
        return self.artifacts / self.dataset.name

    @property
    def backbones(self) -> tuple[specs.FeaturesSpec, ...]:
        """The features of each backbone, in the order of the settings."""
        return self.features, *self.others


def _word(text: str) -> str:
    return text.strip().lower()


def _boolean(text: str) -> bool:
    if _word(text) not in (*_TRUE, *_FALSE):
        raise ValueError
    return _word(text) in _TRUE


def _path(text: str) -> Path | None:
    return Path(text.strip()).expanduser() if text.strip() else None


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _taps(text: str) -> tuple[Tap, ...]:
    """The taps; none for ``auto``."""
    if _word(text) == specs.AUTO:
        return ()
    if not _parts(text):
        raise SettingsError("[Features] taps='' names no layer: name some, or set auto")
    return tuple(map(Tap.parse, _parts(text)))


def _auto_or_integer(text: str) -> int | None:
    return None if _word(text) == specs.AUTO else int(text)


def _integer_or_none(text: str) -> int | None:
    return int(text) if text.strip() else None


def _number_or_none(text: str) -> float | None:
    return float(text) if text.strip() else None


def _widths(text: str) -> tuple[int, ...] | None:
    return tuple(map(int, _parts(text))) or None


def _schedule(text: str) -> tuple[Phase, ...] | None:
    phases = []
    for part in _parts(text.lower()):
        shape, _, step = part.rpartition(" ")
        rate, _, epochs = step.partition("x")
        phases.append(Phase(float(rate), int(epochs), SHAPES[SHAPES.index(shape.strip() or CONSTANT)]))
    return tuple(phases) or None


def _clip(text: str) -> str | float:
    return _word(text) if _word(text) in ("auto", "none") else float(text)


def _scheduler(text: str) -> str:
    return text.strip() if "://" in text else _word(text)


_PHASES = "a list of RATExEPOCHS phases such as 1e-3x1, 1e-2x2 or cosine 3e-3x20 or one-cycle 1e-2x20"
# What a text isn't where one of these raises a `ValueError`.
_FORMS: Mapping[Callable[[str], object], str] = {
    int: "a whole number",
    _integer_or_none: "a whole number",
    _auto_or_integer: "auto or a whole number",
    float: "a number",
    _number_or_none: "a number",
    _boolean: "true or false",
    _widths: "a list of widths such as 128, 128",
    _schedule: _PHASES,
    _clip: specs.CLIP,
}

SECTIONS: Mapping[str, Mapping[str, Setting]] = {
    "Dataset": {
        "name": Setting("digits", str.strip, "the data set's name, and the folder of its results below artifacts/"),
        "source": Setting("digits", _word, "where images come from: digits (embedded), folder, table, filename, parquet, csv or idx"),
        "path": Setting("", _path, "the data set's folder; not used by digits"),
        "table": Setting("", str.strip, "of source = table: the file of ids and labels, below path: CSV, TSV, JSON lines or Parquet"),
        "id": Setting("", str.strip, "the table's column of ids: file names or paths, with or without suffix; empty: its first column"),
        "label": Setting("", _parts, "the table's column of classes, or one column a class or label with 0 and 1, comma-separated"),
        "separator": Setting("", _word, "what separates the labels where a row has several in the column: blank, or a comma, semicolon or | itself; empty: a row has one"),
        "split": Setting("", str.strip, "the table's column of train, valid and test; empty: all rows are for training"),
        "images": Setting("", _parts, "folders of the images, below path, comma-separated; empty: all of path; of source = parquet: the column of images"),
        "test": Setting("", str.strip, "the folder of the test images, or a table of their ids such as sample_submission.csv, below path"),
        "pattern": Setting("", str.strip, "of source = filename: a regular expression with a group label, e.g. (?P<label>cat|dog)"),
        "groups": Setting("", str.strip, "FILE:COLUMN, or a COLUMN of the source's own table; images that share a value stay in one fold, e.g. driver_imgs_list.csv:subject"),
        "corrections": Setting("", _path, "a CSV of ids and right labels, or drop, of training and valid rows, as the report's page or featcache suspects writes it"),
        "near_duplicates": Setting("report", _word, "images that are nearly the same: report, group (they stay in one fold) or ignore (they aren't looked for)"),
        "sample_submission": Setting("", _path, "fixes the submission's ids, columns and order; empty: PATH/sample_submission.csv, sampleSubmission.csv or similar, if it exists"),
    },
    "Features": {
        "backbone": Setting("vgg16", str.strip, "keras.applications names, paths of your own .keras files or hub:PRESET of KerasHub, comma-separated, each perhaps with an image size of its own, NAME@SIZE"),
        "weights": Setting("auto", str.strip, "auto (imagenet if available, else random), imagenet, random or the path of a notop HDF5 file; of several backbones one for each, or auto, imagenet or random for all"),
        "taps": Setting("auto", _taps, "layers to cache, all from one forward pass; LAYER:avg or LAYER:max pools one to a value a channel; output is the network's own; of several backbones BACKBONE/LAYER; auto: by backbone and preset"),
        "image_size": Setting("auto", _auto_or_integer, "side of the square every image is resized to, in pixels; auto: 48 for digits, idx and csv, else 224"),
        "image_fit": Setting("stretch", _word, "how an image that isn't square becomes a square: stretch, crop (the centred square) or pad (a border)"),
        "precision": Setting("auto", _word, "what convolutions compute in: auto, float32, bfloat16 or float16; storage is float16"),
        "deterministic": Setting("false", _boolean, "on GPUs, only algorithms that give the same bits again; slower. Processors always do"),
        "mirror": Setting("false", _boolean, "also cache every image mirrored; heads train on both and their predictions of both are averaged"),
        "copies": Setting("0", int, "augmented copies of the training split beside the plain one"),
        "augmentation": Setting("rotation 15, height_shift 0.05, width_shift 0.1, shear 0.1, channel_shift 20", AugmentPolicy.parse, "how far copies are changed: rotation, height_shift, width_shift, shear, zoom, channel_shift, flip"),
    },
    "Heads": {
        "preset": Setting("default", _word, "default, recipe (the fast.ai head to the letter), wide or fast"),
        "hidden": Setting("", _widths, "widths of the dense layers, e.g. 128, 128; empty: the preset's"),
        "dropout": Setting("", _number_or_none, "the recipe's p, 0 <= p < 1; empty: the preset's"),
        "schedule": Setting("", _schedule, "learning rates and epochs, e.g. 1e-3x1, 1e-2x2, or cosine 3e-3x20, or one-cycle 1e-2x20; empty: the preset's"),
        "weight_decay": Setting("", _number_or_none, "decoupled weight decay, as in AdamW; empty: the preset's"),
        "label_smoothing": Setting("", _number_or_none, "share of each label that is spread evenly over all classes; empty: the preset's"),
        "early_stop": Setting("", _integer_or_none, "end after this many epochs without a better out-of-fold loss, 0: never; empty: the preset's"),
        "batch_size": Setting("64", int, "rows a training step"),
        "seeds": Setting("3", int, "heads per fold, tap and head type"),
        "folds": Setting("5", int, "cross-validation folds of the training rows"),
        "pseudo_weight": Setting("0", float, "weight of test rows with soft labels in a second round of heads; 0: no second round"),
        "per_group": Setting("false", _boolean, "also train heads on each group alone, as further members"),
        "class_weight": Setting("none", _word, "none, or balanced: rare classes count as much as frequent ones, in heads and convnets alike"),
        "engine": Setting("numpy", _word, "what trains dense heads: numpy, on the processor, or keras, on the GPU; in no key"),
    },
    "ConvNet": {
        "members": Setting("0", int, "convnets per fold, trained end to end on augmented images; 0: none"),
        "image_size": Setting("28", int, "side of the square every image is resized to for convnets, in pixels"),
        "schedule": Setting("", _schedule, "learning rates and epochs, e.g. one-cycle 3e-3x12, or the notebook's 1e-3x1, 1e-1x4, 1e-2x12, 1e-3x18; empty: one cycle, by the number of rows"),
        "batch_size": Setting("128", int, "rows a training step"),
        "precision": Setting("auto", _word, "what training computes in: auto, float32 or bfloat16; predictions are float32"),
    },
    "Ensemble": {
        "method": Setting("auto", _word, "auto (weighted), weighted (geometric mean, a weight a bag), mean, geometric (mean of logarithms) or greedy (members chosen)"),
        "metric": Setting("log_loss", _word, "what the run is scored by: log_loss, accuracy, balanced_accuracy, roc_auc, f1_macro, f1_micro, f1_samples, map@5 (or another number) or qwk; it chooses method = auto and the labels"),
    },
    "Submission": {
        "format": Setting("labels", _word, "labels (one class a row; of several labels a column of 0 and 1 each), probabilities, tags (a row's labels in one column, blank-separated), top5 (or another number of classes a row), or auto: by the sample or metric"),
        "columns": Setting("", _parts, "header names, the id first, others as NAME or NAME = CLASS; empty: the sample submission's, or id and label / the class names"),
        "clip": Setting("auto", _clip, "probabilities' upper bound: auto (best for out-of-fold log-loss), none or a number"),
        "gzip": Setting("false", _boolean, "write submission.csv.gz"),
    },
    "Report": {
        "enabled": Setting("true", _boolean, "also write report/index.html, one page about the run, beside the submission"),
    },
    "Compare": {
        "backbones": Setting("", str.strip, "what CompareBackbones compares, as in [Features] backbone"),
        "rows": Setting("2000", int, "training rows that it extracts with each, of every class its share"),
    },
    "Cluster": {
        "scheduler": Setting("none", _scheduler, "where to compute: none (this process), local (worker processes on this machine) or tcp://HOST:PORT of a Dask scheduler"),
        "workers": Setting("0", int, "of local: worker processes, 0: one a visible GPU, or without one every four cores; of an address: how many must be connected, 0: one"),
        "threads": Setting("0", int, "of local: the cores of each worker; 0: all cores, evenly divided"),
        "gpus_per_worker": Setting("0", int, "of local: GPUs of each worker; 0: one, where there are any"),
    },
    "Paths": {
        "artifacts": Setting("artifacts", _path, "folder of all results"),
    },
}  # fmt: skip


def check_names(sections: Mapping[str, Mapping[str, str]], others: Collection[str] = ()) -> None:
    """Raise a `SettingsError` where a section or key is unknown, with the nearest known name, or a key occurs twice.

    `sections` is section -> key -> text, Luigi's own are ignored; `others` may be what a misspelt section means, too.
    """
    for section, values in sections.items():
        known = _OUTPUT if section == "output" else SECTIONS.get(section)
        if known is None and (section in LUIGI_SECTIONS or section.startswith(LOGGING)):
            continue
        if known is None:
            hint = did_you_mean(section, [*SECTIONS, "output", *others, *LUIGI_SECTIONS], form="[{}]")
            raise SettingsError(f"unknown section [{section}]{hint}; known: {', '.join(SECTIONS)}")
        for key in values:
            name = key.replace("-", "_")
            if name not in known or key not in (name, name.replace("_", "-")):  # Luigi finds no key of both kinds
                fault = f"unknown key {key!r}{did_you_mean(key, known)}"
                raise SettingsError(f"[{section}]: {fault}; known: {', '.join(known)}")
            if name in values and key != name:
                raise SettingsError(f"[{section}] has both {name} and {key}: remove one")


def parse_settings(sections: Mapping[str, Mapping[str, str]]) -> Settings:
    """Parse every setting; what `sections` (section -> key -> text, as in luigi.cfg) doesn't name has its default.

    Raises:
        SettingsError: an unknown name, a value of the wrong kind or out of range.
        BackboneError: no such backbone, or an image size below its minimum.

    Example:
        >>> settings = parse_settings({"Heads": {"folds": "10"}})
        >>> settings.heads.folds, settings.features.image_size
        (10, 48)
    """
    check_names(sections)
    texts = full_texts(sections)
    values = {name: _parse_section(name, own) for name, own in texts.items()}
    artifacts, features = values.pop("Paths")["artifacts"], values.pop("Features")
    auto = {
        "photos": values["Dataset"]["source"] in specs.PHOTO_SOURCES,
        "flattening": values["Heads"]["preset"] in _FLATTENING,
    }
    backbones = backbone_specs(features, **auto)
    compared = values["Compare"]
    compared["backbones"] = compared_specs(compared["backbones"], features, backbones, **auto)
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Settings)}
    made: dict[str, Any] = {name.lower(): kinds[name.lower()](**texts) for name, texts in values.items()}
    specs.refuse_half_a_demo(made["dataset"])
    if artifacts is None:
        raise SettingsError("[Paths] artifacts='' names no folder")
    for spec in (*backbones, *made["compare"].backbones):
        backbone_settings(spec)
    artifacts = paths.to_be_made(artifacts, made["dataset"].name, "[Paths] artifacts")
    unset = tuple(key for key, own in SECTIONS["Features"].items() if texts["Features"][key] == own.default)
    return Settings(**made, features=backbones[0], others=backbones[1:], artifacts=artifacts, unset=unset, texts=texts)


def full_texts(sections: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return section -> key (with underscores) -> text of every setting: the given one, or its default."""
    given = {name: {key.replace("-", "_"): text.strip() for key, text in of.items()} for name, of in sections.items()}
    return {
        name: {key: given.get(name, {}).get(key, own.default) for key, own in known.items()}
        for name, known in SECTIONS.items()
    }


def _parse_section(section: str, texts: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, setting in SECTIONS[section].items():
        text = texts[key]
        if setting.read in (_path, str.strip):  # a text may be a path, too
            paths.expanded(Path(text.strip()), f"[{section}] {key}")
        try:
            values[key] = setting.read(text)
        except SettingsError:
            raise
        except ValueError:
            raise SettingsError(f"[{section}] {key}={text!r} is not {_FORMS[setting.read]}") from None
    return values
