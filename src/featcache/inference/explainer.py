"""Single images explained: the ensemble's class, and where its linear members see it."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.disk import replacing
from featcache.core.formatting import Lines, Table, pluralize, printable
from featcache.core.names import did_you_mean, first_names
from featcache.core.paths import fault
from featcache.core.progress import Progress
from featcache.dataset import decode_rgb
from featcache.errors import RejectedImageError, SettingsError, SourceError
from featcache.features import STREAMS, Backbone, map_name
from featcache.inference.evidence import Evidence, PooledMap, head_evidence, spread, summed
from featcache.inference.predictor import image_bytes
from featcache.inference.served_ensemble import ServedBag, load_served
from featcache.project import BackboneFeatures, Project, backbone_with_maps

Images = npt.NDArray[np.uint8]

_SHOWN_PLACES, _COARSE = 5, 8
_FOR, _AGAINST = (255, 120, 0), (0, 90, 255)
_STRONGEST = 0.75  # of what is drawn over an image, where most is added to the score


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one image is taken for, and why.

    Attributes:
        probabilities: (C,) float64 of the ensemble.
        predicted: the ensemble's class, from 0; of several labels a row the most probable one.
        label: the class that the evidence is for.
        evidence: of the linear members of the ensemble, weighted as there.
        members: these.
        weight: their share of the ensemble's weight, above 0 to 1.
        image: (size, size, 3) uint8, as the network sees it.
    """

    probabilities: npt.NDArray[np.float64]
    predicted: int
    label: int
    evidence: Evidence
    members: tuple[str, ...]
    weight: float
    image: Images

    def overlay(self) -> Image.Image:
        """Return the image, orange where it speaks for the class, blue where against."""
        heat = self.evidence.heat
        strength = Image.fromarray((heat / max(float(np.abs(heat).max()), 1e-12)).astype(np.float32))
        smooth = np.asarray(strength.resize(self.image.shape[1::-1], Image.Resampling.BILINEAR))[..., None]
        colour = np.where(smooth > 0, np.array(_FOR), np.array(_AGAINST))
        grey = self.image.mean(axis=2, keepdims=True)
        drawn = grey + (colour - grey) * _STRONGEST * np.sqrt(np.abs(smooth))
        return Image.fromarray(drawn.round().clip(0, 255).astype(np.uint8))


class Wanted(NamedTuple):
    """An image that is to be explained.

    Attributes:
        load: size -> (size, size, 3) uint8 RGB; called from several threads.
        label: the class whose evidence is wanted; None for the predicted one.
        fold: of an image that is a training row: only heads that haven't seen this fold have a say.
    """

    load: Callable[[int], Images]
    label: int | None = None
    fold: int | None = None


