"""One backbone of a project: what its ``auto`` settings were resolved to, its taps' keys, and its feature caches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.cache import copy_name, file_key
from featcache.core import keys
from featcache.core.json_records import read_json, write_json
from featcache.features import is_record_of, known_digest, row_settings
from featcache.project.artifact import Artifact
from featcache.settings import AUTO, FeaturesSpec, backbone_settings

_RESOLVED = "resolved.json"  # where `auto` settings are recorded once they are resolved
_SEVERAL = "backbones"  # its entry that has one for each backbone where there are several


@dataclass(frozen=True, eq=False)
class BackboneFeatures:
    """One backbone of a project.

    Attributes:
        spec: its settings.
        label: what it is called among several, ``vgg16@224``; "" of the only one.
        folder: the project's.
        listed: returns the manifest's summary; None while there is none.
    """

    spec: FeaturesSpec
    label: str
    folder: Path
    listed: Callable[[], Mapping[str, Any] | None]
    _made: dict[tuple[str | None, str | None, int], dict[str, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def input_name(self, tap: str) -> str:
        """What inputs of heads call its tap: ``vgg16@224-block5_pool``; of the only backbone the tap's own name."""
        return f"{self.label}-{tap}" if self.label else tap

    def owns(self, name: str) -> bool:
        """Whether that is what inputs of heads call one of its taps."""
        return any(self.input_name(tap.name) == name for tap in self.spec.taps)

    def of_backbone(self, text: str) -> str:
        """`text` as what is said about this backbone among several."""
        return f"{self.label}: {text}" if self.label else text

    def resolved(self, what: str) -> Mapping[str, Any] | None:
        """What ``weights`` or ``precision`` was resolved to, if the setting is still the one it was resolved for.

        The entry of one backbone alone counts among several, too, and the other way round: adding or removing another
        computes nothing again. Among several, random weights count only where they are asked for.
        """
        stored, setting = read_json(self.folder / _RESOLVED) or {}, getattr(self.spec, what)
        several = stored.get(_SEVERAL)
        own = several.get(self.spec.label) if isinstance(several, dict) else None
        entries = [stored, own if isinstance(own, dict) else {}]
        found = [entry.get(what) for entry in (reversed(entries) if self.label else entries)]
        fitting = [each for each in found if isinstance(each, dict) and each.get("setting") == setting]
        if what != "weights":
            return next(iter(fitting), None)
        mine = [each for each in fitting if is_record_of(self.spec, each)]
        if self.label:
            return next((each for each in mine if (setting, each.get("kind")) != (AUTO, "random")), None)
        return next(iter(mine or fitting), None)

    def record_resolved(self, what: str, record: Mapping[str, Any]) -> None:
        """Keep what a setting was resolved to; the file travels with the artifacts."""
        path = self.folder / _RESOLVED
        stored: dict[str, Any] = dict(read_json(path) or {})
        if self.label:
            several = stored.setdefault(_SEVERAL, {})
            several[self.label] = {**several.get(self.label, {}), what: record}
        else:
            stored[what] = record
        write_json(path, stored)

    def weights_digest(self) -> str | None:
        """SHA-256 of the weights, or None while they aren't resolved."""
        return known_digest(self.spec, self.resolved("weights"))

    def precision(self) -> str | None:
        """``float32``, ``bfloat16`` or ``float16``; None while ``auto`` isn't resolved."""
        setting, recorded = self.spec.precision, self.resolved("precision")
        if setting != AUTO:
            return setting
        return str(recorded["value"]) if recorded else None

    def tap_settings(self, copy: int) -> dict[str, dict[str, object]]:
        """Tap name -> everything that decides a row's values but its content; empty while unresolved."""
        weights, precision = self.weights_digest(), self.precision()
        if weights is None or precision is None:
            return {}
        return row_settings(self.spec, backbone_settings(self.spec), weights, precision, copy)

    def tap_keys(self, copy: int) -> dict[str, str]:
        """Tap name -> the settings half of its row keys; empty while unresolved."""
        decided_by = self.weights_digest(), self.precision(), copy
        if decided_by not in self._made:  # as every key that Luigi asks for is made of them
            self._made[decided_by] = {name: keys.digest(own) for name, own in self.tap_settings(copy).items()}
        return dict(self._made[decided_by])

    def cache(self, split: str, copy: int) -> Artifact:
        """One feature cache; its name carries the short digest of its row settings, and ``auto`` for what are many taps."""
        spec, taps, listed = self.spec, self.tap_keys(copy), self.listed()
        key = None
        if taps and listed and split in listed["splits"]:
            key = file_key(taps, listed["splits"][split]["key"], listed["class_names"], split, copy)
        names = AUTO if len(taps) > 1 and spec.taps == FeaturesSpec(spec.backbone).taps else "+".join(taps)
        backbone = backbone_settings(spec)["backbone"]
        readable = f"{split}-{copy_name(copy).replace(' ', '')}-{backbone}-{names}-{spec.image_size}"
        digest = f"-{keys.short(keys.digest(list(taps.values())))}.h5"
        name = keys.short_name(readable, len(digest)) + digest
        return Artifact(self.folder / "features" / name, key)
