"""What people see: bars that fit their terminal, and no escape codes where nobody looks at a terminal."""

import io
import os
import re
import sys

import pytest
from command import luigi, photos
from projects import write_photos
from rich.console import Console

from featcache.core import console as terminal, progress_bar
from featcache.core.formatting import Table


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("what", "total", "speed", "status"),
    [
        ("train copy 1: vgg16", 102_400, "1,234 images/s", "forward 98 % · decode 1 % · write 1 %"),
        ("block5_pool_avg: default", 34, "2.1 epochs/s", "loss 0.308, out of fold 0.172"),
    ],
    ids=["extraction", "training"],
)
def test_a_bar_shows_all_it_has_in_one_line(width, what, total, speed, status):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    bar = progress_bar.bar(console)
    shown = bar.add_task(what, total=total, speed=speed, status=status, short=re.split(" · |, ", status)[0])
    bar.update(shown, advance=total // 2)
    with console.capture() as captured:
        console.print(bar.get_renderable())
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) == 1
    assert "…" not in lines[0]
    for part in (what, f"{total // 2}/{total}", speed, "left", status if width == 120 else status[:10]):
        assert part in lines[0]


def test_a_terminal_shows_which_stage_it_is_from_the_first_second_on(monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    master, slave = os.openpty()
    with open(slave, "w", encoding="utf-8") as terminal_stream, open(master, "rb", buffering=0) as seen:
        monkeypatch.setattr(sys, "stderr", terminal_stream)
        work = progress_bar.ProgressBar()
        work.begin("stage 2 of 7: ExtractSplit")
        work.start("train: vgg16", 1000, "images")
        work.advance(10, "forward 98 %")
        work.finish()
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.read(100_000).decode())
    assert shown.index("stage 2 of 7: ExtractSplit") < shown.index("0:00:00") < shown.index("train: vgg16")
    assert shown.count("stage 2 of 7: ExtractSplit") >= 2, "above the bar, too"


@pytest.mark.parametrize(("width", "absent"), [(60, []), (40, ["95 %"]), (30, ["95 %", "time"])])
def test_columns_are_dropped_before_words_are_broken(width, absent, monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Stream(terminal=True))
    rows = [["pooled/dense/seed0", "0.9944", "0.9903 to 0.9979", "2.0 s"]]
    terminal.show([Table(rows, ("member", "score", "95 %", "time"), optional=("95 %", "time"))])
    shown = re.sub(r"\x1b\[[\d;]*m", "", sys.stdout.getvalue()).splitlines()
    kept = [name for name in ("member", "score", "95 %", "time") if name not in absent]
    assert re.split(r"  +", shown[0].strip()) == kept
    assert shown[1].startswith("pooled/dense/seed0  0.9944")
    assert len(shown) == 2 or absent
    assert not absent or shown[2].startswith(f"without {', '.join(absent)}")


def test_piped_output_has_no_escape_codes(tmp_path):
    outcome = luigi(tmp_path, "IndexImages", **photos(write_photos(tmp_path / "photos")))
    assert outcome.status == 0
    assert "IndexImages      listing: 33 files ..." in outcome.out
    failed = luigi(tmp_path, "Sumbit")
    assert "\x1b" not in outcome.out + outcome.err + failed.out + failed.err
    assert failed.err.startswith("featcache: stage=")


def test_quiet_says_nothing_and_verbose_what_is_logged(tmp_path):
    settings = photos(write_photos(tmp_path / "photos"))
    outcome = luigi(tmp_path, "IndexImages", "--quiet", **settings)
    assert outcome == (0, "", "")
    assert (tmp_path / "artifacts/photos/manifest.json").is_file()
    outcome = luigi(tmp_path, "IndexImages", "--rerun", "--verbose", **settings)
    assert outcome.status == 0
    assert any("INFO luigi-interface" in line and "Running Worker" in line for line in outcome.lines)
    outcome = luigi(tmp_path, "IndexImages", "--quiet", "--verbose", **settings)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.lines == [
        "featcache: quiet=true and verbose=true exclude each other: set one of [output] quiet, verbose"
    ]


class Stream(io.StringIO):
    """A standard stream that is a terminal, or isn't."""

    def __init__(self, *, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("is_terminal", "variables", "coloured", "fitted"),
    [
        (True, {}, True, True),
        (True, {"NO_COLOR": "1"}, False, True),
        (True, {"TERM": "dumb"}, False, False),
        (False, {}, False, False),
        (False, {"FORCE_COLOR": "1"}, True, True),
        (True, {"JPY_PARENT_PID": "7", "FORCE_COLOR": "1"}, False, False),
        (False, {"JPY_PARENT_PID": "7", "FORCE_COLOR": "1"}, False, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "pipe", "FORCE_COLOR", "notebook", "notebook's pipe"],
)
def test_colour_and_width_are_as_the_environment_says(is_terminal, variables, coloured, fitted, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "CI", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "40", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Stream(terminal=is_terminal))
    terminal.show([Table([["FAIL", "words that are longer than forty columns are"]], ("state", "why"))])
    shown = sys.stdout.getvalue()
    assert ("\x1b[1;31mFAIL" in shown) == coloured
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert (len(lines) == 3) == fitted
    assert lines[0].split() == ["state", "why"]


def test_a_long_piece_of_work_says_in_a_pipe_how_far_it_is(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr(progress_bar.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", Stream(terminal=False))
    work = progress_bar.ProgressBar(said.append)
    work.start("train: vgg16", 1000, "images")
    for second in range(1, 71):
        now[0] = second
        work.advance(10, "forward 98 %")
    work.finish()
    assert said == [
        "train: vgg16: 1,000 images ...",
        "train: vgg16: 300 of 1,000 images, 10 images/s, forward 98 %",
        "train: vgg16: 600 of 1,000 images, 10 images/s, forward 98 %",
    ]
    assert work.percentage == 70


def test_paths_stay_in_one_piece_where_a_terminal_is_too_narrow(monkeypatch):
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Stream(terminal=True))
    path = f"artifacts/{'x' * 60}.h5"
    terminal.show([Table([["train", "1.2 MB", path]], ("split", "size", "file"), paths=True)])
    shown = re.sub(r"\x1b\[[\d;]*m", "", sys.stdout.getvalue())
    assert [line.rstrip() for line in shown.splitlines()] == [path, "  split train · size 1.2 MB"]
