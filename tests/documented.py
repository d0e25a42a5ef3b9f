"""The code blocks of the documentation, and a way to run those of a page in order, quickly: what can be in this process is."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import luigi
import pytest
from projects import LuigiProject

from featcache.cli import main
from featcache.project.config_file import configured_sections
from pipeline.help_page import usage_lines
from pipeline.startup_checks import stage_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n)?(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_SHELL = re.compile(r"[|&;<>$`(]|^\w+=")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line it begins in, and whether the page says that it isn't run."""

    language: str
    code: str
    line: int
    marked: bool


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        found.append(Block(match["language"], code, text.count("\n", 0, match.start()) + 1, bool(match["mark"])))
    return found


class Reader:
    """Somebody who reads a page and types what it says, in the current folder."""

    def __init__(self) -> None:
        """Begin a page."""
        self.namespace: dict[str, object] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Do what a block says; an ``ini`` block is the file that its first line names."""
        if block.language == "python":
            exec(compile(block.code, f"line {block.line}", "exec"), self.namespace)  # noqa: S102 - the documentation's own
        elif block.language == "bash":
            for command in commands(block.code):
                self.type(command)
        elif block.language == "ini":
            Path(block.code.partition("\n")[0].removeprefix("# ")).write_text(block.code)

    def type(self, command: str) -> None:
        """Run one command line; `featcache` and `luigi` without a shell's help run in this process."""
        setting, _, rest = command.partition(" ")
        if setting.startswith("LUIGI_CONFIG_PATH="):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(*setting.split("=", 1))
                self.type(rest)
            return
        if _SHELL.search(command):
            subprocess.run(["bash", "-ec", command], check=True, timeout=120)
            return
        words = [name for word in shlex.split(command) for name in (_matching(word) or [word])]
        if words[:2] == ["featcache", "run"]:  # which becomes that process
            words = ["luigi", "--module", "pipeline", *(words[2:] or ["Submit"])]
        if words[0] == "featcache":
            assert main(words[1:]) == 0, command
        elif words[:3] == ["luigi", "--module", "pipeline"]:
            assert run_luigi(words[3:]), command
        else:
            subprocess.run(["bash", "-ec", command], check=True, timeout=120)


def _matching(word: str) -> list[str]:
    """The files that a pattern stands for."""
    return sorted(map(str, Path().glob(word))) if "*" in word else []


def small_vgg16(architecture: object, side: int):
    """Blocks with VGG16's names and halvings, but one layer of four channels each: what is documented doesn't go by more."""
    import keras

    del architecture
    features = inputs = keras.Input((side, side, 3))
    for block in ("block1", "block2", "block3", "block4", "block5"):
        features = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name=f"{block}_conv1")(features)
        features = keras.layers.MaxPooling2D(name=f"{block}_pool")(features)
    return keras.Model(inputs, features)


def commands(code: str) -> list[str]:
    """The command lines of a block, without comments."""
    lines = (re.sub(r"(^|\s{2,})#.*$", "", line).rstrip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def run_luigi(words: list[str]) -> bool:
    """``luigi --module pipeline WORDS`` in this process, under the luigi.cfg of the current folder."""
    if words == ["--help"]:
        return bool(usage_lines(stage_names()))
    sections = {name: values for name, values in configured_sections().items() if name[0].isupper()}
    configuration = luigi.configuration.get_config()
    with LuigiProject(Path.cwd(), sections).in_force():
        for key in ("no_lock", "no_configure_logging", "local_scheduler"):
            configuration.set("core", key, "true")
        try:
            outcome = luigi.interface.run(words, detailed_summary=True)
        finally:
            configuration.remove_section("core")
    return outcome.scheduling_succeeded and outcome.status.name == "SUCCESS"


@contextlib.contextmanager
def here(folder: Path):
    """Work in `folder`, as after ``cd``."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


KAGGLE = f"""#!{sys.executable}
'''What the real `kaggle` leaves behind, without the network: the competition's files, and a look at what is submitted.'''
import csv, io, sys, zipfile
from pathlib import Path

words = sys.argv[1:]
values = dict(zip(words[2::2], words[3::2]))
assert words[0] == "competitions" and values["-c"] == "digit-recognizer", words


def table(rows, labelled):
    pixels = ["label"] * labelled + [f"pixel{{i}}" for i in range(784)]
    lines = [pixels] + [[row % 3] * labelled + [(40 * (row % 3) + 7 * row + i) % 256 for i in range(784)] for row in range(rows)]
    return "".join(",".join(map(str, line)) + "\\r\\n" for line in lines)


if words[1] == "download":
    folder = Path(values["-p"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "digit-recognizer.zip", "w") as archive:
        archive.writestr("train.csv", table(30, 1))
        archive.writestr("test.csv", table(8, 0))
        archive.writestr("sample_submission.csv", "ImageId,Label\\n" + "".join(f"{{i + 1}},0\\n" for i in range(8)))
else:
    assert words[1] == "submit" and values["-m"], words
    header, *rows = csv.reader(open(values["-f"]))
    assert header == ["ImageId", "Label"] and [row[0] for row in rows] == [str(i + 1) for i in range(8)], rows
    print("Successfully submitted to Digit Recognizer")
"""
