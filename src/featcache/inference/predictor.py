"""Image files classified by the trained ensemble: decoded and computed as in a run, batch by batch, in flat memory."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.csv_files import replacing_csv
from featcache.core.formatting import printable
from featcache.core.paths import NOTHING, fault, is_folder, read_bytes, what_is
from featcache.core.progress import Progress
from featcache.core.rows import BETWEEN_NAMES
from featcache.dataset import MOST_BYTES, decode_rgb, image_files
from featcache.errors import RejectedImageError, SourceError
from featcache.features import ForwardPass
from featcache.inference.served_ensemble import Images, ServedEnsemble, load_served
from featcache.project import FAR, BackboneFeatures, Project, familiarity, resolved_backbone

_AHEAD = 2  # batches decoded before they are needed
_UNLIKE = "  unlike anything seen in training"

Views = Mapping[int, npt.NDArray[np.uint8]]  # one image: size -> (size, size, 3) RGB


def image_bytes(file: Path) -> bytes:
    """Return the bytes of an image file; an `OSError` if it is too large to be one, or can't be read."""
    return read_bytes(file, MOST_BYTES)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the ensemble predicts for one file: (C,) float64 probabilities, or the reason why it can't be used."""

    file: Path
    probabilities: npt.NDArray[np.float64] | None
    reason: str = ""
    decided: int | None = None  #: by the metric; None: the most probable
    labels: tuple[int, ...] | None = (
        None  #: of several labels a file, those that it is given; None where it has one class
    )
    farther_than: float | None = (
        None  #: the share of the training images that are nearer to the others; None where it isn't known
    )

    @property
    def unlike(self) -> bool | None:
        """Whether it is unlike anything seen in training; None where that isn't known."""
        return None if self.farther_than is None else self.farther_than > FAR

    @property
    def best(self) -> int:
        """The class of a file that can be used."""
        if self.decided is not None:
            return self.decided
        return -1 if self.probabilities is None else int(self.probabilities.argmax())


