"""The backbones of `keras.applications` as a table, so that settings are checked and keyed without Keras.

`imagenet.csv` gives for each: its name, smallest image side in pixels, preprocessing mode (as
`keras.applications.imagenet_utils.preprocess_input` names it, ``none`` where the model does it itself), and the file,
digest (SHA-256 or MD5; empty where Keras knows none) and URL of its ImageNet weights without top. tests/test_weights.py
compares the table with the installed Keras.
"""

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from featcache.errors import BackboneError
from featcache.settings.specs import FeaturesSpec

MODEL_SUFFIX = ".keras"


@dataclass(frozen=True)
class Architecture:
    """One network of `keras.applications`.

    Attributes:
        name: as Keras spells it, e.g. ``VGG16``.
        minimum: smallest image side in pixels.
        preprocessing: ``caffe`` (BGR, 0-255 minus means), ``tf`` (-1 to 1), ``torch`` (0-1, standardised) or ``none``.
        file: name of the notop ImageNet weights in Keras' cache.
        digest: SHA-256 (64 digits) or MD5 (32 digits) of that file; "" where Keras publishes none.
        url: where Keras downloads it from.
    """

    name: str
    minimum: int
    preprocessing: str
    file: str
    digest: str
    url: str

    @property
    def key(self) -> str:
        """The name as keys and file names carry it: ``vgg16``."""
        return self.name.lower()


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
    hint = near_names(backbone.lower(), known, {key: item.name for key, item in known.items()})
    raise BackboneError(
        f"[Features] backbone={backbone!r} is neither a keras.applications network nor a {MODEL_SUFFIX} file{hint}"
    )


def near_names(name: str, known: "dict[str, Architecture] | list[str]", spelling: dict[str, str] | None = None) -> str:
    """Return ``; did you mean A, B or C?`` for the nearest `known` names, "" where none is near."""
    near = [(spelling or {}).get(item, item) for item in difflib.get_close_matches(name, list(known), 3)]
    if not near:
        return ""
    return f"; did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"


def backbone_settings(spec: FeaturesSpec) -> dict[str, object]:
    """Return what of the backbone enters keys, except its weights' digest; the path of a user's model doesn't.

    Returns:
        ``{"backbone": "vgg16" | "model", "preprocessing": str, "image_size": int, "taps": [str, ...]}``

    Raises:
        BackboneError: the backbone is unknown, its image size too small, or a user's model has other weights set.
    """
    taps = [str(tap) for tap in spec.taps]
    if is_model_file(spec.backbone):
        if spec.weights != "auto":
            advice = f"{Path(spec.backbone).name} has its own weights: set weights = auto"
            raise BackboneError(f"[Features] weights={spec.weights!r} can't be used: {advice}")
        return {"backbone": "model", "preprocessing": "none", "image_size": spec.image_size, "taps": taps}
    architecture = find_architecture(spec.backbone)
    if spec.image_size < architecture.minimum:
        needed = f"{architecture.name} needs at least {architecture.minimum} pixels"
        raise BackboneError(f"[Features] image_size={spec.image_size} is too small: {needed}")
    return {
        "backbone": architecture.key,
        "preprocessing": architecture.preprocessing,
        "image_size": spec.image_size,
        "taps": taps,
    }
