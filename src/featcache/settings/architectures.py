"""The backbones of `keras.applications` as a table, so that settings are checked and keyed without Keras.

`imagenet.csv` gives for each: its name, smallest image side in pixels, preprocessing mode (as
`keras.applications.imagenet_utils.preprocess_input` names it, ``none`` where the model does it itself), the taps that
``auto`` means, separated by blanks, and the file, digest (SHA-256 or MD5; empty where Keras knows none) and URL of its
ImageNet weights without top. tests/test_weights.py compares the table with the installed Keras.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.names import did_you_mean
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from featcache.settings.specs import FeaturesSpec

MODEL_SUFFIX = ".keras"
HUB = "hub:"  # before the name of a preset of KerasHub, or its folder
OUTPUT = "output"  # the tap of a network's own output, unless it has a layer of that name
_POOLED_OUTPUT = f"{OUTPUT}:avg"
# with random weights and normalisations that saw coarse patches only, black and white pixels go beyond float16
_STEEP = (
    "efficientnetb3",
    "efficientnetb4",
    "efficientnetb5",
    "efficientnetb6",
    "efficientnetb7",
    "efficientnetv2m",
    "efficientnetv2l",
)
_PHOTO_SIDE, _SMALL_SIDE = 224, 48  # pixels: what most ImageNet networks were trained on, and enough for digits


@dataclass(frozen=True)
class Architecture:
    """One network of `keras.applications`, a row of the table.

    `preprocessing` is ``caffe`` (BGR, 0-255 minus means), ``tf`` (-1 to 1), ``torch`` (0-1, standardised) or ``none``.
    """

    name: str
    minimum: int
    preprocessing: str
    taps: str
    file: str
    digest: str
    url: str

    @property
    def key(self) -> str:
        """The name as keys and file names carry it: ``vgg16``."""
        return self.name.lower()

    @property
    def steep(self) -> bool:
        """Whether random weights must be settled on images of every contrast, for features not to overflow on some."""
        return self.key in _STEEP


@cache
def architectures() -> dict[str, Architecture]:
    """Return every known architecture by its lower-case name."""
    table = resources.files("featcache.settings").joinpath("imagenet.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines())
    found = [Architecture(**{**row, "minimum": int(row["minimum"])}) for row in rows]  # type: ignore[arg-type]  # the header names the fields
    return {architecture.key: architecture for architecture in found}


def is_model_file(backbone: str) -> bool:
    """True if the setting names a user's own ``.keras`` file rather than a `keras.applications` network."""
    return backbone.lower().endswith(MODEL_SUFFIX)


def is_preset(backbone: str) -> bool:
    """True if the setting names a preset of KerasHub, or the folder of one: ``hub:dinov2_small``."""
    return backbone.startswith(HUB)


def has_own_weights(backbone: str) -> bool:
    """True if the setting names what brings its weights: a ``.keras`` file or a preset."""
    return is_model_file(backbone) or is_preset(backbone)


def find_architecture(backbone: str) -> Architecture:
    """Return the architecture of that name, in any case.

    Raises:
        BackboneError: there is none; the message names the nearest.

    Example:
        >>> find_architecture("VGG16").minimum
        32
    """
    known = architectures()
    if backbone.lower() in known:
        return known[backbone.lower()]
    hint = did_you_mean(backbone, (item.name for item in known.values()), 3)
    known_kinds = f"neither a keras.applications network nor a {MODEL_SUFFIX} file nor {HUB}PRESET"
    raise BackboneError(f"[Features] backbone={backbone!r} is {known_kinds}{hint}")


def auto_taps(backbone: str) -> list[str]:
    """Return the taps that ``auto`` means for a backbone; of one that isn't known, which is refused later, its output's."""
    known = architectures().get(backbone.lower())
    return (known.taps if known else _POOLED_OUTPUT).split()


def auto_image_size(backbone: str, *, photos: bool) -> int:
    """Return the side in pixels that ``auto`` means: small for arrays of digits, but never below the network's least."""
    known = architectures().get(backbone.lower())
    return _PHOTO_SIDE if photos else max(_SMALL_SIDE, known.minimum if known else 0)


def backbone_settings(spec: "FeaturesSpec") -> dict[str, object]:
    """Return what of the backbone enters keys, except its weights' digest; the path of a user's model doesn't.

    Returns:
        ``{"backbone": "vgg16" | "model", "preprocessing": str, "image_size": int, "taps": [str, ...]}``

    Raises:
        BackboneError: the backbone is unknown, its image size too small, or a user's model has other weights set.
    """
    own = has_own_weights(spec.backbone)
    if own and spec.weights != "auto":
        advice = f"{Path(spec.backbone).name} has its own weights: set weights = auto"
        raise BackboneError(f"[Features] weights={spec.weights!r} can't be used: {advice}")
    known = None if own else find_architecture(spec.backbone)
    if known and spec.image_size < known.minimum:
        needed = f"{known.name} needs at least {known.minimum} pixels"
        raise BackboneError(f"[Features] image_size={spec.image_size} is too small: {needed}")
    kind = ("preset", "its own") if is_preset(spec.backbone) else ("model", "none")
    name, preprocessing = (known.key, known.preprocessing) if known else kind
    taps = [str(tap) for tap in spec.taps]
    return {"backbone": name, "preprocessing": preprocessing, "image_size": spec.image_size, "taps": taps}
