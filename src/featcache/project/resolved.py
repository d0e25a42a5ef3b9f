"""What settings came to, made ready for use: weights and backbone as they were resolved, and images as they are seen."""

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core import keys
from featcache.core.keras_import import import_keras
from featcache.core.progress import Progress
from featcache.dataset import Loader, open_source
from featcache.errors import WeightsError
from featcache.features import ResolvedWeights, resolve_weights
from featcache.project.project import LOG_NAME, Project
from featcache.settings import FeaturesSpec

if TYPE_CHECKING:
    from featcache.features import Backbone

# Where one of these is, the framework is asked about its GPU; elsewhere its import is spared.
_GPU_DEVICES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/dxg"))


def may_have_gpu() -> bool:
    """Whether a GPU's device file is there; the framework, which knows, isn't imported."""
    return any(device.exists() for device in _GPU_DEVICES)


def gpu_capability_of(project: Project) -> tuple[int, int] | None:
    """CUDA compute capability of the GPU in use, None on a CPU; the framework is imported only where there is one."""
    if not may_have_gpu():
        return None
    import_keras(project.folder / LOG_NAME)
    from featcache.features import gpu_capability

    return gpu_capability()


def image_loader(project: Project) -> Loader:
    """What decodes the project's images as its networks see them; a `SourceError` where the source can't be opened."""
    return open_source(project.settings.dataset, project.settings.features.image_fit).load


def resolved_backbone(project: Project, progress: Progress) -> "Backbone":
    """The backbone as it was resolved, loaded once a process for all splits and copies.

    Raises:
        BackboneError: no such backbone or tap.
        WeightsError: as `resolved_weights`.
    """
    weights = resolved_weights(project, progress)
    import_keras(project.folder / LOG_NAME)
    return _loaded(project.settings.features, weights, project.precision() or "float32")


def resolved_weights(project: Project, progress: Progress) -> ResolvedWeights:
    """The weights as they were resolved, found or downloaded again.

    Raises:
        WeightsError: they can't be had, or are others than those that were resolved.
    """
    spec, recorded = project.settings.features, project.resolved("weights") or {}
    # What `auto` came to stays, even if the network is back: resolve exactly that kind again.
    settled = (
        dataclasses.replace(spec, weights=recorded["kind"])
        if spec.weights == "auto" and recorded.get("kind") != "model"
        else spec
    )
    weights = resolve_weights(settled, progress)
    if weights.digest != project.weights_digest():
        raise WeightsError(
            f"the weights {weights.path} changed since they were resolved (digest {keys.short(weights.digest)}, not "
            f"{keys.short(str(project.weights_digest()))}): put that file back, or run luigi --module pipeline Submit"
        )
    return weights


@lru_cache(maxsize=1)
def _loaded(spec: FeaturesSpec, weights: ResolvedWeights, precision: str) -> "Backbone":
    from featcache.features import load_backbone

    return load_backbone(spec, weights, precision)
