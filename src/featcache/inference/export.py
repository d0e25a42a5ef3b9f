"""The trained ensemble, backbone included, as one Keras file or SavedModel that needs no featcache."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache._version import __version__
from featcache.core.disk import replacing, replacing_folder
from featcache.core.formatting import pluralize, printable, size_text
from featcache.core.json_records import write_json
from featcache.core.keras_import import import_keras, plain_keras
from featcache.core.paths import is_folder
from featcache.core.progress import Progress
from featcache.core.system import versions
from featcache.errors import SettingsError, StorageError
from featcache.inference.served_ensemble import ServedEnsemble, load_served
from featcache.project import LOG_NAME, BackboneFeatures, Project, resolved_weights
from featcache.settings import MODEL_SUFFIX, FeaturesSpec, Tap, backbone_settings

FACTS_NAME = "featcache.json"


def export_model(
    project: Project, path: Path, progress: Progress, *, member: str | None = None, fixed_size: bool = False
) -> dict[str, Any]:
    """Write backbone, preprocessing, heads, convnets, weights, temperature and clip as one model.

    It maps (b, h, w, 3) uint8 RGB to (b, C) float32 probabilities. Beside it, inside the ``.keras`` archive or the SavedModel's
    folder, are its facts in `FACTS_NAME`, what the classes are called among them.

    Args:
        project: whose ensemble, of the settings in force.
        path: ``*.keras``, or a folder that isn't there yet for a SavedModel.
        progress: shows a download.
        member: this one alone, without temperature and clip; None for the ensemble.
        fixed_size: take only images of the size that all its members look at, and resize nothing inside.

    Returns:
        The facts, JSON-able.

    Raises:
        CacheError: there is no trained ensemble of these settings.
        SettingsError: no such member, a path with the suffix of a format that isn't written, or `fixed_size` and members
            that look at images of different sizes.
        StorageError: something that can't be replaced is there already, or something can't be written.
        WeightsError: the weights are missing, or others than the heads were trained by.
    """
    _check_target(path)
    served, settings = load_served(project, member), project.settings
    used = served.seen_taps(project)
    sizes = {
        "image_size": _alone(backbone.spec.image_size for backbone, _ in used),
        "convnet_image_size": settings.convnet.image_size if served.convnets else None,
    }
    side = _only_size([backbone.spec for backbone, _ in used], sizes["convnet_image_size"]) if fixed_size else None
    import_keras(project.folder / LOG_NAME)
    from featcache.features import build_network
    from featcache.inference.keras_model import Trunk, join_model

    trunks = [
        Trunk(
            build_network(
                dataclasses.replace(backbone.spec, taps=taps),  # those alone that heads of the model see
                resolved_weights(backbone, progress),
                backbone.precision() or "float32",
            ),
            {tap.name: backbone.input_name(tap.name) for tap in taps},
        )
        for backbone, taps in used
    ]
    facts = _facts(project, served, used) | sizes
    facts["input"] = {"shape": [None, side, side, 3], "dtype": "uint8", "channels": "RGB"}
    model = join_model(
        trunks, served, settings.dataset.name, side, settings.features.image_fit, mirror=settings.features.mirror
    )
    if path.suffix == MODEL_SUFFIX:
        with plain_keras(), replacing(path) as temporary:
            model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(FACTS_NAME, json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        with plain_keras(), replacing_folder(path, new=True) as temporary:
            model.export(temporary, verbose=False)
            write_json(temporary / FACTS_NAME, facts)
    return facts


def _check_target(path: Path) -> None:
    """Known before anything is loaded; a SavedModel's folder may end as a version does, ``model-1.2``."""
    if path.suffix not in ("", MODEL_SUFFIX) and not path.suffix[1:].isdigit():
        name = path.name.partition(".")[0]
        raise SettingsError(
            f"{str(path)!r} is of a format that isn't written: name a file {name}{MODEL_SUFFIX}, or a folder {name} "
            "for a SavedModel, which TensorFlow Lite's, ONNX's and other converters read"
        )
    if is_folder(path) if path.suffix == MODEL_SUFFIX else os.path.lexists(path):
        what = "is a folder" if is_folder(path) else "already exists"
        raise StorageError(f"{path} {what}: remove it, or name a {MODEL_SUFFIX} file or a folder that isn't there yet")


def exported_lines(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return what was written as lines of text."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = size_text(sum(file.stat().st_size for file in files))
    side = facts["input"]["shape"][1]
    pixels = f"of {side} x {side} pixels" if side else "of any size"
    several = facts.get("backbones") or ([facts] if facts["backbone"] else [])
    parts = [f"{each['backbone']} in {each['precision']}" for each in several]
    parts += ["convnets"] if facts["convnet_image_size"] else []
    computed = ", ".join([*parts, pluralize(len(facts["members"]), "member")])
    kind, classes = "labels" if facts.get("several_labels") else "classes", len(facts["class_names"])
    return [printable(f"{path}: {size}, uint8 RGB images {pixels} to probabilities of {classes} {kind} ({computed})")]


def _alone(values: Iterable[Any]) -> Any:
    """The value of one backbone; None for none, and for several, each of which has its own facts."""
    found = list(values)
    return found[0] if len(found) == 1 else None


def _only_size(specs: Sequence[FeaturesSpec], convnets: int | None) -> int:
    wanted = {f"[Features] image_size={spec.image_size}": spec.image_size for spec in specs}
    wanted |= {f"[ConvNet] image_size={convnets}": convnets} if convnets is not None else {}
    if len({*wanted.values()}) > 1:
        raise SettingsError(
            f"--fixed-size: members look at images of two sizes, {', '.join(wanted)}: leave it out, or export one "
            "member by --member"
        )
    return next(iter(wanted.values()))


def _backbone_facts(backbone: BackboneFeatures, taps: Sequence[Tap]) -> dict[str, Any]:
    return {
        "backbone": backbone.label or backbone_settings(backbone.spec)["backbone"],
        "image_size": backbone.spec.image_size,
        "taps": [str(tap) for tap in taps],
        "weights": backbone.weights_digest(),
        "precision": backbone.precision(),
    }


def _facts(
    project: Project, served: ServedEnsemble, used: Sequence[tuple[BackboneFeatures, Sequence[Tap]]]
) -> dict[str, Any]:
    built, backbones = served.ensemble, [_backbone_facts(*each) for each in used]
    return {
        "class_names": list(built.class_names),
        "input": {},
        "image_size": None,
        "convnet_image_size": None,
        "image_fit": project.settings.features.image_fit,
        "mirror": project.settings.features.mirror,
        "backbone": _alone(each["backbone"] for each in backbones),
        "taps": _alone(each["taps"] for each in backbones) or [],
        "weights": _alone(each["weights"] for each in backbones),
        "precision": _alone(each["precision"] for each in backbones),
        **({"backbones": backbones} if len(backbones) > 1 else {}),
        "members": dict(zip(built.members, built.weights, strict=True)),
        "method": built.whole.method,
        "temperature": built.whole.temperature,
        "clip": served.clip,
        **({"several_labels": True} if built.several else {}),
        **({"decision": asdict(built.decision)} if built.decided or built.several else {}),
        "made_with": {"featcache": __version__, **versions(("keras", "tensorflow"))},
    }
