import dataclasses
import json
import os
import pty
import subprocess
import sys

import pytest
from cache_files import TAPS, make_header, make_rows, write_cache, write_rows

from featcache.cache.writer import CacheWriter
from featcache.cli import main
from featcache.inspection import cache_info

KEY = make_header(make_rows(11)).key


@pytest.fixture
def folder(tmp_path):
    """A finished cache with one rejected row, and an unfinished one."""
    (tmp_path / "bees").mkdir()
    write_cache(tmp_path / "bees" / "c.h5", make_rows(11), rejected=(3,))
    rows = make_rows(9)
    with CacheWriter(tmp_path / "bees" / "d.h5", make_header(rows, split="test")) as writer:
        write_rows(writer, rows, range(5))
    return tmp_path


def partial_in(folder):
    return next(folder.rglob("*.partial.h5"))


def test_show_tells_shape_settings_provenance_statistics_and_rows(folder, capsys):
    assert main(["show", "--stats", str(folder / "bees" / "c.h5")]) == 0
    shown = capsys.readouterr().out
    for text in (
        "bees: train, copy 0, complete",
        f"key      {KEY}",
        "rows     11 (10 ok, 1 rejected)",
        "classes  2: ant, bée",
        "shape       11 x 2 x 3 x 5 float16, 660 B",
        "image_size  48",
        "weights  random",
        "host     lab3",
        "over 10 rows",
        "ünï/3.jpg         p3     rejected",
    ):
        assert text in shown
    assert "statistics  zeros 5" in shown


def test_what_all_taps_share_is_shown_once(tmp_path, capsys):
    taps = [dataclasses.replace(tap, settings={**tap.settings, "image_size": 48}) for tap in TAPS]
    write_cache(tmp_path / "c.h5", make_rows(3), tuple(taps))
    assert main(["show", str(tmp_path / "c.h5")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("  image_size")] == [["image_size", "48"]]
    assert lines[lines.index("all taps") + 1].split() == ["image_size", "48"]
    assert [line.split()[1] for line in lines if line.startswith("  tap ")] == ["block5_pool", "block5_pool:avg"]


def test_show_json_holds_the_same(folder, capsys):
    assert main(["show", "--json", str(folder / "bees" / "c.h5")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == {"not written": 0, "ok": 10, "rejected": 1}
    assert record["run"] == {"host": "lab3", "seconds": 1.5}
    assert record["taps"]["block5_pool"]["shape"] == [11, 2, 3, 5]
    assert "statistics" not in record["taps"]["block5_pool"], "reading all features takes a while"
    assert main(["show", "--json", "--stats", str(folder / "bees" / "c.h5")]) == 0
    assert json.loads(capsys.readouterr().out)["taps"]["block5_pool"]["statistics"]["rows"] == 10
    assert record["first_rows"][1]["class"] == "ant"
    assert len(record["first_rows"]) == cache_info.FIRST_ROWS


def test_show_opens_unfinished_and_empty_files(folder, tmp_path, capsys):
    assert main(["show", str(partial_in(folder))]) == 0
    shown = capsys.readouterr().out
    assert "bees: test, copy 0, unfinished" in shown
    assert "rows     9 (5 not written, 4 ok)" in shown
    assert main(["show", "--stats", str(write_cache(tmp_path / "n0.h5", make_rows(0)))]) == 0
    assert "statistics  no rows" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"no HDF5 at all"])
def test_show_says_in_one_line_what_is_wrong(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "x.h5").write_bytes(content)
    assert main(["show", str(tmp_path / "x.h5")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("featcache: error: ")
    assert err.count("\n") == 1
    assert "x.h5" in err


def test_control_characters_and_undecodable_names_do_not_reach_the_terminal(tmp_path, capsys):
    path = write_cache(tmp_path / "c.h5", make_rows(2, prefix="\x1b[2J\udce9/"))
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2J\xe9/0.jpg" in shown


def test_ls_has_one_line_a_cache(folder, capsys):
    assert main(["ls", str(folder)]) == 0
    head, whole, unfinished = capsys.readouterr().out.splitlines()
    assert head.split() == list(cache_info.LISTING_COLUMNS)
    assert whole.split()[:7] == ["train", "0", "block5_pool,", "block5_pool_avg", "2x3x5,", "5", "11"]
    assert KEY[:8] in whole
    assert whole.split()[-2:] == ["complete", str(folder / "bees" / "c.h5")]
    assert "partial, 4 durable" in unfinished


def test_ls_json(folder, capsys):
    assert main(["ls", "--json", str(folder)]) == 0
    whole, unfinished = json.loads(capsys.readouterr().out)
    assert (whole["rows"], whole["rejected"], whole["complete"], whole["key"]) == (11, 1, True, KEY)
    assert (unfinished["durable_rows"], unfinished["rejected"], unfinished["split"]) == (4, None, "test")
    assert 0 <= whole["age_seconds"] < 600


def test_ls_goes_on_behind_an_unreadable_file_and_says_so(folder, capsys):
    (folder / "bees" / "a.h5").write_bytes(b"no HDF5")
    assert main(["ls", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "unreadable" in out
    assert err.startswith("featcache: error: ")
    assert err.count("\n") == 1


def test_ls_of_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ls"]) == 1
    assert "there is no folder 'artifacts'" in capsys.readouterr().err
    (tmp_path / "artifacts").mkdir()
    assert main(["ls"]) == 0
    assert "no feature caches in artifacts" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["sow", "x"], ["show"], ["ls", "--jsn"]])
def test_a_wrong_command_line_is_usage(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: featcache" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert main(["show", "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_as_a_command_it_is_quick_and_light(folder):
    code = (
        "import sys; from featcache.cli import main; code = main(sys.argv[1:])\n"
        "heavy = [n for n in ('tensorflow', 'keras', 'pandas', 'dask', 'xarray', 'luigi') if n in sys.modules]\n"
        "sys.exit(code or bool(heavy))"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", code, "show", str(folder / "bees" / "c.h5")], check=True, capture_output=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 1.0, "of a core, as others may be at work"
    subprocess.run([sys.executable, "-c", code, "ls", str(folder)], check=True, capture_output=True)


def test_a_reader_that_stops_early_is_no_error(folder):
    command = f"{sys.executable} -m featcache.cli show --json {folder}/bees/c.h5 | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{", "")


def test_on_a_terminal_the_table_is_drawn_to_its_width(folder):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    command = [sys.executable, "-m", "featcache.cli", "ls", str(folder)]
    subprocess.run(command, stdout=theirs, check=True, env=environment)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[1m" in shown
    assert "complete" in shown


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (5.1e9, "5.1 GB")])
def test_sizes(count, text):
    assert cache_info.size_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (3600, "1 h"), (2.6e6, "30 d")])
def test_ages(seconds, text):
    assert cache_info.age_text(seconds) == text
