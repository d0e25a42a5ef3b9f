"""The submission's header, and which class each of its columns takes: by name, or as the settings say. No Keras."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from featcache.core.names import composed, first_names, match_columns, shown
from featcache.ensemble.sample_submission import Sample
from featcache.errors import SubmissionError
from featcache.settings import AUTO, LOG_LOSS, SubmissionSpec

_SHOWN = 12
_TOP, _RANKED = "top", "map@"  # each followed by a number
# What a single column of probabilities is called where its name says nothing of the class that it is about.
_GENERIC = re.compile(
    r"class(es)?|expected|labels?|outputs?|p|pred(ict(ed|ions?))?|prob(a|abilit(y|ies))?|result|score|target|value|y",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9.,+-]+")
_NO_OR_YES = (("0", "1"), ("false", "true"), ("no", "yes"), ("negative", "positive"))


@dataclass(frozen=True)
class Layout:
    """A submission's header and what its columns take.

    Attributes:
        columns: the header, the id column first.
        classes: for each column after the id which class it takes; None for one column of labels.
        decided: whether these columns hold 0 and 1, what is decided for, and no probabilities.
        notices: what a person should look at, a line each.
        top: how many labels that column has, blank-separated, the most probable first; 0 for the one decided for.
    """

    columns: tuple[str, ...]
    classes: tuple[int, ...] | None
    notices: tuple[str, ...] = ()
    top: int = 0
    decided: bool = False


def submission_format(metric: str, class_names: Sequence[str], sample: Sample | None, *, several: bool = False) -> str:
    """Return what ``auto`` is: ``labels``, ``probabilities`` or ``top`` and a number; by the sample, else by the metric.

    Of `several` labels a row: ``tags`` where the sample has one column, or with a metric of decisions no sample.

    Example:
        >>> submission_format("map@3", ["cat", "dog"], None), submission_format("qwk", ["0", "1", "2"], None)
        ('top3', 'labels')
    """
    if several:
        return _format_of_labels(metric, class_names, sample)
    if sample is None:
        return _wanted(metric) or ("probabilities" if metric == LOG_LOSS else "labels")
    if len(sample.columns) > 2:
        return "probabilities"
    most, cells = _several(sample, class_names), sample.labels
    if most or metric.startswith(_RANKED):
        return f"{_TOP}{most}" if most else _wanted(metric)
    numbers = all(map(_NUMBER.fullmatch, cells))
    known = set(map(composed, cells)) <= set(map(composed, class_names))
    sure = not known or (numbers and _wanted(metric) == "probabilities")
    return "probabilities" if len(class_names) == 2 and sure else "labels"


def layout_of(
    spec: SubmissionSpec,
    class_names: Sequence[str],
    sample: Sample | None,
    metric: str = LOG_LOSS,
    *,
    several: bool = False,
) -> Layout:
    """Return what a submission of these classes looks like by its settings, the sample and the metric.

    Raises:
        SubmissionError: the columns of the sample or of the settings don't fit each other, the format or the classes, or
            the format doesn't fit the metric.
    """
    form, wanted = spec.format, _wanted(metric)
    if form == AUTO:
        form = submission_format(metric, class_names, sample, several=several)
    elif form in ("labels", "tags") and wanted:
        raise SubmissionError(
            f"[Submission] format={form} is not what [Ensemble] metric={metric} scores: set [Submission] format = {wanted}"
        )
    if form == "tags" and not several:
        raise SubmissionError("[Submission] format=tags needs rows of several labels: set [Submission] format = labels")
    where = str(sample.path) if sample else "[Submission] columns"
    notices = []
    if sample is not None and sample.delimiter != ",":
        notices.append(f"{where}: its fields are separated by {sample.delimiter!r}, the submission's by commas")
    if several and sample is not None and form != "tags" and not form.startswith(_TOP):
        _refuse_tags(form, sample, class_names)
    if form != "probabilities" and not (several and form == "labels"):
        pair = _header(spec.columns, sample) or ("id", "tags" if form == "tags" else "label")
        if len(pair) != 2:
            raise SubmissionError(
                f"{where}: {len(pair)} columns ({_listed(pair)}), where format={form} has 2: set [Submission] "
                f"format = {'auto' if several else 'probabilities'}"
            )
        top = int(form.removeprefix(_TOP)) if form.startswith(_TOP) else 0
        _check_several(form, class_names, sample)
        blank = bool(top) or form == "tags"
        return Layout(pair, None, (*notices, *_other_labels(sample, class_names, blank=blank)), top)
    names, meant = _assigned(spec.columns, class_names, sample)
    columns = _header(names, sample) or ("id", *class_names)
    if not several:
        _refuse_labels(sample, class_names)
        _check_several(form, class_names, sample)
    classes, notice = _classes(columns, meant or columns[1:], class_names, where, several=several)
    return Layout(columns, classes, (*notices, *notice), decided=form == "labels")


def _format_of_labels(metric: str, class_names: Sequence[str], sample: Sample | None) -> str:
    """What ``auto`` is where a row has several labels."""
    wanted = _wanted(metric) or ("probabilities" if metric == LOG_LOSS else "tags")
    if sample is None:
        return wanted
    if _is_tagged(sample, class_names):
        return wanted if _in_one_column(wanted) else "tags"
    return "labels" if wanted == "tags" else "probabilities"


def _in_one_column(form: str) -> bool:
    return form == "tags" or form.startswith(_TOP)


def _is_tagged(sample: Sample, class_names: Sequence[str]) -> bool:
    """Whether a sample of several labels a row has all of them in its one column, which is no only label's own."""
    own = len(class_names) == 1 and match_columns(sample.columns[1:], class_names) == [0]
    return len(sample.columns) == 2 and not own