class Predictor:
    """The ensemble of one project, ready for image files; `class_names` are in the order of the probabilities."""

    def __init__(self, project: Project, progress: Progress) -> None:
        """Load the ensemble, its members' models, and each backbone whose features any of them looks at.

        Raises:
            CacheError: there is no trained ensemble of these settings.
            WeightsError: the weights are missing, or others than the heads were trained by.
        """
        self._served: ServedEnsemble = load_served(project)
        self._progress = progress
        self._backbones: list[tuple[BackboneFeatures, ForwardPass]] = [
            (backbone, resolved_backbone(backbone, progress)) for backbone, _ in self._served.seen_taps(project)
        ]
        plain = project.as_stored()
        seen = {backbone.label for backbone, _ in self._backbones}
        self._familiarity = familiarity(plain) if plain.backbones[0].label in seen else None
        self._fit, self._mirror = project.settings.features.image_fit, project.settings.features.mirror
        self._sizes = {convnet.image_size for convnet in self._served.convnets}
        self._sizes |= {backbone.spec.image_size for backbone, _ in self._backbones}
        for problem in dict.fromkeys(network.device.problem for _, network in self._backbones):
            if problem:
                progress.notice(problem)
        self.class_names, self.several = self._served.ensemble.class_names, self._served.ensemble.several

    def predict(
        self, files: Iterable[Path], count: int, read: Callable[[Path], bytes] = image_bytes
    ) -> Iterator[Prediction]:
        """Yield a prediction for each of `count` files, in order; one that can't be used doesn't stop the others.

        `read` returns a file's bytes, or raises an `OSError`; several threads call it.
        """
        self._progress.start("predicting", count, "images")
        try:
            size = self._batch_size()
            decoded = _decoded(files, partial(_decode, sizes=self._sizes, fit=self._fit, read=read), _AHEAD * size)
            while batch := list(islice(decoded, size)):
                yield from self._classified(batch)
                self._progress.advance(len(batch))
        finally:
            self._progress.finish()

    def _batch_size(self) -> int:
        """Images predicted at once: as many of the largest backbone's batches as the convnets take in one."""
        sizes = [network.batch_size for _, network in self._backbones]
        if not self._served.convnets and sizes:
            return max(sizes)
        from featcache.training import PREDICT_BATCH

        size = max(sizes, default=PREDICT_BATCH)
        return size * max(1, PREDICT_BATCH // size)

    def _classified(self, batch: Sequence[tuple[Path, Views | str]]) -> Iterator[Prediction]:
        decision, several = self._served.ensemble.decision, self.several
        none: tuple[int, ...] | None = () if several else None
        usable = [views for _, views in batch if not isinstance(views, str)]
        images = {size: np.stack([views[size] for views in usable]) for size in self._sizes} if usable else {}
        rows = iter(self._computed(images, len(usable)) if usable else ())
        for file, views in batch:
            if isinstance(views, str):
                yield Prediction(file, None, views, labels=none)
                continue
            probabilities, share = next(rows)
            if not np.isfinite(probabilities).all():
                yield Prediction(file, None, "its features are beyond float16's range", labels=none)
            elif several:
                given = np.flatnonzero(replace(decision, filled=True).classes(probabilities[None])[0])
                yield Prediction(file, probabilities, labels=tuple(given.tolist()), farther_than=share)
            else:
                decided = int(decision.classes(probabilities[None])[0])
                yield Prediction(file, probabilities, decided=decided, farther_than=share)

    def _computed(
        self, images: Mapping[int, Images], count: int
    ) -> Iterable[tuple[npt.NDArray[np.float64], float | None]]:
        """(C,) probabilities, NaN for features that aren't finite, and `farther_than` of each of size -> (count, size, size, 3)."""
        views: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(1 + self._mirror)] if self._backbones else []
        for backbone, network in self._backbones:
            plain = images[backbone.spec.image_size]
            mirrored = [np.ascontiguousarray(plain[:, :, ::-1])] if self._mirror else []
            for view, seen in zip(views, (plain, *mirrored), strict=True):
                view |= {backbone.input_name(tap): computed for tap, computed in network.forward(seen).items()}
        sound = np.ones(count, bool)
        for computed in (tap for view in views for tap in view.values()):
            sound &= np.isfinite(computed).reshape(count, -1).all(axis=1)
        probabilities = np.full((count, len(self.class_names)), np.nan)
        shares: list[float | None] = [None] * count
        if sound.any():
            views = [{tap: computed[sound] for tap, computed in view.items()} for view in views]
            probabilities[sound] = self._served.probabilities(
                views, {size: seen[sound] for size, seen in images.items()}
            )
            if self._familiarity is not None:
                known = iter(self._familiarity(views[0]).tolist())
                shares = [next(known) if usable else None for usable in sound]
        return zip(probabilities, shares, strict=True)


