"""What ``luigi --module pipeline --help`` shows; ``--help-all`` shows Luigi's own flags."""

import ast
import inspect
import shutil
import textwrap
from collections.abc import Sequence

from luigi.task_register import Register

from featcache.settings import SECTIONS

_FLAG = 30
_EXAMPLES = (
    "  luigi --module pipeline Submit                           everything",
    "  luigi --module pipeline Submit --Features-image-size 96  what that changes",
    "  luigi --module pipeline TrainHeads --rerun               one stage once more",
)


def usage_lines(stages: Sequence[str]) -> list[str]:
    """Return the page: stages with what they do, settings with what they mean and their defaults."""
    lines = ["usage: luigi --module pipeline STAGE [--rerun] [--Section-key VALUE ...]", "", *_EXAMPLES, "", "stages"]
    for name in stages:
        lines += _entry(name, _meaning(Register.get_task_cls(name)), 16)
    lines += ["", "settings, in luigi.cfg or as flags"]
    for section, known in SECTIONS.items():
        for key, setting in known.items():
            default = f" (default: {setting.default})" if setting.default else ""
            lines += _entry(f"--{section}-{key}".replace("_", "-"), setting.meaning + default, _FLAG)
    return [
        *lines,
        "",
        "--quiet shows notices and errors only, --verbose what is logged, too.",
        "--scheduler-host HOST shows the stages on a luigid's page.",
        "--help-all lists Luigi's own flags.",
    ]


def _meaning(stage: type) -> str:
    """The first line of its docstring; ``python -OO`` has none, and the source has it all the same."""
    said = inspect.getdoc(stage)
    if said is None:
        definition = ast.parse(inspect.getsource(stage)).body[0]
        said = ast.get_docstring(definition) if isinstance(definition, ast.ClassDef) else ""
    return str(said).partition("\n")[0]


def _entry(name: str, meaning: str, width: int) -> list[str]:
    wide = max(60, min(shutil.get_terminal_size().columns, 120))
    return textwrap.wrap(f"  {name:<{width}} {meaning}", wide, subsequent_indent=" " * (width + 3))
