"""luigi.cfg changed in place: values only, so that comments, order and everything else in it stay."""

import os
import re
from collections.abc import Mapping
from configparser import Error as ConfigError
from pathlib import Path

from featcache.core.disk import write_text
from featcache.core.paths import is_file, read_bytes
from featcache.errors import SettingsError
from featcache.project.config_file import PATH_VARIABLE, config_parser, configured_sections
from featcache.settings import full_texts

_HEADER = re.compile(r"\[(.+)\]")
_KEY = re.compile(r"([^\s#;\[=:][^=:]*?)\s*[=:]")

Changes = list[tuple[str, str, str, str]]


def change_config(wanted: Mapping[str, Mapping[str, str]]) -> tuple[Path, Changes]:
    """Make the file with the last word, ``$LUIGI_CONFIG_PATH`` or luigi.cfg, say what is `wanted`: section -> key -> text.

    Returns:
        the file, and (section, key, text before, text now) of every setting that was another one. Without any, nothing is
        written.

    Raises:
        SettingsError: a file of settings is faulty, or of a form that can't be changed safely.
        StorageError: it can't be written.
    """
    target, now = Path(os.environ.get(PATH_VARIABLE) or "luigi.cfg"), full_texts(configured_sections())
    changes = [
        (section, key, now[section][key], text)
        for section, values in wanted.items()
        for key, text in values.items()
        if section in now and now[section].get(key, text) != text
    ]
    before = read_bytes(target).decode("utf-8") if is_file(target) else ""
    lines = before.splitlines()
    for section, key, _, text in changes:
        lines = _changed(lines, section, key, text.replace("%", "%%").replace("\n", "\n\t"))
    after = "".join(f"{line}\n" for line in lines)
    if changes:
        _check(target, before, after, changes)
        write_text(target, after)
    return target, changes


def _changed(lines: list[str], section: str, key: str, text: str) -> list[str]:
    """The lines of a file with another value of one key, which is added where it isn't there."""
    headers = [place for place, line in enumerate(lines) if _HEADER.match(line)]
    own = next((place for place in headers if lines[place].startswith(f"[{section}]")), None)
    if own is None:
        return [*lines, *([""] if lines else []), f"[{section}]", f"{key} = {text}"]
    end = next((place for place in headers if place > own), len(lines))
    last = own  # line of the section that says something
    for place in range(own + 1, end):
        found = _KEY.match(lines[place])
        if found and found[1].replace("-", "_") == key:
            rest = place + 1
            while rest < end and lines[rest][:1].isspace() and lines[rest].strip()[:1] not in ("", "#", ";"):
                rest += 1
            return [*lines[:place], f"{found[1]} = {text}".rstrip(), *lines[rest:]]
        last = place if lines[place].strip()[:1] not in ("", "#", ";") else last
    return [*lines[: last + 1], f"{key} = {text}".rstrip(), *lines[last + 1 :]]


def _check(target: Path, before: str, after: str, changes: Changes) -> None:
    """Refuse what would have changed more, or less, than it should; by a `SettingsError`."""
    then, now = _values(before), _values(after)
    wanted = {(section, key): text for section, key, _, text in changes}
    if now is None or then is None or now != then | wanted:
        by_hand = "; ".join(f"[{section}] {key} = {text}" for (section, key), text in wanted.items())
        raise SettingsError(f"{target} is of a form that can't be changed safely: set by hand {by_hand}")


def _values(content: str) -> dict[tuple[str, str], str] | None:
    parser = config_parser(interpolation=None)
    try:
        parser.read_string(content)
    except ConfigError:
        return None
    own = ((section, key, parser[section][key]) for section in parser.sections() for key in parser[section])
    return {(section, key.replace("-", "_")): text.replace("%%", "%") for section, key, text in own}
