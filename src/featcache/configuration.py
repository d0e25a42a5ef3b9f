"""luigi.cfg as Luigi reads it, without Luigi: for commands that start in a blink and must see the same settings."""

import os
import re
from collections.abc import Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError

from featcache.errors import SettingsError
from featcache.project import Project
from featcache.settings import check_names, parse_settings

# In the order in which Luigi reads them; what comes later wins.
CONFIG_FILES = ("/etc/luigi/client.cfg", "/etc/luigi/luigi.cfg", "client.cfg", "luigi.cfg")
PATH_VARIABLE = "LUIGI_CONFIG_PATH"
_PARSER_VARIABLE = "LUIGI_CONFIG_PARSER"
_VARIABLE = re.compile(r"\$\{([^}]+)\}")

# Sections in which Luigi takes parameters of single stages; they are no settings of the project.
STAGES = (
    "IndexImages",
    "ExtractSplit",
    "ExtractFeatures",
    "TrainBag",
    "TrainHeads",
    "TrainConvNets",
    "PredictRows",
    "BuildEnsemble",
    "WriteSubmission",
    "WriteReport",
    "Submit",
)


def configured_project(overrides: Sequence[str] = ()) -> Project:
    """Return the project of luigi.cfg in the current folder and of ``$LUIGI_CONFIG_PATH``.

    Args:
        overrides: ``Section.key=value`` each, as ``--Section-key value`` on Luigi's command line.

    Raises:
        SettingsError: a file, section, key or value that Luigi would stumble over, too.
    """
    sections = {name: dict(values) for name, values in configured_sections().items()}
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot and section and key):
            raise SettingsError(f"--set: expected Section.key=value, e.g. Features.image_size=96; got {override!r}")
        sections.setdefault(section.strip(), {})[key.strip().replace("-", "_")] = value
    check_names(sections)
    return Project(parse_settings(sections))


def configured_sections() -> dict[str, dict[str, str]]:
    """Return section -> key (with underscores) -> text, without Luigi's own and the stages' sections.

    Raises:
        SettingsError: a file can't be read as luigi.cfg.
    """
    if os.environ.get(_PARSER_VARIABLE, "cfg") == "toml":
        raise SettingsError(f"expected luigi.cfg; got {_PARSER_VARIABLE}=toml, which only Luigi reads: unset it")
    parser = ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as Luigi: keys keep their case
    try:
        parser.read([*CONFIG_FILES, *filter(None, [os.environ.get(PATH_VARIABLE)])], encoding="utf-8")
        sections = [name for name in parser.sections() if name not in STAGES]
        return {name: {key.replace("-", "_"): _expanded(text) for key, text in parser.items(name)} for name in sections}
    except (ConfigError, UnicodeDecodeError) as error:
        raise SettingsError(f"luigi.cfg: {' '.join(str(error).split())}") from error


def _expanded(text: str) -> str:
    """Put environment variables in the place of ``${NAME}``, as Luigi does."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise SettingsError(f"luigi.cfg: expected the environment variable {match[1]}, which {text!r} names; unset")
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)
