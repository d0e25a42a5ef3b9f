"""What one image is taken for, and where the linear members of the ensemble see it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.api.images import Picture
from featcache.core.html import html_lines
from featcache.core.paths import fault
from featcache.errors import RejectedImageError, SourceError

if TYPE_CHECKING:
    from featcache.inference import Explainer, Explanation


@dataclass(frozen=True, eq=False, repr=False)
class ImageExplanation:
    """One image's class, and where it is seen; a notebook shows it as a picture.

    Attributes:
        image: its path, or "0".
        predicted: the ensemble's class.
        probability: of it.
        label: the class that the heat map is for.
        heat: (h, w) float64, what each place of the image adds to the score, or takes from it.
        intercept: what has no place.
        score: the sum of both: the label's logit above the mean of all classes', the mean of `members`.
        members: the linear members of the ensemble.
        weight: their share of the ensemble's weight.
        overlay: the image as the network sees it, orange where it speaks for the label, blue where against.
    """

    image: str
    predicted: str
    probability: float
    label: str
    heat: npt.NDArray[np.float64]
    intercept: float
    score: float
    members: Sequence[str]
    weight: float
    overlay: Image.Image

    def __repr__(self) -> str:
        return (
            f"{self.image}: {self.predicted}, probability {self.probability:.4f}; evidence for {self.label}: score "
            f"{self.score:+.3f} by {', '.join(self.members)} ({100 * self.weight:.0f} % of the ensemble's weight)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        stream = io.BytesIO()
        self.overlay.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        return f'{html_lines("", [repr(self)])}<img alt="evidence" width="320" src="data:image/png;base64,{data}">'


def explained(picture: Picture, explainer: "Explainer", label: str | None) -> ImageExplanation:
    """Explain one picture; a `SourceError` if it can't be used."""
    try:
        found: Explanation = explainer.explain_bytes(picture.content(), label)
    except RejectedImageError as error:
        raise SourceError(f"{picture.name}: {error}") from error
    except OSError as error:
        raise SourceError(f"{picture.name} can't be read: {fault(error)}") from error
    names = explainer.class_names
    return ImageExplanation(
        picture.name,
        names[found.predicted],
        float(found.probabilities[found.predicted]),
        names[found.label],
        found.evidence.heat,
        found.evidence.intercept,
        found.evidence.score,
        found.members,
        found.weight,
        found.overlay(),
    )
