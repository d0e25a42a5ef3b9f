"""luigi.cfg as Luigi reads it, without Luigi: for commands that start in a blink and must see the same settings."""

import codecs
import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from configparser import ConfigParser, Error as ConfigError, InterpolationMissingOptionError
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache.core import paths
from featcache.ensemble import find_sample
from featcache.errors import SettingsError
from featcache.project.flow import NEEDS
from featcache.project.project import Project
from featcache.settings import SECTIONS, check_names, parse_settings

# In the order in which Luigi reads them; what comes later wins.
CONFIG_FILES = ("/etc/luigi/client.cfg", "/etc/luigi/luigi.cfg", "client.cfg", "luigi.cfg")
PATH_VARIABLE = "LUIGI_CONFIG_PATH"
_PARSER_VARIABLE = "LUIGI_CONFIG_PARSER"
_WIDTH = 110
_VARIABLE = re.compile(r"\$\{([^}]+)\}")


def configured_project(overrides: Sequence[str] = ()) -> Project:
    """Return the project of luigi.cfg in the current folder and of ``$LUIGI_CONFIG_PATH``.

    `overrides` are ``Section.key=value`` each, as ``--Section-key value`` on Luigi's command line.

    Raises:
        SettingsError: a file, section, key or value that Luigi would stumble over, too.
    """
    return open_project(overridden(configured_sections(), overrides))


def overridden(sections: Mapping[str, Mapping[str, str]], overrides: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return settings as text with others in their place, ``Section.key=value`` each; a `SettingsError` for an odd one."""
    found = {name: dict(values) for name, values in sections.items()}
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot and section and key):
            raise SettingsError(f"--set {override!r} is not Section.key=value: e.g. Features.image_size=96")
        found.setdefault(section.strip(), {})[key.strip().replace("-", "_")] = value
    check_names(found)
    return found


def configured_sections() -> dict[str, dict[str, str]]:
    """Return section -> key (with underscores) -> text, without the stages' sections and what ``[DEFAULT]`` adds to each.

    Raises:
        SettingsError: a file can't be read as luigi.cfg, a section or key is misspelt, a value of ours names what isn't
            there, or a setting is in ``[DEFAULT]``.
    """
    if os.environ.get(_PARSER_VARIABLE, "cfg") == "toml":
        raise SettingsError(f"{_PARSER_VARIABLE}=toml is for Luigi alone, featcache reads luigi.cfg: unset it")
    return file_sections(config_files())


def file_sections(files: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what `configured_sections` does, of these files, of which later ones count more; raises what that raises."""
    parser = config_parser()
    for name in files:
        _read(parser, name)
    # [DEFAULT] is for what values name as %(key)s; a setting would count only in sections that are there
    for key in parser.defaults():
        home = next((section for section, known in SECTIONS.items() if key.replace("-", "_") in known), None)
        if home:
            raise SettingsError(f"[DEFAULT] has the setting {key!r}: put it into its section, e.g. [{home}]")
    sections = {
        section: {key: _value(parser, section, key, files) for key in parser[section] if key not in parser.defaults()}
        for section in parser.sections()
        if section not in NEEDS  # where Luigi takes parameters of single stages
    }
    check_names(sections, NEEDS)
    return {name: {key.replace("-", "_"): text for key, text in values.items()} for name, values in sections.items()}


def config_text(sections: Mapping[str, Mapping[str, str]], head: str) -> str:
    """Return the text of a luigi.cfg, each setting below what it means; `head` is its first line."""
    lines = [f"# {head}"]
    for section, values in sections.items():
        lines += ["", f"[{section}]"]
        for key, value in values.items():
            lines += textwrap.wrap(SECTIONS[section][key].meaning, _WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{key} = {value.replace('%', '%%')}".rstrip())
    return "\n".join(lines) + "\n"


def open_project(sections: Mapping[str, Mapping[str, str]]) -> Project:
    """Return the project of settings as text: section -> key -> text, as in luigi.cfg.

    Where none names a sample submission, it is the one beside the images.

    Raises:
        SettingsError: an unknown name, a value of the wrong kind or out of range, or no such sample submission.
        BackboneError: no such backbone, or an image size below its minimum.
    """
    settings = parse_settings(sections)
    sample = find_sample(settings.dataset.sample_submission, settings.dataset.path)
    return Project(replace(settings, dataset=replace(settings.dataset, sample_submission=sample)))


def config_files() -> list[str]:
    """Return the files that Luigi reads, of those that are there; Luigi itself passes over what it can't open.

    Raises:
        SettingsError: one is there and can't be opened, or ``$LUIGI_CONFIG_PATH`` leads to nothing.
    """
    named = os.environ.get(PATH_VARIABLE)
    files = [name for name in CONFIG_FILES if os.path.lexists(name)] + ([named] if named else [])
    for name in files:
        where = f"{PATH_VARIABLE}={name!r}" if name == named else name
        if not paths.is_file(Path(name)):
            raise SettingsError(f"{where} is not a file of settings but {paths.what_is(Path(name))}")
        if name == named and Path(name).suffix == ".toml":
            raise SettingsError(f"{where} is not a file like luigi.cfg but TOML, which isn't read")
    return files


def config_parser(**options: Any) -> ConfigParser:
    """Return a parser of luigi.cfg as Luigi has it, but for its variables of the environment."""
    parser = ConfigParser(**options)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as Luigi: keys keep their case
    return parser


def _read(parser: ConfigParser, name: str) -> None:
    """Add a file's settings, or raise a `SettingsError`."""
    try:
        content = paths.read_bytes(Path(name))
    except OSError as error:
        raise SettingsError(f"{name} can't be read: {paths.fault(error)}") from error
    advice = "save it as UTF-8 without a byte order mark, which is what Luigi reads"
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SettingsError(f"{name} begins with a byte order mark: {advice}")
    try:
        parser.read_file(io.StringIO(content.decode("utf-8"), newline=None), source=name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{content[error.start]:02x}"
        raise SettingsError(f"{name}, line {line}: the byte {byte} is not UTF-8: {advice}") from error
    except ConfigError as error:
        raise SettingsError(f"{name}: {' '.join(str(error).split())}") from error


def _value(parser: ConfigParser, section: str, key: str, files: Sequence[str]) -> str:
    """A value with ``%(key)s`` and ``${NAME}`` in full, as Luigi has it; those of Luigi's own sections as they are written."""
    written = parser.get(section, key, raw=True)
    if section not in SECTIONS:
        return written
    try:
        return _VARIABLE.sub(lambda match: os.environ[match[1]], parser.get(section, key))
    except KeyError as missing:
        fault = f"the environment variable {missing.args[0]} isn't set"
    except ConfigError as error:
        missing_key = isinstance(error, InterpolationMissingOptionError)
        why = f"there is no key {error.args[-1]!r}" if missing_key else " ".join(str(error).split())
        fault = f"{why}: write %% for a % itself"
    raise SettingsError(f"{_place(section, key, files)}: [{section}] {key}={written!r}: {fault}")


def _place(section: str, key: str, files: Sequence[str]) -> str:
    """The file that has the last word about a key."""
    for name in files[:0:-1]:
        alone = config_parser(interpolation=None)
        _read(alone, name)
        if alone.has_option(section, key):
            return name
    return files[0]
