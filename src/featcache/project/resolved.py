"""What settings came to, made ready for use: weights and backbone as they were resolved, and images as they are seen."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core import keys
from featcache.core.gpu import may_have_gpu
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress
from featcache.dataset import Loader, open_source
from featcache.errors import WeightsError
from featcache.features import Device, ResolvedWeights, choose_precision, find_device, processor, resolve_weights
from featcache.project.backbone_features import BackboneFeatures
from featcache.project.project import LOG_NAME, Project
from featcache.settings import FeaturesSpec, Tap

if TYPE_CHECKING:
    from featcache.features import Backbone

_CHECKED = "devices.json"  # which GPUs computed what a processor does; it travels with the artifacts


def device_of(project: Project) -> Device:
    """What Keras computes on; the framework is imported only where there may be a GPU."""
    if not may_have_gpu():
        return processor()
    import_keras(project.folder / LOG_NAME)
    return find_device()


def image_loader(project: Project) -> Loader:
    """What decodes the project's images as its networks see them; a `SourceError` where the source can't be opened."""
    return open_source(project.settings.dataset, project.settings.features.image_fit).load


def resolved_backbone(backbone: BackboneFeatures, progress: Progress) -> "Backbone":
    """A backbone as it was resolved, loaded once a process for all splits and copies, on a GPU that passed its self-check.

    Raises:
        BackboneError: no such backbone or tap.
        WeightsError: as `resolved_weights`.
    """
    weights = resolved_weights(backbone, progress)
    import_keras(backbone.folder / LOG_NAME)
    return _loaded(backbone.spec, weights, backbone.precision() or "float32", backbone.folder / _CHECKED)


def backbone_with_maps(backbone: BackboneFeatures, taps: Sequence[Tap], rows: int, progress: Progress) -> "Backbone":
    """Return a backbone of some of its taps whose pooled ones are joined by their maps; for few `rows`, on the processor.

    Raises:
        BackboneError, WeightsError: as `resolved_backbone`.
    """
    native = choose_precision("auto").name
    precision = native if native == backbone.precision() else "float32"  # what a GPU is fast in, the processor isn't
    names = [tap.name for tap in taps]
    if precision == backbone.precision() and not may_have_gpu():
        return resolved_backbone(backbone, progress).with_maps(names, rows)
    weights = resolved_weights(backbone, progress)
    import_keras(backbone.folder / LOG_NAME)
    from featcache.features import load_backbone

    return load_backbone(backbone.spec, weights, precision, device=processor()).with_maps(names, rows)


def resolved_weights(backbone: BackboneFeatures, progress: Progress) -> ResolvedWeights:
    """A backbone's weights as they were resolved, found or downloaded again.

    Raises:
        WeightsError: they can't be had, or are others than those that were resolved.
    """
    spec, recorded = backbone.spec, backbone.resolved("weights") or {}
    # What `auto` came to stays, even if the network is back: resolve exactly that kind again.
    settled = (
        dataclasses.replace(spec, weights=recorded["kind"])
        if spec.weights == "auto" and recorded.get("kind") != "model"
        else spec
    )
    weights = resolve_weights(settled, progress)
    if weights.digest != backbone.weights_digest():
        raise WeightsError(
            f"the weights {weights.path} changed since they were resolved (digest {keys.short(weights.digest)}, not "
            f"{keys.short(str(backbone.weights_digest()))}): put that file back, or run luigi --module pipeline Submit"
        )
    return weights


@lru_cache(maxsize=1)
def _loaded(spec: FeaturesSpec, weights: ResolvedWeights, precision: str, records: Path) -> "Backbone":
    from featcache.features import load_checked

    return load_checked(spec, weights, precision, records)
