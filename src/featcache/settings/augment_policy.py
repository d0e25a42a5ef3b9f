"""How far an image may be changed in an augmented copy; `featcache.dataset.augment` applies it."""

from dataclasses import asdict, dataclass

from featcache.errors import SettingsError

AUGMENT_VERSION = 1  # raise it when the same policy and seed would give other pixels

_LIMITS = {"rotation": 180, "height_shift": 1, "width_shift": 1, "shear": 1.5, "zoom": 0.99, "channel_shift": 255}


@dataclass(frozen=True)
class AugmentPolicy:
    """How far an image may be changed; every amount is drawn evenly from minus to plus its value."""

    rotation: float = 0  #: degrees
    height_shift: float = 0  #: part of the height
    width_shift: float = 0  #: part of the width
    shear: float = 0  #: radians
    zoom: float = 0  #: each side is scaled by a factor of its own from 1 - zoom to 1 + zoom, below 1
    channel_shift: float = 0  #: added to each channel by itself, in units of 0 to 255, then clipped
    flip: bool = False  #: mirror left to right every other time

    def __post_init__(self) -> None:
        for name, high in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise SettingsError(f"[Features] augmentation: {name}={value!r} is out of range: 0 <= {name} <= {high}")

    @classmethod
    def parse(cls, text: str) -> "AugmentPolicy":
        """Parse ``rotation 15, zoom 0.1, flip``; what isn't named doesn't change.

        Raises:
            SettingsError: an unknown change, or an amount that isn't a number or out of range.

        Example:
            >>> AugmentPolicy.parse("rotation 15, flip").rotation
            15.0
        """
        amounts: dict[str, float | bool] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, amount = part.replace("=", " ").partition(" ")
            name = name.replace("-", "_").lower()
            if name not in cls.__dataclass_fields__ or (name == "flip") != (not amount.strip()):
                known = "rotation N, height_shift N, width_shift N, shear N, zoom N, channel_shift N, flip"
                raise SettingsError(f"[Features] augmentation: {part!r} is unknown; known: {known}")
            try:
                amounts[name] = True if name == "flip" else float(amount)
            except ValueError:
                raise SettingsError(f"[Features] augmentation: {part!r} has no number after {name}") from None
        return cls(**amounts)  # type: ignore[arg-type]  # flip alone is a bool

    def settings(self) -> dict[str, object]:
        """Return what enters the key of an augmented copy, beside its seed and number."""
        return {"version": AUGMENT_VERSION, "filter": "bicubic", "fill": "nearest", **asdict(self)}


RECIPE = AugmentPolicy(rotation=15, height_shift=0.05, width_shift=0.1, shear=0.1, channel_shift=20)
"""The State Farm notebook's policy for precomputed copies."""

CONVNET_RECIPE = AugmentPolicy(rotation=8, height_shift=0.08, width_shift=0.08, shear=0.3, zoom=0.08)
"""The MNIST notebook's policy for convnets."""
