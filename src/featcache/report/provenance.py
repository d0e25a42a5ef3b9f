"""What a run was made with, as text to copy: settings in luigi.cfg's form, versions, digests, keys."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from featcache.cache import open_cache
from featcache.project import Project
from featcache.settings import SECTIONS, AugmentPolicy, Settings

_DECIDE = ("Dataset", "Features", "Heads", "ConvNet", "Ensemble")
_DECIDES_NOT = "sample_submission"


def settings_text(settings: Settings) -> str:
    """Return the settings that decide the report's content, in luigi.cfg's form; parsed again they are the same.

    Those of the submission aren't among them: the report doesn't depend on them.
    """
    lines = []
    for section in _DECIDE:
        spec, keys = getattr(settings, section.lower()), [key for key in SECTIONS[section] if key != _DECIDES_NOT]
        lines += ["", f"[{section}]", *(f"{key} = {_text(getattr(spec, key))}".rstrip() for key in keys)]
    return "\n".join(lines[1:]) + "\n"


def provenance(project: Project) -> dict[str, str]:
    """Return name -> text of what else decided the values: weights, precision, keys, versions."""
    reader = open_cache(project.features("train", 0).path)
    weights: Mapping[str, Any] = project.resolved("weights") or {}
    versions: Mapping[str, Any] = reader.run.get("versions") or {}
    facts = {
        "weights": str(weights.get("kind", "")),
        "weights' SHA-256": project.weights_digest() or "",
        "precision": project.precision() or "",
        "device": str(reader.run.get("device", "")),
        "manifest's key": str((project.listed() or {}).get("key", "")),
        "features' key": reader.key,
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