def _refuse_tags(form: str, sample: Sample, class_names: Sequence[str]) -> None:
    if _is_tagged(sample, class_names):
        raise SubmissionError(
            f"{sample.path}: one column ({shown(sample.columns[1])}) for {len(class_names)} labels, where format={form} "
            "has one each: set [Submission] format = tags"
        )


def _header(columns: tuple[str, ...], sample: Sample | None) -> tuple[str, ...]:
    """The sample's columns, to which those of the settings must be equal where there are any."""
    if sample is None:
        return columns
    if columns and [*map(composed, columns)] != [*map(composed, sample.columns)]:
        raise SubmissionError(
            f"[Submission] columns = {_listed(columns)} differ from {_listed(sample.columns)} of {sample.path}: "
            "drop the setting, the sample has them"
        )
    return sample.columns


def _assigned(
    columns: tuple[str, ...], class_names: Sequence[str], sample: Sample | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``COLUMN = CLASS`` of the settings into the header and the class of each column after the id."""
    names, meant = list(columns[:1]), []
    known = set(map(composed, (*class_names, *(sample.columns if sample else ()))))
    for column in columns[1:]:
        name, sign, of = (part.strip() for part in column.partition("="))
        if not sign or composed(column) in known:  # a name with an equals sign in it
            name = of = column
        names.append(name)
        meant.append(of)
    return tuple(names), tuple(meant)


def _classes(
    columns: tuple[str, ...], meant: Sequence[str], class_names: Sequence[str], where: str, *, several: bool = False
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which class each column takes, and a notice about it, if any.

    Raises:
        SubmissionError: that is unclear for one of them, or a class is left over.
    """
    found = match_columns(meant, class_names)
    one_of_two = len(meant) == 1 and len(class_names) == 2 and not several
    plain = tuple(name.casefold() for name in class_names) in _NO_OR_YES
    if one_of_two and found == [None] and (plain or _GENERIC.fullmatch(meant[0])):
        head, column, first, second = map(shown, (columns[0], meant[0], *class_names))
        notice = f"{where}: column {column} holds the probability of class {second}"
        return (1,), (f"{notice}; for the other: [Submission] columns = {head}, {column} = {first}",)
    if None in found or not (one_of_two or len(found) == len(class_names)):
        raise SubmissionError(_unmatched(columns, meant, found, class_names, where))
    classes = tuple(place for place in found if place is not None)
    pairs = [f"{shown(name)} = {shown(class_names[place])}" for name, place in zip(meant, classes, strict=True)
             if composed(name) != composed(class_names[place])]  # fmt: skip
    notice = f"{where}: columns that are written otherwise than their classes: {_listed(pairs)}"
    return classes, (notice,) if pairs else ()


def _unmatched(
    columns: Sequence[str], meant: Sequence[str], found: Sequence[int | None], class_names: Sequence[str], where: str
) -> str:
    strange = [name for name, place in zip(meant, found, strict=True) if place is None]
    left = [name for place, name in enumerate(class_names) if place not in found]
    what = f"; unknown: {_listed(strange, 3)}" if strange else ""
    what += f"; without a column: {_listed(left, 3)}" if left and len(meant) > 1 else ""
    if len(meant) == 1 and len(class_names) > 2:
        what += ": set [Submission] format = labels"
    else:
        which = f"{shown(columns[0])}, {shown(strange[0]) if strange else 'COLUMN'} = CLASS, ..."
        what += f": name the class folders like the columns, or say which is which by [Submission] columns = {which}"
    return (
        f"{where}: the columns after the id ({_listed(meant)}) are not one for each of {len(class_names)} classes "
        f"({_listed(class_names)}){what}"
    )


def _wanted(metric: str) -> str:
    """The one format that a metric can be scored on, if there is one but for ``probabilities`` of log-loss."""
    if metric.startswith(_RANKED):
        return f"{_TOP}{metric.removeprefix(_RANKED)}"
    return "probabilities" if metric == "roc_auc" else ""


def _several(sample: Sample, class_names: Sequence[str]) -> int:
    """How many blank-separated classes the sample's cells hold; 0 where none holds several."""
    known = set(map(composed, class_names))
    cells = (cell.split() for cell in sample.labels if composed(cell) not in known)
    return max((len(cell) for cell in cells if len(cell) > 1 and known.issuperset(map(composed, cell))), default=0)


def _check_several(form: str, class_names: Sequence[str], sample: Sample | None) -> None:
    """Refuse cells of several classes where others shall be written, and several classes that couldn't be told apart.

    Raises:
        SubmissionError: so it is.
    """
    several = _several(sample, class_names) if sample else 0
    if sample is not None and several and not _in_one_column(form):
        raise SubmissionError(
            f"{sample.path}: column {shown(sample.columns[1])} holds {several} classes a row, blank-separated, which is "
            f"not format={form}: set [Submission] format = {_TOP}{several}"
        )
    blank = next((name for name in class_names if name.split() != [name]), None)
    if _in_one_column(form) and blank is not None:
        raise SubmissionError(
            f"[Submission] format={form} separates classes by blanks, and {shown(blank)} has one: rename its folder"
        )


def _other_labels(sample: Sample | None, class_names: Sequence[str], *, blank: bool) -> list[str]:
    """A notice where a sample's labels aren't written like the classes."""
    known = set(map(composed, class_names))
    cells = sample.labels if sample else ()
    labels = dict.fromkeys(name for cell in cells for name in cell.split()) if blank else cells
    strange = [label for label in labels if label and composed(label) not in known]
    if sample is None or not strange:
        return []
    notice = (
        f"{sample.path}: column {shown(sample.columns[1])} holds {_listed(strange, 3)}; the submission has the names "
        f"of the class folders, {_listed(class_names, 3)}: rename these if the sample's is the right way, or set "
        "[Submission] format = probabilities"
    )
    return [notice]


def _refuse_labels(sample: Sample | None, class_names: Sequence[str]) -> None:
    """Refuse a sample whose one column holds class names where probabilities shall be written."""
    known = {composed(name).casefold() for name in class_names}
    label = next((each for each in (sample.labels if sample else ()) if composed(each).casefold() in known), None)
    if sample is not None and label is not None and not _NUMBER.fullmatch(label):
        raise SubmissionError(
            f"{sample.path}: column {shown(sample.columns[1])} holds {shown(label)}, no number for format=probabilities"
            ": set [Submission] format = labels"
        )


def _listed(names: Sequence[str], most: int = _SHOWN) -> str:
    return first_names(names, most, shown)