class Explainer:
    """The ensemble of one project, ready to explain images; `class_names` are in the order of the probabilities."""

    def __init__(self, project: Project, progress: Progress, count: int = 1) -> None:
        """Load the ensemble, its members' models, and each backbone that any of them looks at, with its maps.

        `count` is how many images will be explained at once.

        Raises:
            CacheError: there is no trained ensemble of these settings.
            SettingsError: it has no linear member.
            WeightsError: the weights are missing, or others than the heads were trained by.
        """
        self._served = load_served(project)
        built = self._served.ensemble
        weights = dict(zip(built.members, built.weights, strict=True))
        self._linear: list[tuple[ServedBag, float]] = [
            (served, sum(weights[name] for name in served.members))
            for served in self._served.bags
            if not served.bag.plan.hidden
        ]
        if not self._linear:
            problem = f"the ensemble has no linear member among {', '.join(built.members)}"
            raise SettingsError(f"{problem}: only those can be explained; [Heads] preset=default has some")
        self._backbones: list[tuple[BackboneFeatures, Backbone]] = [
            (backbone, backbone_with_maps(backbone, taps, count, progress))
            for backbone, taps in self._served.seen_taps(project)
        ]
        self._pooling = {
            backbone.input_name(tap.name): tap.pooling for backbone in project.backbones for tap in backbone.spec.taps
        }
        self._fit, self._mirror = project.settings.features.image_fit, project.settings.features.mirror
        self.class_names = built.class_names

    @property
    def members(self) -> tuple[str, ...]:
        """The linear members of the ensemble."""
        return tuple(name for served, _ in self._linear for name in served.members)

    @property
    def weight(self) -> float:
        """Their share of the ensemble's weight."""
        return sum(share for _, share in self._linear)

    @property
    def sizes(self) -> set[int]:
        """The sizes in which `explain` wants an image, pixels a side."""
        convnets = {convnet.image_size for convnet in self._served.convnets}
        return convnets | {backbone.spec.image_size for backbone, _ in self._backbones}

    def explain_bytes(self, content: bytes, label: str | None = None) -> Explanation:
        """Explain the image of a file's bytes, for the predicted class or for `label`.

        Raises:
            SettingsError: there is no such class.
            RejectedImageError: they are no image.
        """
        if label is not None and label not in self.class_names:
            problem = f"label={label!r} is none of the classes{did_you_mean(label, self.class_names)}"
            raise SettingsError(f"{problem}: name one of {first_names(list(self.class_names))}")
        images = {size: decode_rgb(content, size, fit=self._fit) for size in self.sizes}
        return self.explain(images, None if label is None else self.class_names.index(label))

    def explain_file(self, path: Path, label: str | None = None) -> Explanation:
        """Explain an image file, as `explain_bytes` does.

        Raises:
            SourceError: it can't be read or is no image.
        """
        try:
            return self.explain_bytes(image_bytes(path), label)
        except RejectedImageError as error:
            raise SourceError(f"{path}: {error}") from error
        except OSError as error:
            raise SourceError(f"{path} can't be read: {fault(error)}") from error

    def explain(self, images: Mapping[int, Images], label: int | None = None) -> Explanation:
        """Explain one image, size -> (size, size, 3) uint8 RGB, of `sizes`, for a class or the predicted one.

        Raises:
            RejectedImageError: its features are beyond float16's range.
        """
        (explanation,) = self._explained_part([Wanted(images.__getitem__, label)])
        if explanation is None:
            raise RejectedImageError("its features are beyond float16's range")
        return explanation

    def explain_all(self, images: Sequence[Wanted]) -> Iterator[Explanation | None]:
        """Yield an explanation of each image, in their order; None where features are beyond float16's range.

        A backbone's pass takes some at once, and two passes are under way.
        """
        step = max((network.batch_size for _, network in self._backbones), default=1)
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        with ThreadPoolExecutor(STREAMS, thread_name_prefix="featcache-forward") as pool:
            for explained in pool.map(self._explained_part, parts):
                yield from explained

    def _explained_part(self, part: Sequence[Wanted]) -> list[Explanation | None]:
        """Explain b images by one pass of each backbone, and another one of mirrored images where heads see both."""
        loaded = {size: np.stack([wanted.load(size) for wanted in part]) for size in self.sizes}
        views: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(1 + self._mirror)]
        for backbone, network in self._backbones:
            plain = loaded[backbone.spec.image_size]
            mirrored = [np.ascontiguousarray(plain[:, :, ::-1])] if self._mirror else []
            for view, seen in zip(views, (plain, *mirrored), strict=True):
                view |= {backbone.input_name(name): values for name, values in network.forward(seen).items()}
        found = []
        for place, wanted in enumerate(part):
            row = slice(place, place + 1)
            own = [{name: values[row] for name, values in view.items()} for view in views]
            found.append(self._explained({size: images[row] for size, images in loaded.items()}, own, wanted))
        return found

    def _explained(
        self, images: Mapping[int, Images], views: Sequence[Mapping[str, npt.NDArray[Any]]], wanted: Wanted
    ) -> Explanation | None:
        """Of one image, (1, size, size, 3), and its views."""
        if not all(np.isfinite(values).all() for view in views for values in view.values()):
            return None
        built = self._served.ensemble
        probabilities = self._served.probabilities(views, images)
        predicted = int(probabilities[0].argmax() if built.several else built.decision.classes(probabilities)[0])
        label = predicted if wanted.label is None else wanted.label
        found = [self._evidence(view, label, wanted.fold) for view in views]
        found[1:] = [each.mirrored() for each in found[1:]]
        evidence = summed(found, [1 / len(found)] * len(found))
        shown = images[max(images)][0]
        return Explanation(probabilities[0], predicted, label, evidence, self.members, self.weight, shown)

    def _evidence(self, view: Mapping[str, npt.NDArray[Any]], label: int, fold: int | None) -> Evidence:
        maps = {
            tap: PooledMap(view[map_name(tap)][0], pooling)
            for tap, pooling in self._pooling.items()
            if map_name(tap) in view
        }
        parts = []
        for served, _ in self._linear:
            every = range(len(served.bag.heads))
            heads = [place for place in every if served.bag.heads[place].fold == fold] or every
            parts.append(head_evidence(served.bag, heads, view, maps, label))
        return summed(parts, [share / self.weight for _, share in self._linear])


