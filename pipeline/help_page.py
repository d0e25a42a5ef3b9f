"""What ``luigi --module pipeline --help`` shows; ``--help-all`` shows Luigi's own flags."""

import ast
import inspect
import shutil
import textwrap
from collections.abc import Sequence

from featcache.settings import SECTIONS
from pipeline.stage import Stage

_HEAD = """\
usage: luigi --module pipeline STAGE [--rerun] [--Section-key VALUE ...]

  luigi --module pipeline Submit                           everything
  luigi --module pipeline Submit --Features-image-size 96  what that changes
  luigi --module pipeline TrainHeads --rerun               one stage again

stages"""
_FOOT = """
--quiet prints notices and errors only, --verbose also the log.
--scheduler-host HOST shows the stages on a luigid's page.
--help-all lists Luigi's own flags."""


def usage_lines(stages: Sequence[str]) -> list[str]:
    """Return the page: stages with what they do, settings with what they mean and their defaults."""
    lines = _HEAD.splitlines()
    for name in stages:
        lines += _entry(name, _meaning(Stage.known[name]), 16)
    lines += ["", "settings, in luigi.cfg or as flags"]
    for section, known in SECTIONS.items():
        for key, setting in known.items():
            default = f" (default: {setting.default})" if setting.default else ""
            lines += _entry(flag_name(section, key), setting.meaning + default, 30)
    return [*lines, *_FOOT.splitlines()]


def flag_name(section: str, key: str) -> str:
    """Return the flag of a setting, e.g. ``--Features-image-size``."""
    return f"--{section}-{key}".replace("_", "-")


def _meaning(stage: type) -> str:
    """The first line of its docstring, which ``python -OO`` leaves to the source."""
    definition = ast.parse(inspect.getsource(stage)).body[0]
    text = ast.get_docstring(definition) if isinstance(definition, ast.ClassDef) else None
    return (text or "").partition("\n")[0]


def _entry(name: str, meaning: str, width: int) -> list[str]:
    columns = max(60, min(shutil.get_terminal_size().columns, 120))
    return textwrap.wrap(f"  {name:<{width}} {meaning}", columns, subsequent_indent=" " * (width + 3))
