"""Several backbones in one run: lists in [Features] become one `FeaturesSpec` each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featcache.core.names import did_you_mean
from featcache.errors import SettingsError
from featcache.settings.architectures import auto_image_size, has_own_weights
from featcache.settings.specs import AUTO, FeaturesSpec
from featcache.settings.tap import Tap

_SIZED = re.compile(r"(.*?)(?:@(\d+))?", re.DOTALL)  # every text is a name, and perhaps a size
_KINDS = (AUTO, "imagenet", "random")  # weights that every network has


def backbone_specs(values: Mapping[str, Any], *, photos: bool, flattening: bool) -> tuple[FeaturesSpec, ...]:
    """Return the spec of each backbone that [Features] names, in its order.

    Args:
        values: the section's values; no ``image_size`` and no ``taps`` are ``auto``.
        photos: whether ``auto`` image sizes are those of photos.
        flattening: whether ``auto`` taps are the last layer as it is, for heads that flatten it.

    Raises:
        SettingsError: a backbone is named twice, or it isn't clear which of several weights or taps belong to.
    """
    names, sizes = zip(*(_sized(name) for name in _listed(values["backbone"])), strict=True)
    specs = []
    for name, size, weights in zip(names, sizes, _weights(values["weights"], names), strict=True):
        given = int(size) if size else values["image_size"]
        side = auto_image_size(name, photos=photos) if given is None else given
        own = {"backbone": name, "weights": weights, "image_size": side}
        specs.append(FeaturesSpec(**{**values, **own, "taps": (Tap("output"),)}))
    _refuse_twice([spec.label for spec in specs])
    return tuple(
        replace(spec, taps=taps or _auto_taps(spec.backbone, flattening=flattening))
        for spec, taps in zip(specs, _taps(values["taps"], specs), strict=True)
    )


def compared_specs(
    text: str, values: Mapping[str, Any], known: Sequence[FeaturesSpec], *, photos: bool, flattening: bool
) -> tuple[FeaturesSpec, ...]:
    """Return the specs of the backbones in [Compare]; weights and taps are those of [Features], as far as it has them.

    Args:
        text: the list of backbones.
        values: those of [Features].
        known: its specs.
        photos: as in `backbone_specs`.
        flattening: as there, too.
    """
    if not text.strip():
        return ()
    listed = {**values, "backbone": text, "weights": AUTO, "taps": ()}
    specs = backbone_specs(listed, photos=photos, flattening=flattening)
    same = {spec.label: spec for spec in known}
    files = {spec.backbone.lower(): spec.weights for spec in known}
    kind = values["weights"] if values["weights"] in _KINDS else AUTO
    found = []
    for spec in specs:
        weights = AUTO if has_own_weights(spec.backbone) else files.get(spec.backbone.lower(), kind)
        found.append(same.get(spec.label) or replace(spec, weights=weights))
    return tuple(found)


def features_text(specs: Sequence[FeaturesSpec], key: str) -> str | None:
    """Return the text of one key of [Features] that makes several `specs`; None for a key that they share."""
    texts = {
        "backbone": [f"{spec.backbone}@{spec.image_size}" for spec in specs],
        "weights": [spec.weights for spec in specs],
        "taps": [str(replace(tap, backbone=spec.label)) for spec in specs for tap in spec.taps],
    }
    return ", ".join(texts[key]) if key in texts else None


def _sized(name: str) -> tuple[str, str]:
    """A name or path, and the digits behind its ``@``; "" for none."""
    found = _SIZED.fullmatch(name)
    return (found[1], found[2] or "") if found else (name, "")


def _listed(text: str) -> list[str]:
    """The names and paths of a list; a path may have commas, and ends in .keras."""
    found: list[str] = []
    for piece in text.split(","):
        if found and "/" in found[-1] and not has_own_weights(_sized(found[-1].strip())[0]):
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return [name.strip() for name in found if name.strip()] or [""]


def _weights(text: str, names: Sequence[str]) -> list[str]:
    listed = [part.strip() for part in text.split(",")] if len(names) > 1 else [text]
    if len(listed) == len(names):
        return listed
    networks = {name.lower() for name in names if not has_own_weights(name)}
    if len(listed) == 1 and (text in _KINDS or len(networks) == 1):
        return [AUTO if has_own_weights(name) else text for name in names]
    fault = f"[Features] weights={text!r} doesn't say which of {len(names)} backbones it is for"
    example = ", ".join([listed[0], *[AUTO] * (len(names) - 1)])
    raise SettingsError(f"{fault}: list one for each, in the order of backbone, such as {example}")


def _taps(taps: Sequence[Tap], specs: Sequence[FeaturesSpec]) -> list[tuple[Tap, ...]]:
    """Each spec's taps; () for ``auto``."""
    called = [{spec.label, spec.label.rpartition("@")[0]} for spec in specs]
    known = sorted(set().union(*called))
    for tap in taps:
        if tap.backbone and tap.backbone not in known:
            hint = did_you_mean(tap.backbone, known)
            raise SettingsError(f"[Features] taps={str(tap)!r} is of no backbone{hint}; known: {', '.join(known)}")
        if not tap.backbone and len(specs) > 1:
            fault = f"[Features] taps={str(tap)!r} doesn't say which of {len(specs)} backbones it is of"
            raise SettingsError(f"{fault}: write {specs[0].label}/{tap}, or taps = auto")
    mine = [[tap for tap in taps if not tap.backbone or tap.backbone in names] for names in called]
    return [tuple(replace(tap, backbone="") for tap in own) for own in mine]


def _auto_taps(backbone: str, *, flattening: bool) -> tuple[Tap, ...]:
    """None for what `FeaturesSpec` itself knows."""
    return (Tap(FeaturesSpec(backbone).taps[-1].layer),) if flattening else ()


def _refuse_twice(labels: Sequence[str]) -> None:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        fix = "leave one out, or give one's own files different names"
        raise SettingsError(f"[Features] backbone names {twice} twice: {fix}")