def explanation_record(explanation: Explanation, class_names: Sequence[str], file: str) -> dict[str, Any]:
    """Return an explanation as JSON-able values.

    Returns:
        ``file``, ``class`` and its ``probability``, ``evidence_for`` a class, its ``score`` and ``intercept``, ``members``
        and their ``weight``; ``places`` of a coarse grid that add most, of each ``left`` and ``top`` (of its centre, shares
        of the image's width and height) and what it ``adds``; and the fine ``heat``.
    """
    evidence = explanation.evidence
    coarse = spread(evidence.heat, (min(_COARSE, len(evidence.heat)), min(_COARSE, evidence.heat.shape[1])))
    rows, columns = np.unravel_index(np.argsort(-coarse, axis=None, kind="stable")[:_SHOWN_PLACES], coarse.shape)
    places = [
        {
            "left": round((column + 0.5) / coarse.shape[1], 4),
            "top": round((row + 0.5) / len(coarse), 4),
            "adds": round(float(coarse[row, column]), 6),
        }
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return {
        "file": printable(file),
        "class": class_names[explanation.predicted],
        "probability": float(f"{explanation.probabilities[explanation.predicted]:.7g}"),
        "evidence_for": class_names[explanation.label],
        "score": round(evidence.score, 6),
        "intercept": round(evidence.intercept, 6),
        "members": list(explanation.members),
        "weight": round(explanation.weight, 6),
        "places": places,
        "heat": evidence.heat.round(6).tolist(),
    }


def explanation_lines(record: Mapping[str, Any]) -> Lines:
    """Return an `explanation_record` as lines, and a table of the places that add most."""
    members = f"{pluralize(len(record['members']), 'linear member')} of the ensemble"
    rows = [
        [f"{100 * each['left']:.0f} %", f"{100 * each['top']:.0f} %", f"{each['adds']:+.3f}"]
        for each in record["places"]
    ]
    return [
        printable(f"{record['file']}: {record['class']}, probability {record['probability']:.4f}"),
        printable(
            f"evidence for {record['evidence_for']}: score {record['score']:+.3f}, of which {record['intercept']:+.3f} has "
            f"no place in the image; by {members} with {100 * record['weight']:.0f} % of its weight"
        ),
        Table(rows, ("from left", "from top", "adds")),
    ]


def write_overlay(path: Path, explanation: Explanation) -> None:
    """Write `Explanation.overlay` as a PNG.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    stream = io.BytesIO()
    explanation.overlay().save(stream, "PNG")
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getvalue())
