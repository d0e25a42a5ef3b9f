"""A tap: a named layer whose output is cached."""

import re
from dataclasses import dataclass

from featcache.core.names import did_you_mean
from featcache.errors import SettingsError

_POOLINGS = ("avg", "max")
_FORM = re.compile(r"(?:([A-Za-z0-9_][A-Za-z0-9_.@\-]*)/)?([A-Za-z0-9_][A-Za-z0-9_.\-]*)")


@dataclass(frozen=True)
class Tap:
    """A named layer whose output is cached, optionally pooled over height and width first.

    `backbone` says whose layer it is where a text names it, such as ``vgg16@224``; a `FeaturesSpec`'s own taps have none.
    """

    layer: str
    pooling: str = ""
    backbone: str = ""

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """Parse ``LAYER``, ``LAYER:avg`` or ``LAYER:max``, perhaps after ``BACKBONE/``.

        Raises:
            SettingsError: the text is none of these.

        Example:
            >>> Tap.parse("block5_pool:avg").name
            'block5_pool_avg'
        """
        layer, _, pooling = text.strip().partition(":")
        form = _FORM.fullmatch(layer)
        if form is None:
            raise SettingsError(f"[Features] taps={text!r} is not a layer's name, LAYER:avg or LAYER:max")
        if (pooling or text.strip().endswith(":")) and pooling not in _POOLINGS:
            known = ", ".join(_POOLINGS)
            raise SettingsError(
                f"[Features] taps={pooling!r} is unknown{did_you_mean(pooling, _POOLINGS)}; known: {known}"
            )
        return cls(form[2], pooling, form[1] or "")

    @property
    def name(self) -> str:
        """The tap's dataset in a feature cache: ``block5_pool`` or ``block5_pool_avg``."""
        return f"{self.layer}_{self.pooling}" if self.pooling else self.layer

    def __str__(self) -> str:
        """The setting's text, for `parse`."""
        layer = f"{self.backbone}/{self.layer}" if self.backbone else self.layer
        return f"{layer}:{self.pooling}" if self.pooling else layer