def find_images(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files among `paths` as they are, and of each folder all image files in and below it.

    Raises:
        SourceError: nothing is there, or a folder without images.
    """
    for path in paths:
        if what_is(path) == NOTHING:
            raise SourceError(f"{str(path)!r} is not there: name an image or a folder of images")
        if not is_folder(path):
            yield path
            continue
        file = None
        for file in image_files(path):
            yield file
        if file is None:
            raise SourceError(f"{str(path)!r} has no images: name a folder that has some")


def count_images(paths: Sequence[Path]) -> tuple[int, int]:
    """Return how many files `find_images` finds, and the longest shown name's length; raises what it raises."""
    count = longest = 0
    for file in find_images(paths):
        count, longest = count + 1, max(longest, len(printable(str(file))))
    return count, longest


def prediction_record(prediction: Prediction, class_names: Sequence[str]) -> dict[str, Any]:
    """Return one file's prediction as JSON-able values; without class and probabilities where it can't be used.

    Of several labels a file there is no class, and ``labels``, those above their thresholds or else the most probable one.
    ``farther_than`` is the share of the training images that are nearer to the others than this one is to them, and ``unlike``
    whether that is so great that it is unlike anything seen; both None where it isn't known.
    """
    record: dict[str, Any] = {"file": printable(str(prediction.file)), "error": printable(prediction.reason) or None}
    share = prediction.farther_than
    record |= {"unlike": prediction.unlike, "farther_than": None if share is None else round(share, 4)}
    several = prediction.labels is not None
    record |= dict.fromkeys(("labels", "probabilities") if several else ("class", "probability", "probabilities"))
    if prediction.probabilities is not None:
        best = prediction.best
        values = [float(f"{value:.7g}") for value in prediction.probabilities]  # as in the submission
        if prediction.labels is not None:
            record["labels"] = [class_names[label] for label in prediction.labels]
        else:
            record |= {"class": class_names[best], "probability": values[best]}
        record["probabilities"] = dict(zip(class_names, values, strict=True))
    return record


def prediction_lines(predictions: Iterable[Prediction], class_names: Sequence[str], width: int) -> Iterator[str]:
    """Yield a table's lines as they are known: file, in `width` columns, class, its probability, the next best.

    Of several labels a file: file, its labels with their probabilities. What is unlike anything seen comes last.
    """
    names = [printable(name) for name in class_names]
    wide = max(len("class"), *map(len, names))
    for place, item in enumerate(predictions):
        if item.labels is not None:
            if place == 0:
                yield f"{'file':<{width}}  labels"
            if item.probabilities is not None:
                given = ", ".join(f"{names[label]} {item.probabilities[label]:.4f}" for label in item.labels)
                yield f"{printable(str(item.file)):<{width}}  {given}{_UNLIKE * bool(item.unlike)}"
            continue
        if place == 0:
            yield f"{'file':<{width}}  {'class':<{wide}}  probability  next best"
        if item.probabilities is not None:
            best = item.best
            second = next(each for each in np.argsort(-item.probabilities, kind="stable").tolist() if each != best)
            shown = f"{printable(str(item.file)):<{width}}  {names[best]:<{wide}}  {item.probabilities[best]:<11.4f}"
            yield f"{shown}  {names[second]} {item.probabilities[second]:.4f}{_UNLIKE * bool(item.unlike)}"


def rejected_line(prediction: Prediction) -> str:
    """Return why a file has no prediction, in one line."""
    return printable(f"{prediction.file}: rejected: {prediction.reason}")


def write_csv(
    path: Path, predictions: Iterable[Prediction], class_names: Sequence[str], *, several: bool = False
) -> Iterator[Prediction]:
    """Yield what comes, and write it: file, class, a column of probabilities for each class, and ``farther_than``.

    Of `several` labels a file these are in one column, with ``|`` between them.

    The file gets its name when all is through; files that can't be used are not in it.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with replacing_csv(path) as lines:
        lines.row(("file", "labels" if several else "class", *class_names, "farther_than"))
        for item in predictions:
            if item.probabilities is not None:
                given = item.labels if item.labels is not None else (item.best,)
                text = BETWEEN_NAMES.join(class_names[label] for label in given)
                share = "" if item.farther_than is None else f"{item.farther_than:.4f}"
                lines.row((item.file, text, *(f"{value:.7g}" for value in item.probabilities), share))
            yield item


def _decoded(
    files: Iterable[Path], decode: Callable[[Path], Views | str], ahead: int
) -> Iterator[tuple[Path, Views | str]]:
    """Yield each file with what `decode` makes of it; threads decode up to `ahead` more."""
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="featcache-decode")
    queue: deque[tuple[Path, Future[Views | str]]] = deque()
    try:
        for file in files:
            queue.append((file, pool.submit(decode, file)))
            if len(queue) > ahead:
                first, views = queue.popleft()
                yield first, views.result()
        for first, views in queue:
            yield first, views.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(file: Path, sizes: Collection[int], fit: str, read: Callable[[Path], bytes]) -> Views | str:
    """A file's image in all `sizes`, or why there is none."""
    try:
        content = read(file)
        return {size: decode_rgb(content, size, fit=fit) for size in sizes}
    except RejectedImageError as error:
        return str(error)
    except OSError as error:
        return f"can't be read: {fault(error)}"
