"""Settings as keyword arguments: every key of luigi.cfg by its name."""

import os
from collections.abc import Iterable, Mapping

from featcache.core.names import did_you_mean
from featcache.errors import SettingsError
from featcache.settings import SECTIONS

Sections = dict[str, dict[str, str]]


def keyword_names() -> dict[str, tuple[str, str]]:
    """Return keyword -> (section, key) of every setting.

    A key alone is that of the first section that has it: ``image_size`` is that of [Features], and that of [ConvNet] is
    ``convnet_image_size``.
    """
    alone = {key: (section, key) for section in reversed(list(SECTIONS)) for key in SECTIONS[section]}
    return alone | {f"{section.lower()}_{key}": (section, key) for section, keys in SECTIONS.items() for key in keys}


def sections_of(keywords: Mapping[str, object]) -> Sections:
    """Return keyword arguments as luigi.cfg has them: section -> key -> text.

    Values are what luigi.cfg has as text, or None for "", true and false, numbers, paths, and lists where luigi.cfg has
    commas.

    Raises:
        SettingsError: an unknown keyword, one setting by two names, or a value that luigi.cfg can't hold.

    Example:
        >>> sections_of({"image_size": 96, "mirror": True, "ConvNet_image_size": 32, "hidden": [128, 128]})
        {'Features': {'image_size': '96', 'mirror': 'true'}, 'ConvNet': {'image_size': '32'}, 'Heads': {'hidden': '128, 128'}}
    """
    names, sections = keyword_names(), Sections()
    for keyword, value in keywords.items():
        place = names.get(keyword) or names.get(_lowered(keyword))
        if place is None:
            hint = did_you_mean(keyword, names)
            raise SettingsError(f"unknown setting {keyword}={value!r}{hint or '; luigi.cfg has them all'}")
        section, key = place
        if key in sections.get(section, {}):
            raise SettingsError(f"{keyword}={value!r}: [{section}] {key} is given twice: leave one out")
        sections.setdefault(section, {})[key] = _text(keyword, value)
    return sections


def _lowered(keyword: str) -> str:
    """``ConvNet_image_size`` as ``convnet_image_size``; the key keeps its case."""
    section, _, key = keyword.partition("_")
    return f"{section.lower()}_{key}"


def _text(keyword: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return ", ".join(_text(keyword, each) for each in value)
    if not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise SettingsError(
            f"{keyword}={value!r} is of type {kind}: give text as in luigi.cfg, a number, a path or a list"
        )
    text = str(value).strip()
    if not text.isprintable() or "${" in text:
        raise SettingsError(
            f"{keyword}={text!r} can't be written to luigi.cfg: give one line, without ${{ and control characters"
        )
    return text
