"""Presets of KerasHub as backbones: DINOv2, SigLIP, ViT and others. [Keras]"""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from featcache.errors import BackboneError, WeightsUnavailableError

_HANDLE = "kaggle://"


def download_preset(name: str) -> Path:
    """Return the folder of a preset that KerasHub knows, downloaded unless it is there.

    Raises:
        WeightsUnavailableError: KerasHub has no such preset, or it can't be downloaded.
    """
    import kagglehub
    import keras_hub

    known = keras_hub.models.Backbone.presets
    if name not in known:
        raise WeightsUnavailableError(
            f"[Features] backbone: KerasHub has no preset {name!r}, and there is no such folder"
        )
    try:
        return Path(kagglehub.model_download(known[name]["kaggle_handle"].removeprefix(_HANDLE)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        fix = f"put its folder here, and name that: hub:/FOLDER/{name}"
        raise WeightsUnavailableError(f"the preset {name} of KerasHub can't be downloaded: {reason}; {fix}") from error


def load_preset(folder: Path, side: int, precision: str) -> tuple[Any, Any, Any]:
    """Return the image network of a preset for that image side, and (3,) scale and offset that make its pixels of 0 to 255.

    Raises:
        BackboneError: it can't be loaded, takes no images of that size, or no images alone.
    """
    import keras_hub

    dtype = precision if precision == "float32" else f"mixed_{precision}"
    try:
        model = keras_hub.models.Backbone.from_preset(str(folder), image_shape=(side, side, 3), dtype=dtype)
        converter = keras_hub.layers.ImageConverter.from_preset(str(folder), image_size=(side, side))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        advice = "another image_size may fit"
        raise BackboneError(
            f"[Features] backbone: {folder} can't be loaded at {side} pixels ({reason}): {advice}"
        ) from error
    model = getattr(model, "vision_encoder", model)  # of those that read texts, too
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BackboneError(f"[Features] backbone: {folder} has {len(model.inputs)} inputs, not images alone")
    black, white = (_converted(converter, value, side) for value in (0, 255))
    return model, (white - black) / 255, black


def _converted(converter: Any, value: float, side: int) -> Any:
    """(3,) what a preset makes of one colour; whatever it does with channels, it does it evenly."""
    return np.asarray(converter(np.full((1, side, side, 3), value, np.float32)), np.float32)[0, side // 2, side // 2]


def pooled_tokens(tokens: Any, pooling: str, side: int, patch: int | None) -> Any:
    """Return of (b, n, c) tokens the mean or maximum of the patches, behind the class token where there is one.

    The patches of a square image are the last tokens; before them are the class token and registers, which aren't taken.
    """
    across, pool = _across(tokens, side, patch), keras.ops.mean if pooling == "avg" else keras.ops.max
    values = pool(tokens[:, -(across**2) :], axis=1)
    return keras.ops.concatenate([tokens[:, 0], values], axis=-1) if across**2 < tokens.shape[1] else values


def token_map(tokens: Any, side: int, patch: int | None) -> Any:
    """Return the patches of (b, n, c) tokens where they are in the image, (b, h, w, c)."""
    across = _across(tokens, side, patch)
    return keras.ops.reshape(tokens[:, -(across**2) :], (-1, across, across, tokens.shape[2]))


def _across(tokens: Any, side: int, patch: int | None) -> int:
    """How many patches are beside each other."""
    return side // patch if patch else int(tokens.shape[1] ** 0.5)


def patch_side(model: Any) -> int | None:
    """The side of a network's patches in pixels; None where it doesn't say."""
    patch = getattr(model, "patch_size", None)
    patch = patch[0] if isinstance(patch, (tuple, list)) else patch
    return int(patch) if patch else None
