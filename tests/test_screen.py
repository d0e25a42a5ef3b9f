"""What people see: bars that fit their terminal, and no escape codes where nobody looks at a terminal."""

import io
import re

import pytest
from command import luigi, photos
from projects import write_photos
from rich.console import Console

from pipeline import screen


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
    bar = screen._bar(console)
    shown = bar.add_task(what, total=total, speed=speed, status=status, short=re.split(" · |, ", status)[0])
    bar.update(shown, advance=total // 2)
    with console.capture() as captured:
        console.print(bar.get_renderable())
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) == 1
    assert "…" not in lines[0]
    for part in (what, f"{total // 2}/{total}", speed, "left", status if width == 120 else status[:10]):
        assert part in lines[0]


def test_piped_output_has_no_escape_codes(tmp_path):
    outcome = luigi(tmp_path, "IndexImages", **photos(write_photos(tmp_path / "photos")))
    assert outcome.status == 0
    assert "IndexImages      listing: 33 files ..." in outcome.out
    failed = luigi(tmp_path, "Sumbit")
    assert "\x1b" not in outcome.out + outcome.err + failed.out + failed.err
    assert failed.err.startswith("featcache: unknown stage")
