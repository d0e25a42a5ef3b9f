"""What it takes to classify new images: the ensemble of the settings in force, and its chosen members' models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.core.keras_import import import_keras
from featcache.dataset import luminance
from featcache.ensemble import Clip, Combination, Ensemble, submission_clip
from featcache.errors import CacheMismatchError, SettingsError, WeightsError
from featcache.project import LOG_NAME, BackboneFeatures, Project
from featcache.settings import Tap
from featcache.training import Bag, Predictions, load_bag, stored_members

if TYPE_CHECKING:
    import keras

Images = npt.NDArray[np.uint8]

_RUN = "run luigi --module pipeline Submit (featcache status says what it would do)"


@dataclass(frozen=True, eq=False)
class ServedBag:
    """The chosen `members` of one bag, in the order of its seeds; `bag` has only their heads."""

    bag: Bag
    members: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ServedConvNet:
    """A chosen convnet member: a network a fold, (b, size, size, channels) of 0 to 255 -> (b, C) probabilities."""

    member: str
    networks: Sequence["keras.Model"]

    @property
    def image_size(self) -> int:
        """Side of the images that it looks at, in pixels."""
        return int(self.networks[0].input_shape[1])

    @property
    def is_grey(self) -> bool:
        """Whether it looks at grey values; else at RGB."""
        return int(self.networks[0].input_shape[-1]) == 1

    def predictions(self, images: Images) -> npt.NDArray[np.float32]:
        """Return (n, C) of (n, size, size, 3) uint8 RGB images."""
        from featcache.training import predict_convnet

        return predict_convnet(self.networks, luminance(images) if self.is_grey else images)


@dataclass(frozen=True, eq=False)
class ServedEnsemble:
    """An ensemble and the models of its chosen members, in memory; `clip` is that of the submission, 1 for none."""

    ensemble: Ensemble
    clip: Clip
    bags: tuple[ServedBag, ...]
    convnets: tuple[ServedConvNet, ...]

    def seen_taps(self, project: Project) -> list[tuple[BackboneFeatures, tuple[Tap, ...]]]:
        """Return the backbones that `bags` look at, each with those of its taps."""
        seen = {tap for served in self.bags for tap in served.bag.seen_as.taps}
        found = [
            (backbone, tuple(tap for tap in backbone.spec.taps if backbone.input_name(tap.name) in seen))
            for backbone in project.backbones
        ]
        return [(backbone, taps) for backbone, taps in found if taps]

    def probabilities(
        self, views: Sequence[Mapping[str, npt.NDArray[Any]]], images: Mapping[int, Images]
    ) -> npt.NDArray[np.float64]:
        """Return (n, C), what the pipeline predicts for rows with these features and images.

        Args:
            views: of the images, and of the mirrored ones where heads are averaged over both: tap name -> (n, h, w, c) or
                (n, c) float16, of each tap of `bags`.
            images: size -> (n, size, size, 3) uint8 RGB, 0 to 255, of each size of `convnets`.

        Raises:
            TrainingError: features of another shape than the heads were trained on.
        """
        tables = np.concatenate(
            [
                *(np.mean([served.bag.member_predictions(view) for view in views], axis=0) for served in self.bags),
                *(served.predictions(images[served.image_size])[None] for served in self.convnets),
            ]
        )
        members = tuple(name for served in self.bags for name in served.members)
        members += tuple(served.member for served in self.convnets)
        rows = range(tables.shape[1])
        unknown = np.full(len(rows), -1, np.int32)
        predictions = Predictions([*map(str, rows)], unknown, members, tables, self.ensemble.class_names)
        return self.ensemble.apply(predictions, self.clip)


def load_served(project: Project, member: str | None = None) -> ServedEnsemble:
    """Load the ensemble that the settings in force ask for; images and their listing are not looked at.

    Keys are derived from the manifest as it was last saved. With `member` it is this one alone, without temperature and
    clip.

    Raises:
        CacheError: there is no trained ensemble of these settings, or it is damaged.
        SettingsError: no such member.
        WeightsError: the weights file is another than the one that the features were computed with.
    """
    project = project.as_stored()
    for backbone in project.backbones:
        recorded, digest = backbone.resolved("weights"), backbone.weights_digest()
        # a user's weights file counts by its content; another one would make features that the heads don't know
        if recorded is not None and recorded.get("digest") != digest:
            fault = f"the file's digest is {digest}, not {recorded.get('digest')}, by which the heads were trained"
            raise WeightsError(f"[Features] weights: {backbone.of_backbone(fault)}: put that file back, or {_RUN}")
    artifact = project.ensemble()
    if not artifact.is_complete():
        raise CacheMismatchError(f"{project.folder} has no ensemble of these settings: {_RUN}")
    built = Ensemble.load(artifact.path)
    clip = submission_clip(project.settings.submission.clip, built.whole)
    if member is not None:
        built, clip = _alone(built, member), 1.0
    bags, convnets = [], []
    for stage, sources in project.member_sources().items():
        for source in sources:
            folder = source.path.parent
            if not source.is_complete():
                raise CacheMismatchError(f"{folder} has no trained members of the ensemble: {_RUN}")
            names = stored_members(source.path)
            chosen = tuple(name for name in names if name in built.members)
            if chosen and stage == "TrainHeads":
                bag = load_bag(folder)
                seeds = [seed for seed, name in zip(bag.seeds, names, strict=True) if name in chosen]
                bags.append(ServedBag(bag.of_seeds(seeds), chosen))
            elif chosen:
                convnets.append(ServedConvNet(chosen[0], _load_networks(project, folder)))
    return ServedEnsemble(built, clip, tuple(bags), tuple(convnets))


def _load_networks(project: Project, folder: Path) -> list["keras.Model"]:
    import_keras(project.folder / LOG_NAME)
    from featcache.training import load_networks

    return load_networks(folder)


def _alone(built: Ensemble, member: str) -> Ensemble:
    if member not in built.candidates:
        raise SettingsError(f"--member: {member=} is none of the members: name one of {', '.join(built.candidates)}")
    alone = tuple(float(name == member) for name in built.candidates)
    clips = (1.0,) * len(built.whole.clips)
    return replace(built, whole=Combination("mean", alone, temperature=1.0, clip=1.0, clips=clips), decided=None)
