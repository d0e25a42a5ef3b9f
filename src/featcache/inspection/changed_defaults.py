"""Defaults that changed since a project's caches were made: what that costs, and the lines that keep the old ones."""

import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from featcache.cache import Reader, open_cache
from featcache.core.formatting import age_text, pluralize
from featcache.core.paths import is_file, modified
from featcache.errors import BackboneError, CacheError
from featcache.project import Project
from featcache.settings import FORMER_DEFAULTS, SECTIONS, FeaturesSpec, Settings

_FEATURES = SECTIONS["Features"]


def changed_defaults(project: Project) -> list[str]:
    """Return a line if a run computes features again because a default changed; none about what somebody set.

    Caches of the former default are there then, and none of today's.
    """
    if len(project.backbones) > 1:  # a list of backbones was set, and no former default had one
        return []
    backbone = project.backbones[0]
    anew = [(split, copy) for _, split, copy in project.caches() if not is_file(backbone.cache(split, copy).path)]
    found: list[tuple[FeaturesSpec, list[Reader]]] = []
    for spec in _former_specs(project.settings):
        former = replace(backbone, spec=spec)
        with suppress(BackboneError):  # it doesn't take images that small
            found.append((spec, list(_opened(former.cache(*cache).path for cache in anew))))
    found = [(spec, readers) for spec, readers in found if readers]
    if not found:
        return []
    spec, readers = max(found, key=lambda each: max(modified(reader.path) for reader in each[1]))
    now = project.settings.features
    keys = [key for key in FORMER_DEFAULTS if getattr(spec, key) != getattr(now, key)]
    changes = ", ".join(f"{key} from {FORMER_DEFAULTS[key]} to {_now(now, key)}" for key in keys)
    count = sum(project.splits()[reader.split]["rows"] for reader in readers)
    cost = f"features of {pluralize(count, 'image')} are computed anew{_duration(count, spec, now, readers)}"
    kept = " and ".join(f"{key} = {FORMER_DEFAULTS[key]}" for key in keys)
    keep = "keeps" if len(keys) == 1 else "keep"
    return [f"changed defaults of [Features]: {changes}: {cost}; {kept} {keep} the old caches"]


def _former_specs(settings: Settings) -> Iterator[FeaturesSpec]:
    """The settings of features with one or more former defaults of keys that nobody set."""
    now = settings.features
    former: dict[str, Any] = {
        key: _FEATURES[key].read(text) for key, text in FORMER_DEFAULTS.items() if key in settings.unset
    }
    changed = [key for key, value in former.items() if value != getattr(now, key)]
    for count in range(1, len(changed) + 1):
        for keys in combinations(changed, count):
            yield replace(now, **{key: former[key] for key in keys})


def _opened(paths: Iterable[Path]) -> Iterator[Reader]:
    for path in paths:
        with suppress(CacheError):
            if is_file(path):
                yield open_cache(path)


def _now(now: FeaturesSpec, key: str) -> str:
    value = getattr(now, key)
    return f"{_FEATURES[key].default} ({value})" if isinstance(value, int) else _FEATURES[key].default


def _duration(count: int, then: FeaturesSpec, now: FeaturesSpec, readers: Iterable[Reader]) -> str:
    """How long so many images take at the rate of the old caches; "" if they were made elsewhere.

    Convolutions take time by the pixel, decoding doesn't: of larger images it is the most that it can be.
    """
    here = [reader.run for reader in readers if reader.run.get("host") == platform.node()]
    rate = max((float(run.get("images_per_second") or 0) for run in here), default=0)
    if not rate:
        return ""
    word = "about" if now.image_size == then.image_size else "at most about"
    return f" ({word} {age_text(count / rate * (now.image_size / then.image_size) ** 2)})"
