"""What a run was made with, as text to copy: settings in luigi.cfg's form, versions, digests, keys."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from featcache.cache import open_cache
from featcache.project import Project
from featcache.settings import SECTIONS, AugmentPolicy, Settings, features_text

_DECIDE = ("Dataset", "Features", "Heads", "ConvNet", "Ensemble")
_DECIDES_NOT = "sample_submission"


def settings_text(settings: Settings) -> str:
    """Return the settings that decide the report's content, in luigi.cfg's form; parsed again they are the same.

    Those of the submission aren't among them: the report doesn't depend on them.
    """
    lines = []
    for section in _DECIDE:
        spec, keys = getattr(settings, section.lower()), [key for key in SECTIONS[section] if key != _DECIDES_NOT]
        several = settings.backbones if section == "Features" and settings.others else ()
        texts = {key: features_text(several, key) if several else None for key in keys}
        values = ((key, _text(getattr(spec, key)) if text is None else text) for key, text in texts.items())
        lines += ["", f"[{section}]", *(f"{key} = {value}".rstrip() for key, value in values)]
    return "\n".join(lines[1:]) + "\n"


def provenance(project: Project) -> dict[str, str]:
    """Return name -> text of what else decided the values: weights, precision, keys, versions."""
    facts: dict[str, str] = {}
    keys: dict[str, str] = {}
    versions: dict[str, Any] = {}
    for backbone in project.backbones:
        reader = open_cache(backbone.cache("train", 0).path)
        weights: Mapping[str, Any] = backbone.resolved("weights") or {}
        own = {
            "weights": str(weights.get("kind", "")),
            "weights' SHA-256": backbone.weights_digest() or "",
            "precision": backbone.precision() or "",
            "device": str(reader.run.get("device", "")),
        }
        facts |= {backbone.of_backbone(name): text for name, text in own.items()}
        keys[backbone.of_backbone("features' key")] = reader.key
        versions |= reader.run.get("versions") or {}
    facts |= {
        "manifest's key": str((project.listed() or {}).get("key", "")),
        **keys,
        "ensemble's key": project.ensemble().key or "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: text for name, text in facts.items() if text}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, AugmentPolicy):
        amounts = asdict(value)
        return ", ".join(name if amount is True else f"{name} {amount:g}" for name, amount in amounts.items() if amount)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
