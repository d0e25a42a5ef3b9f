"""What is to be cached: one split and copy of a data set, and the keys of its rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from featcache.cache import MIRROR, file_key
from featcache.core import keys
from featcache.core.rows import Rows
from featcache.dataset import DECODE_SETTINGS
from featcache.settings import FeaturesSpec

# Raised when the same settings and images would give other features than before.
EXTRACT_VERSION = 1
AUGMENT_SEED = 0


@dataclass(frozen=True, eq=False)
class Extraction:
    """One split and copy to be cached.

    Attributes:
        dataset: the data set's name, for people who look into the file.
        copy: 0 for plain images, 1.. for augmented ones, `MIRROR` for mirrored ones.
        rows: the split's rows, rejected ones included.
        tap_settings: tap name -> everything that decides a row's values but its content (`row_settings`).
        label: what the backbone is called among several; "" of the only one.
    """

    dataset: str
    split: str
    copy: int
    rows: Rows
    class_names: tuple[str, ...]
    spec: FeaturesSpec
    tap_settings: Mapping[str, Mapping[str, object]]
    label: str = ""

    @property
    def key(self) -> str:
        """The file key: the settings of all taps and the rows of the split."""
        return file_key(self.tap_keys, self.rows.key, self.class_names, self.split, self.copy)

    @property
    def tap_keys(self) -> dict[str, str]:
        """Tap name -> the settings half of its row keys."""
        return {name: keys.digest(settings) for name, settings in self.tap_settings.items()}


def row_settings(
    spec: FeaturesSpec, backbone: Mapping[str, object], weights: str, precision: str, copy: int
) -> dict[str, dict[str, object]]:
    """Return, per tap name, everything but the image's content that decides a row's values.

    `backbone` is from `backbone_settings`, `weights` the SHA-256 of the weights, `precision` is resolved.
    """
    if copy == MIRROR:
        augmentation: dict[str, object] | None = {"mirror": "left to right"}
    else:
        augmentation = {**spec.augmentation.settings(), "seed": AUGMENT_SEED, "copy": copy} if copy else None
    common = {
        "stage": EXTRACT_VERSION,
        "backbone": backbone["backbone"],
        "preprocessing": backbone["preprocessing"],
        "weights": weights,
        "image_size": spec.image_size,
        "decoding": {**DECODE_SETTINGS, "fit": spec.image_fit},
        "precision": precision,
        "storage": "float16",
        "augmentation": augmentation,
        **({"deterministic": True} if spec.deterministic else {}),
    }
    return {tap.name: {**common, "tap": str(tap)} for tap in spec.taps}
