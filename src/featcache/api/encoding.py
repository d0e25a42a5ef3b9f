"""Features of any images as one array, without a project."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache as kept, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.api.images import Images, Picture, pictures
from featcache.api.keywords import sections_of
from featcache.cache import Reader, Status, open_cache
from featcache.core import keys
from featcache.core.names import first_names
from featcache.core.paths import expanded, fault, is_file
from featcache.core.progress import Progress
from featcache.core.progress_bar import ProgressBar
from featcache.core.rows import UNKNOWN_LABEL, Rows
from featcache.dataset import decode_rgb
from featcache.errors import SettingsError, SourceChangedError
from featcache.features import Extraction, choose_precision, extract_copies, resolve_weights
from featcache.project import BackboneFeatures, Project, device_of, resolved_backbone
from featcache.settings import parse_settings

_NAME = "encoded"  # the folder in a cache's folder
_SHOWN_FROM = 500  # images, whose computing is worth a line


def encode(
    images: Images,
    backbone: str = "vgg16",
    *,
    cache: str | os.PathLike[str] | None = None,
    **settings: object,
) -> npt.NDArray[np.float32]:
    """Return the features of images by a frozen network.

    Args:
        images: a path, a folder, a Pillow image, a uint8 array, (h, w) to (n, h, w, 3), or a list of such.
        backbone: as in [Features] of luigi.cfg, but only one.
        cache: a folder where features are kept; images that it has the features of are not computed again, whatever they
            are called. None keeps nothing.
        **settings: others of [Features]: ``image_size`` (224), ``weights``, ``taps``, ``precision``, ``image_fit``.

    Returns:
        (n, d) float32, a row an image, its taps side by side: of VGG16 2,560 numbers, mean and maximum of the last three
        blocks. NaN throughout a row whose image can't be used, which a notice names.

    Raises:
        SettingsError, BackboneError: a setting is unknown or impossible.
        SourceError: there are no images, or an array is none.
        WeightsError: the weights can't be had.
        StorageError: the disk is full, read-only or not permitted.

    Example:
        >>> X = encode("PHOTOS/test", cache="features")     # doctest: +SKIP
        >>> X = encode([array, Image.open("a.jpg")], "resnet50", image_size=160)     # doctest: +SKIP
    """
    folder = Path(_scratch().name) if cache is None else expanded(Path(cache), "cache").absolute()
    project = _project(backbone, folder, settings)
    found = pictures(images)
    progress = ProgressBar(shown=len(found) >= _SHOWN_FROM)
    features = _resolved(project, progress)
    contents = [_digest(picture) for picture in found]
    reader = _extracted(project, features, found, contents, progress)
    encoded = np.concatenate(
        [reader[tap.name].reshape(len(found), -1).astype(np.float32) for tap in features.spec.taps], axis=1
    )
    rejected = np.flatnonzero(reader.status != Status.OK)
    encoded[rejected] = np.nan
    if len(rejected):
        names = first_names([found[row].name for row in rejected.tolist()], form=str)
        progress.notice(f"{names} can't be used: their rows are NaN")
    if cache is None:
        reader.path.unlink()
    return encoded


@kept
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    """One folder a process, in which a network that was loaded is found again."""
    return tempfile.TemporaryDirectory(prefix="featcache-")


def _project(backbone: str, folder: Path, settings: dict[str, object]) -> Project:
    """The backbone's settings, and where its features are kept."""
    sections = sections_of({"backbone": backbone, **settings})
    if others := [name for name in sections if name != "Features"]:
        key = next(iter(sections[others[0]]))
        raise SettingsError(
            f"{key} is a setting of [{others[0]}], and encode takes those of [Features] alone: leave it out"
        )
    sections["Dataset"] = {"name": _NAME, "source": "folder", "path": str(folder)}
    sections["Paths"] = {"artifacts": str(folder)}
    project = Project(parse_settings(sections))
    if len(project.backbones) > 1:
        raise SettingsError(f"backbone={backbone!r} names several: call encode for each")
    return project


def _resolved(project: Project, progress: Progress) -> BackboneFeatures:
    """The backbone with its weights and precision settled, as a run settles them."""
    features = project.backbones[0]
    if features.weights_digest() is None:
        features.record_resolved("weights", resolve_weights(features.spec, progress).record(features.spec))
    if features.precision() is None:
        chosen = choose_precision(features.spec.precision, device_of(project).capability)
        features.record_resolved("precision", {"setting": features.spec.precision, "value": chosen.name})
    return features


def _digest(picture: Picture) -> tuple[str, str]:
    """The digest of an image's bytes, and why there is none."""
    try:
        return keys.bytes_digest(picture.content()), ""
    except OSError as error:
        return "", f"can't be read: {fault(error)}"


def _extracted(
    project: Project,
    features: BackboneFeatures,
    found: Sequence[Picture],
    contents: Sequence[tuple[str, str]],
    progress: Progress,
) -> Reader:
    def load(location: str, digest: str, size: int) -> npt.NDArray[np.uint8]:
        picture = found[int(location)]
        content = picture.content()
        if keys.bytes_digest(content) != digest:
            raise SourceChangedError(f"{picture.name} changed while it was read: call encode again")
        return decode_rgb(content, size, fit=features.spec.image_fit)

    numbers = [str(row) for row in range(len(found))]
    digests, reasons = zip(*contents, strict=True)
    rows = Rows(
        numbers, np.full(len(found), UNKNOWN_LABEL, np.int32), [""] * len(found), digests, reasons, locations=numbers
    )
    job = Extraction(_NAME, "test", 0, rows, (), features.spec, features.tap_settings(0))
    path = project.folder / "features" / f"{_NAME}-{keys.short(job.key)}.h5"
    if not is_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        extract_copies({path: job}, load, partial(resolved_backbone, features, progress), progress)
    return open_cache(path)
