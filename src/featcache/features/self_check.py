"""A GPU is trusted once it computed what the processor computes: wheels, drivers and cards fail in silence, too. [Keras]"""

from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from featcache.core import keys
from featcache.core.gpu import driver_version
from featcache.core.json_records import read_json, write_json
from featcache.core.system import versions
from featcache.errors import FeatcacheError, StorageError
from featcache.features.backbone import Backbone, Features, load_backbone
from featcache.features.devices import Device, find_device, processor
from featcache.features.weights import ResolvedWeights
from featcache.settings import FeaturesSpec

COSINE = 0.999  # of a row on a GPU and the same row in float32 on the processor, at least
_ROWS, _PATCH = 4, 8


def load_checked(spec: FeaturesSpec, weights: ResolvedWeights, precision: str, records: Path) -> Backbone:
    """Return the backbone on the GPU, or on the processor where the GPU doesn't compute what that does; see its `device`.

    Each network is checked once a device, driver and version, on four images; what was wrong with it, "" for nothing, is
    kept in the file `records`.

    Raises:
        BackboneError, WeightsError: as `load_backbone`.
    """
    device = find_device()
    if device.capability is None:
        return load_backbone(spec, weights, precision, device=device)
    known, key = read_json(records) or {}, _key(device, spec, weights, precision)
    backbone, problem = None, known.get(key)
    if problem is None:
        backbone, problem = _checked(device, spec, weights, precision)
        with suppress(StorageError):  # who may only read the artifacts checks each time
            write_json(records, {**known, key: problem})
    if problem:
        why = f"{problem}: try a newer driver or TensorFlow, and remove {records} to have it checked again"
        return load_backbone(spec, weights, precision, device=device.refused(why))
    return backbone or load_backbone(spec, weights, precision, device=device)


def _key(device: Device, spec: FeaturesSpec, weights: ResolvedWeights, precision: str) -> str:
    backend = keras.backend.backend()
    network = [spec.backbone, spec.image_size, list(map(str, spec.taps)), weights.digest, precision]
    return keys.digest([device.name, driver_version(), versions(("keras", backend)), network])


def _checked(
    device: Device, spec: FeaturesSpec, weights: ResolvedWeights, precision: str
) -> tuple[Backbone | None, str]:
    """The backbone on that device, if it can be loaded, and what is wrong with it."""
    images = check_images(spec.image_size)
    expected = load_backbone(spec, weights, "float32", _ROWS, processor()).forward(images)
    try:
        backbone = load_backbone(spec, weights, precision, device=device)
        return backbone, compared(backbone.forward(images), expected)
    except FeatcacheError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a framework raises on a device that it can't use
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def check_images(side: int) -> npt.NDArray[np.uint8]:
    """Return (4, side, side, 3) coarse random patches, nearer to photos than noise is."""
    patches = np.random.default_rng(0).integers(0, 256, (_ROWS, -(-side // _PATCH), -(-side // _PATCH), 3), np.uint8)
    return patches.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :side, :side]


def compared(found: Features, expected: Features) -> str:
    """Return what is wrong with features beside those in float32 on the processor; "" for nothing."""
    for tap, reference in expected.items():
        here, there = (array.reshape(_ROWS, -1).astype(np.float64) for array in (found[tap], reference))
        if not np.isfinite(there).all():
            continue  # the network's own fault, which the run reports
        if not np.isfinite(here).all():
            return f"values of {tap} are not finite, which they are in float32 on the processor"
        norms = np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1)
        cosines = np.where(norms > 0, (here * there).sum(axis=1), 1) / np.where(norms > 0, norms, 1)
        if cosines.min() < COSINE:
            return f"{tap} has a cosine of {cosines.min():.4f} to float32 on the processor, less than {COSINE}"
    return ""
