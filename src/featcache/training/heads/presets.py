"""What a head is and how it is trained: the settings, resolved for the training rows.

A preset has one or more head types, which files and keys call *shapes*; the heads of an input and a type are a bag.
"""

import math
from dataclasses import asdict, dataclass, replace

from featcache.errors import TrainingError
from featcache.settings import ONE_CYCLE, HeadsSpec, Phase, rates

TRAINING_VERSION = 6  # raise it when the same plan trains to other values
LINEAR_VERSION = 8  # the same for the head types ``linear`` and ``lda``
LINEAR, LDA = "linear", "lda"
PATHS = (LINEAR, LDA)  # fitted along a path of one number each, by no schedule
_DECAY = 1.2  # see `_trained`
_KEPT_OF_LABELS = 0.6  # of the values that the first layer would see: rare labels have few rows (benchmarks/RESULTS.md)
BY_GROUP, PSEUDO = "-by-group", "-pseudo"  # the ends of a head type's name that is trained in another way


@dataclass(frozen=True)
class HeadPlan:
    """Everything that decides what the heads of a bag become, besides rows, folds and seeds.

    Attributes:
        features: values a row has, flattened.
        hidden: widths of the dense layers, each followed by relu and batch normalisation.
        dropouts: the share dropped before each dense layer, the softmax layer included; len(hidden) + 1 values.
        schedule: learning rates and epochs, in order.
        batch_size: rows a step and head.
        momentum: of batch normalisation's moving averages.
        recompute_statistics: replace those averages, after training, by the statistics of the head's training rows.
        weight_decay: what Adam takes off each kernel a step, times the learning rate.
        label_smoothing: the share of each label that is spread evenly over all classes.
        tempered: each head's logits are divided by the temperature that is best for the other folds' rows.
        keep_best: a head keeps the epoch that is best for the other folds' heads on their folds; False: the last.
        early_stop: epochs without a better one after which training ends; 0: never. Needs `keep_best`.
        balanced: rows count by `featcache.training.class_weights`, so that every class counts the same; of several labels
            a row, zeros and ones of each label.
        several: a row may have several of the classes: sigmoid and binary cross-entropy, the mean over labels.
    """

    features: int
    classes: int
    hidden: tuple[int, ...]
    dropouts: tuple[float, ...]
    schedule: tuple[Phase, ...]
    batch_size: int
    momentum: float = 0.99
    recompute_statistics: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    tempered: bool = False
    keep_best: bool = False
    early_stop: int = 0
    balanced: bool = False
    several: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training rows, unless `early_stop` ends them."""
        return sum(phase.epochs for phase in self.schedule)

    def settings(self) -> dict[str, object]:
        """The plan as JSON-able values, for keys and records."""
        values = {**asdict(self), "training_version": TRAINING_VERSION}
        return values if self.several else {name: value for name, value in values.items() if name != "several"}


def head_types(spec: HeadsSpec, *, several: bool = False) -> tuple[str, ...]:
    """Return the head types of the settings, in order, for rows of one label or `several`.

    With `per_group`, each type of trained heads comes a second time, a head for each group and not for each fold; with
    `pseudo_weight` once more, trained on test rows too.
    """
    plain = first_round(spec, several=several)
    trained = [shape for shape in plain if shape not in PATHS]
    by_group = [shape + BY_GROUP for shape in trained] if spec.per_group else []
    return (*plain, *by_group, *([shape + PSEUDO for shape in trained] if spec.pseudo_weight else []))


def first_round(spec: HeadsSpec, *, several: bool = False) -> tuple[str, ...]:
    """Return the head types that are trained by folds on labelled rows alone: those that may label others.

    Discriminant analysis has one class a row; of `several` labels regressions are the only path.
    """
    paths = (LINEAR,) if several else PATHS
    return {"default": ("dense", *paths), "fast": ("fast", *paths)}.get(spec.preset, (spec.preset,))


def normalizes(spec: HeadsSpec) -> bool:
    """Whether heads see normalised features, pooled taps side by side; the recipe's see each tap as it is."""
    return spec.preset not in ("recipe", "wide")


def head_type_settings(spec: HeadsSpec, shape: str) -> dict[str, object]:
    """Return the settings that decide a type's heads, JSON-able, for its bag's key: not which preset has it."""
    if shape in PATHS:
        return {"shape": shape, **shared_settings(spec)}
    other = {"preset", "per_group", "class_weight", "engine"} | (
        {"pseudo_weight"} if not shape.endswith(PSEUDO) else set()
    )
    own = {name: value for name, value in asdict(spec).items() if name not in other}
    return {"shape": shape, **own, **shared_settings(spec)}


