"""The trained ensemble, backbone included, as one Keras file or SavedModel that needs no featcache."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from featcache._version import __version__
from featcache.architectures import MODEL_SUFFIX, backbone_settings
from featcache.describe import printable, size_text
from featcache.disk import making_folder, replacing
from featcache.errors import StorageError
from featcache.progress import Progress
from featcache.project import LOG_NAME, Project
from featcache.records import write_json
from featcache.serving import ServedEnsemble, load_served
from featcache.specs import FeaturesSpec
from featcache.stages.features import resolved_weights
from featcache.startup import import_keras

FACTS_NAME = "featcache.json"


def export_model(
    project: Project, path: Path, progress: Progress, *, member: str | None = None, fixed_size: bool = False
) -> dict[str, Any]:
    """Write backbone, preprocessing, heads, weights, temperature and clip as one model.

    It maps (b, h, w, 3) uint8 RGB to (b, C) float32 probabilities. Beside it, inside the ``.keras`` archive or the SavedModel's
    folder, `FACTS_NAME` says what the classes are called.

    Args:
        project: whose ensemble, of the settings in force.
        path: ``*.keras``, or a folder that isn't there yet for a SavedModel.
        progress: is told of a download.
        member: this one alone, without temperature and clip; None for the ensemble.
        fixed_size: take only images of ``image_size``, and resize nothing inside.

    Returns:
        What `FACTS_NAME` says, JSON-able.

    Raises:
        CacheError: there is no trained ensemble of these settings.
        SettingsError: no such member.
        StorageError: the folder is there already, or something can't be written.
        WeightsError: the weights are missing, or others than the heads were trained by.
    """
    if path.suffix != MODEL_SUFFIX and path.exists():
        raise StorageError(
            f"expected {MODEL_SUFFIX} or a folder that isn't there yet; got {path}: remove it or name another"
        )
    served = load_served(project, member)
    weights, spec = resolved_weights(project, progress), project.settings.features
    import_keras(project.folder / LOG_NAME)
    from featcache.joined_model import join_model
    from featcache.network import build_network

    seen = {bag.tap for bag in served.bags}
    spec = dataclasses.replace(spec, taps=tuple(tap for tap in spec.taps if tap.name in seen))
    network = build_network(spec, weights, project.precision() or "float32")
    model = join_model(network, served, project.settings.dataset.name, None if fixed_size else spec.image_size)
    facts = _facts(project, spec, served, fixed_size=fixed_size)
    if path.suffix == MODEL_SUFFIX:
        with replacing(path) as temporary:
            model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(FACTS_NAME, json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        with making_folder(path) as temporary:
            model.export(temporary, verbose=False)
            write_json(temporary / FACTS_NAME, facts)
    return facts


def exported_lines(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return what was written as lines of text."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = size_text(sum(file.stat().st_size for file in files))
    side = facts["input"]["shape"][1]
    pixels = f"of {side} x {side} pixels" if side else "of any size"
    computed = f"{facts['backbone']} in {facts['precision']}, {len(facts['members'])} members"
    classes = len(facts["class_names"])
    return [printable(f"{path}: {size}, uint8 RGB images {pixels} to probabilities of {classes} classes ({computed})")]


def _facts(project: Project, spec: FeaturesSpec, served: ServedEnsemble, *, fixed_size: bool) -> dict[str, Any]:
    built = served.ensemble
    side = spec.image_size if fixed_size else None
    return {
        "class_names": list(built.class_names),
        "input": {"shape": [None, side, side, 3], "dtype": "uint8", "channels": "RGB"},
        "image_size": spec.image_size,
        "backbone": backbone_settings(spec)["backbone"],
        "taps": [str(tap) for tap in spec.taps],
        "weights": project.weights_digest(),
        "precision": project.precision(),
        "members": dict(zip(built.members, built.weights, strict=True)),
        "method": built.whole.method,
        "temperature": built.whole.temperature,
        "clip": served.clip,
        "made_with": {"featcache": __version__, **{name: version(name) for name in ("keras", "tensorflow")}},
    }
