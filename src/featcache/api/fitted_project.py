"""A project in Python: what was run, as frames and arrays."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.api.image_explanation import ImageExplanation, explained
from featcache.api.images import Images, pictures
from featcache.api.report_page import ReportPage
from featcache.api.running import run_stage
from featcache.core import console
from featcache.core.formatting import Table, plain
from featcache.core.html import html_lines
from featcache.core.progress_bar import ProgressBar
from featcache.core.rows import BETWEEN_NAMES
from featcache.ensemble import Ensemble
from featcache.errors import CacheError, SettingsError, SourceError, UnknownTapError
from featcache.inspection import leaderboard_record, score_names, status_lines, status_record, summary_parts
from featcache.project import Project, out_of_fold, split_features

if TYPE_CHECKING:
    import pandas as pd

    from featcache.inference import Explainer, Predictor

_SHOWN_FROM = 500  # images, whose computing is worth a line
_AGAIN = "call featcache.fit again"


class FittedProject:
    """A project and what was made of it; returned by `featcache.fit` and `featcache.load_project`.

    In a notebook it shows its scores. Nothing is computed until it is asked for.

    Attributes:
        name: the data set's name.
        folder: where everything is kept, ``artifacts/<name>``.

    Example:
        >>> project = featcache.fit("PHOTOS")              # doctest: +SKIP
        >>> project.leaderboard().head()                   # doctest: +SKIP
        >>> project.predict(["a.jpg", array])["class"]     # doctest: +SKIP
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self.name: str = project.settings.dataset.name
        self.folder: Path = project.folder

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order: labels are indices into them; () before the images are listed."""
        return tuple((self._project.listed() or {}).get("class_names", ()))

    @property
    def submission(self) -> Path | None:
        """The checked submission; None where there is none of these settings."""
        artifact = self._project.submission()
        return artifact.shown if artifact.is_complete() else None

    def report(self) -> Path:
        """Return the report's page, a path which a notebook shows; it is made now if it isn't there.

        Raises:
            FeatcacheError: it can't be made.
        """
        if not self._project.report().is_complete():
            run_stage(self._project, "WriteReport", quiet=True)
        return ReportPage(self._project.folder / "report" / "index.html")

    def predict(self, images: Images) -> "pd.DataFrame":
        """Classify images by the trained ensemble.

        Args:
            images: a path, a folder, a Pillow image, a uint8 array, (h, w) to (n, h, w, 3), or a list of such.

        Returns:
            a line an image: ``image`` (its path, or its place from 0), ``class`` and its ``probability``, ``error`` (why an
            image can't be used, else ""), a column of probabilities for each class, and ``farther_than``: the share of the
            training images that are nearer to the others than this one is to them, above 0.995 it is unlike anything seen; NaN
            where it isn't known (before there is a report). The class is the most probable one
            unless another metric than log-loss decides. Where rows have several labels, ``labels`` in place of both: names
            with ``|`` between them.

        Raises:
            CacheError: there is no trained ensemble of these settings.
            SourceError: there are no images, or an array is none.
            WeightsError: the weights are missing, or others than the heads were trained by.
        """
        found = {Path(str(place)): picture for place, picture in enumerate(pictures(images))}
        self._progress.shown = len(found) >= _SHOWN_FROM
        predictor = self._predictor
        rows: list[list[Any]] = []
        for item in predictor.predict(found, len(found), lambda file: found[file].content()):
            values = np.full(len(predictor.class_names), np.nan) if item.probabilities is None else item.probabilities
            best: tuple[Any, ...] = (None, np.nan)
            if item.labels is not None:
                given = BETWEEN_NAMES.join(predictor.class_names[label] for label in item.labels)
                best = (None if item.probabilities is None else given,)
            elif item.probabilities is not None:
                best = predictor.class_names[item.best], values[item.best]
            share = np.nan if item.farther_than is None else item.farther_than
            rows.append([found[item.file].name, *best, item.reason, *values, share])
        shown = ["labels"] if predictor.several else ["class", "probability"]
        return _frame(rows, ["image", *shown, "error", *predictor.class_names, "farther_than"])

    def explain(self, image: Any, label: str | None = None) -> ImageExplanation:
        """Return where in an image the linear members of the ensemble see its class.

        Args:
            image: a path, a Pillow image or a uint8 array, (h, w) to (h, w, 4).
            label: a class's name; None for the predicted class.

        Returns:
            what a notebook shows as a picture; its ``heat`` and ``intercept`` sum to ``score``.

        Raises:
            CacheError: there is no trained ensemble of these settings.
            SettingsError: it has no linear members, or no such class.
            SourceError: there is no image, or several, or it can't be read.
            WeightsError: the weights are missing, or others than the heads were trained by.
        """
        found = pictures(image)
        if len(found) > 1:
            raise SourceError(f"images={len(found)}: explain takes one image: call it for each")
        explainer = self._explainer
        return explained(found[0], explainer, label)

    def features(
        self, split: str = "train", tap: str | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.str_]]:
        """Return ``X, y, ids`` of the usable rows of a split, ready for scikit-learn.

        Args:
            split: ``train``, ``valid`` or ``test``.
            tap: one tap alone, e.g. ``block5_pool:avg``; None for all, side by side.

        Returns:
            (n, d) float32, (n,) int32 labels, which index `class_names`, -1 where unknown, and (n,) ids.

        Raises:
            CacheError: the features aren't computed yet, or damaged, or there is no such tap.
            SourceError: there is no such split.

        Example:
            >>> X, y, ids = project.features()                                  # doctest: +SKIP
            >>> cross_val_score(LogisticRegression(), np.sqrt(X), y).mean()     # doctest: +SKIP
        """
        splits = self._project.splits()
        if not splits:
            raise CacheError(f"{self.folder} has no features of these settings: {_AGAIN}")
        if split not in splits:
            raise SourceError(f"split={split!r} has no images, only {', '.join(splits)}")
        found = split_features(self._project, split, 0)
        names = list(found.features) if tap is None else [_tap(tap, list(found.features))]
        usable = np.flatnonzero(found.usable)
        parts = [found.features[name][usable].reshape(len(usable), -1).astype(np.float32) for name in names]
        ids = np.array(list(found.reader.ids), dtype=str)
        return np.concatenate(parts, axis=1), np.asarray(found.reader.labels)[usable], ids[usable]

    def leaderboard(self) -> "pd.DataFrame":
        """Return the scores of the ensemble, of what it is compared with, and of every member, on rows that none has seen.

        Returns:
            a line each: ``member``, ``tap``, each score with ``<score> low`` and ``<score> high`` of its 95 % interval,
            ``weight`` in the ensemble and ``seconds`` of training.

        Raises:
            TrainingError: the members aren't trained.
        """
        record = leaderboard_record(self._project)
        rows = []
        for entry in record["entries"]:
            row = {"member": entry["member"], "tap": entry["tap"]}
            for name in score_names(record):
                low, high = entry["interval"][name]
                row |= {name: entry[name], f"{name} low": low, f"{name} high": high}
            rows.append({**row, "weight": entry["weight"], "seconds": entry["seconds"]})
        return _frame(rows)

    def out_of_fold(self) -> "pd.DataFrame":
        """Return the ensemble's probabilities of the training rows, each by models and weights that haven't seen its fold.

        Returns:
            a line a row: ``id``, ``label`` (a class name, None where unknown; of several labels a row, 0 or 1 for each),
            ``fold``, and a column for each class; NaN where a row can't be scored.

        Raises:
            CacheError: there is no ensemble of these settings.
        """
        artifact = self._project.ensemble()
        if not artifact.is_complete():
            raise CacheError(f"{self.folder} has no ensemble of these settings: {_AGAIN}")
        built, known = Ensemble.load(artifact.path), out_of_fold(self._project)
        table = np.full((len(known.ids), len(built.class_names)), np.nan)
        for rows, part in built.nested_parts(known):
            table[rows] = part
        names = np.array([*built.class_names, None], dtype=object)
        labels = names[known.labels].tolist() if known.labels.ndim == 1 else known.labels.tolist()
        folds = [] if known.folds is None else known.folds.tolist()  # there are always some: these are trained rows
        return _frame(
            [(*each, *row) for *each, row in zip(known.ids, labels, folds, table.tolist(), strict=True)],
            ["id", "label", "fold", *built.class_names],
        )

    def status(self) -> "pd.DataFrame":
        """Return a line a stage: whether it is complete, and what would make it run."""
        _, table, *_ = status_lines(status_record(Project(self._project.settings)))
        assert isinstance(table, Table)  # noqa: S101 - for the type
        return _frame(list(table.rows), list(table.columns))

    def __repr__(self) -> str:
        return "\n".join([f"<featcache {self.name}: {self._shown}>", *plain(self._summary())[1:]])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_lines(f"{self.name}: {self._shown}", self._summary())

    @property
    def _shown(self) -> Path:
        """The folder from the current one, where it is below that."""
        here = Path.cwd()
        return self.folder.relative_to(here) if self.folder.is_relative_to(here) else self.folder

    def _summary(self) -> Any:
        if not self._project.ensemble().is_complete():
            return ["", f"it has no results of these settings: {_AGAIN}"]
        return summary_parts(self._project)

    @cached_property
    def _progress(self) -> "_Progress":
        return _Progress()

    @cached_property
    def _predictor(self) -> "Predictor":
        from featcache.inference import Predictor

        return Predictor(self._project, self._progress)

    @cached_property
    def _explainer(self) -> "Explainer":
        from featcache.inference import Explainer

        return Explainer(self._project, self._progress)


class _Progress(ProgressBar):
    """On standard output, as a notebook shows standard error in red."""

    def __init__(self) -> None:
        super().__init__(partial(console.say), shown=False)

    @property
    def shown(self) -> bool:
        """Whether more than notices are printed."""
        return self._shown

    @shown.setter
    def shown(self, shown: bool) -> None:
        self._shown = shown


def _tap(tap: str, names: list[str]) -> str:
    name = tap.replace(":", "_")
    if name not in names:
        raise UnknownTapError(f"tap={tap!r} is not one of {', '.join(names)}")
    return name


def _frame(rows: Sequence[Any], columns: list[str] | None = None) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ImportError as error:
        raise SettingsError(f"pandas can't be imported ({error}): pip install pandas") from error
    return pd.DataFrame(rows, columns=columns)