def shared_settings(spec: HeadsSpec) -> dict[str, object]:
    """Return the settings of heads that decide regressions and convnets, too; class weights only where there are some."""
    return {"folds": spec.folds, **({"class_weight": spec.class_weight} if spec.balanced else {})}


def training_version(shape: str) -> int:
    """Return the version of a head type's training, for its bag's key."""
    return LINEAR_VERSION if shape in PATHS else TRAINING_VERSION


def resolve_heads(
    spec: HeadsSpec,
    shape: str,
    features: int,
    rows: int,
    classes: int,
    groups: int = 0,
    copies: int = 1,
    *,
    several: bool = False,
) -> HeadPlan:
    """Fill in what the head type decides; what the user set wins.

    Args:
        spec: the settings.
        shape: the head type, one of `head_types(spec)`.
        features: values of one row, flattened.
        rows: usable training rows of one copy, all folds together.
        classes: at least 2.
        groups: how many groups have `rows`; 0 where every row is a group of its own.
        copies: how many there are of each row: plain, mirrored, augmented.
        several: whether a row may have several of the classes, which then are labels.

    Raises:
        TrainingError: fewer than 2 classes, or no label, or no features.
    """
    if classes < 2 - several:
        raise TrainingError(f"classes={classes} are too few to train on: add a class folder")
    if features < 1:
        raise TrainingError(f"features={features} are none to train on")
    in_training = max(1, rows // max(1, groups) if shape.endswith(BY_GROUP) else rows - rows // spec.folds)
    kind = shape.removesuffix(BY_GROUP).removesuffix(PSEUDO)
    plan = HeadPlan(features, classes, (), (0.0,), (), spec.batch_size, balanced=spec.balanced, several=several)
    if kind in PATHS:  # which find their one free number themselves
        return plan
    alike = 1 if shape.endswith(BY_GROUP) else rows / (groups or rows)
    plan = _trained(spec, kind, plan, in_training * copies, alike)
    # what every type means the same by
    wanted = {name: getattr(spec, name) for name in ("weight_decay", "label_smoothing", "early_stop")}
    plan = replace(plan, **{name: value for name, value in wanted.items() if value is not None})
    # heads of one group are scored on all others, so no rows are left to find a temperature by
    tempered = plan.tempered and not shape.endswith(BY_GROUP)
    return replace(plan, tempered=tempered, keep_best=plan.keep_best or plan.early_stop > 0)


def _trained(spec: HeadsSpec, kind: str, plan: HeadPlan, rows: int, alike: float) -> HeadPlan:
    """The plan of heads that are trained step by step, on `rows` of which so many are `alike`, being of one group.

    Regularisation follows what the weights lose over the whole training to decay alone, a factor of exp(-`_DECAY`)
    whatever steps and rates are, and more where rows are worth less than their number: with 130 photos a driver three
    times as much does better, with every photo for itself worse. The kept epoch and the temperature do the rest.
    """
    hidden, dropout, schedule = _defaults(kind, rows, plan.batch_size)
    hidden = hidden if spec.hidden is None else spec.hidden
    dropout = dropout if spec.dropout is None else spec.dropout
    before = dropout if kind == "wide" else dropout / 2  # the recipe halves p before every layer but the last
    if plan.several and kind not in ("recipe", "wide"):
        before = 1 - _KEPT_OF_LABELS * (1 - dropout)
    schedule = spec.schedule or schedule
    plan = replace(plan, hidden=hidden, dropouts=(before,) * len(hidden) + (dropout,), schedule=schedule)
    if kind in ("recipe", "wide"):
        return plan
    steps = math.ceil(rows / plan.batch_size)
    travelled = sum(rate for epoch in range(plan.epochs) for rate in rates(schedule, epoch, steps))
    decay = _DECAY * alike**0.25 / travelled
    return replace(plan, momentum=0.9, recompute_statistics=True, weight_decay=decay, tempered=True, keep_best=True)


def _defaults(kind: str, rows: int, batch_size: int) -> tuple[tuple[int, ...], float, tuple[Phase, ...]]:
    """Widths of the hidden layers, dropout and schedule."""
    if kind == "recipe":
        return (128, 128), 0.8, (Phase(1e-3, 1), Phase(1e-2, 2))
    if kind == "wide":
        return (256, 256), 0.8, (Phase(1e-3, 1), Phase(1e-2, 4), Phase(1e-4, 4))
    steps = math.ceil(rows / batch_size)
    width, most = (32, 8) if kind == "fast" else (64, 15)
    epochs = min(most, max(6, math.ceil(1200 / steps)))
    return (width,), 0.5, (Phase(1e-2, epochs, ONE_CYCLE),)
