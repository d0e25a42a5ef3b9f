"""`featcache du` and `featcache gc`: nothing that is used or being written is ever removed."""

import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from cache_files import make_header, make_rows, write_rows
from projects import copied_project, flags, small_project, write_image

from featcache.cache.reader import open_cache
from featcache.cache.writer import CacheWriter
from featcache.cli import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project with caches, heads and results of two settings; the second one's are newer."""
    project = small_project(tmp_path_factory.mktemp("finished"))
    project.run()
    first = set(project.artifacts.rglob("*"))
    project.set("Features", image_size="40")
    project.run()
    assert project.succeeded
    shutil.rmtree(project.artifacts / "runs")  # or nothing would be unused; test_runs.py has them
    for path in first:
        if path.exists() and path.parent.name != "photos":
            os.utime(path, (time.time() - 9000, time.time() - 9000))
    return project


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    copied = copied_project(finished, tmp_path / "other")
    copied.set("Features", image_size="40")
    monkeypatch.chdir(tmp_path)
    return copied


def answer(capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def names(project, record):
    return [os.path.relpath(item["path"], project.artifacts) for item in record["items"]]


def contents(folder):
    """Every file but what asking itself brings up to date."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if path.stem not in (".lock", "listing")}


def old_leftover(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * 100)
    os.utime(path, (time.time() - 4000, time.time() - 4000))
    return path


def test_du_lists_what_is_unused_and_how_large_all_is(project, capsys):
    record = answer(capsys, "du", *flags(project))
    unreached = {
        name for name, item in zip(names(project, record), record["items"], strict=True) if not item["reached"]
    }
    kinds = {
        "features/train",
        "features/test",
        "heads/block1_pool_avg",
        "predictions/test",
        "ensembles/*",
        "submissions/*",
    }
    assert {re.sub("/[0-9a-f]{8}$", "/*", name).split("-")[0] for name in unreached} == kinds
    assert len(unreached) == 8, "two caches, three bags and a result of each kind"
    files = [path for path in project.artifacts.rglob("*") if path.is_file()]
    assert record["bytes"] == sum(path.stat().st_size for path in files) == sum(record["kinds"].values())
    assert record["unreached_bytes"] == sum(item["size"] for item in record["items"] if not item["reached"])
    sizes = [item["size"] for item in record["items"]]
    assert sizes == sorted(sizes, reverse=True)
    assert main(["du", *flags(project)]) == 0
    assert "not used by the current settings" in capsys.readouterr().out


def test_gc_changes_nothing_without_yes_and_names_what_it_then_removes(project, capsys):
    old_leftover(project.artifacts / "features/.tmp-12345678-train.h5")
    before = contents(project.artifacts)
    dry = answer(capsys, "gc", *flags(project))
    assert contents(project.artifacts) == before
    assert not dry["removed"]
    assert len(names(project, dry)) == 9
    ages = [item["age_seconds"] for item in dry["items"]]
    assert ages == sorted(ages, reverse=True), "oldest first"
    done = answer(capsys, "gc", "--yes", *flags(project))
    assert names(project, done) == names(project, dry)
    after = contents(project.artifacts)
    assert sum(map(len, before.values())) - sum(map(len, after.values())) == done["bytes"] == dry["bytes"] > 0
    assert after.items() <= before.items(), "what stays is untouched"
    assert answer(capsys, "gc", *flags(project))["items"] == []
    assert main(["status", "--check", *flags(project)]) == 0
    assert project.run() == []


def test_what_other_settings_reach_goes_when_they_are_in_force(project, capsys):
    project.set("Features", image_size="32")
    sizes = {
        open_cache(path).taps["block1_pool_avg"].settings["image_size"]
        for path in (project.artifacts / "features").glob("*.h5")
    }
    assert sizes == {32, 40}
    answer(capsys, "gc", "--yes", *flags(project))
    left = [
        open_cache(path).taps["block1_pool_avg"].settings["image_size"]
        for path in (project.artifacts / "features").glob("*.h5")
    ]
    assert left == [32, 32]


def test_keep_bytes_keeps_the_newest(project, capsys):
    caches = sorted((project.artifacts / "features").glob("*-32-*.h5"))
    bags = {p for p in (project.artifacts / "heads").iterdir() if (p / "bag.json").stat().st_mtime < time.time() - 5000}
    for path, age in ((caches[0], 3000), (caches[1], 5000)):
        os.utime(path, (time.time() - age, time.time() - age))
    bags |= {p for room in ("predictions", "ensembles", "submissions") for p in (project.artifacts / room).iterdir()
             if p.stat().st_mtime < time.time() - 5000}  # fmt: skip
    assert len(bags) == 6
    size = caches[0].stat().st_size
    leftover = old_leftover(project.artifacts / ".tmp-00000000-manifest.arrow")
    for keep, gone in (
        (size, {caches[1], *bags, leftover}),
        (size - 1, {*caches, *bags, leftover}),
        ("1GB", {leftover}),
    ):
        record = answer(capsys, "gc", "--keep-bytes", keep, *flags(project))
        assert {item["path"] for item in record["items"]} == set(map(str, gone)), keep


@pytest.mark.parametrize("text", ["-1", "five", "5XB"])
def test_keep_bytes_is_a_size(text, capsys):
    assert main(["gc", f"--keep-bytes={text}"]) == 2
    assert "is not a size" in capsys.readouterr().err


def test_a_partial_that_a_live_writer_holds_stays(project, capsys):
    rows, folder = make_rows(9), project.artifacts / "features"
    with CacheWriter(folder / "foreign.h5", make_header(rows)) as writer:
        write_rows(writer, rows, range(5))
        record = answer(capsys, "gc", "--yes", *flags(project))
        assert not any("partial" in name for name in names(project, record))
        assert writer.partial.exists()
        held = next(item for item in answer(capsys, "du", *flags(project))["items"] if item["kind"] == "partial")
        assert held["held"]
    record = answer(capsys, "gc", "--yes", *flags(project))
    assert names(project, record) == [f"features/{writer.partial.name}"]
    assert not writer.partial.exists()


def test_an_unfinished_file_of_these_settings_stays(project, capsys, monkeypatch):
    from featcache.features import extract

    def stop(*arguments):
        raise KeyboardInterrupt

    project.set("Features", image_size="36")
    monkeypatch.setattr(extract, "compute", stop)
    with pytest.raises(KeyboardInterrupt):
        project.run("ExtractFeatures")
    partial = next((project.artifacts / "features").glob("*.partial.h5"))
    assert str(partial) not in {item["path"] for item in answer(capsys, "gc", *flags(project))["items"]}
    project.set("Features", image_size="40")
    assert str(partial) in {item["path"] for item in answer(capsys, "gc", *flags(project))["items"]}


def test_a_cache_that_rows_can_still_be_taken_from_stays(project, capsys):
    """Fewer taps: the new cache will be copied out of the old one, which stays until then."""
    project.set("Features", taps="block1_pool:avg, block2_pool:avg")
    project.run("ExtractFeatures")
    both = {str(path) for path in (project.artifacts / "features").glob("*+*.h5")}
    assert len(both) == 2
    project.set("Features", taps="block2_pool:avg")
    assert not both & {item["path"] for item in answer(capsys, "gc", *flags(project))["items"]}
    project.run("ExtractFeatures")
    reader = next(map(open_cache, (project.artifacts / "features").glob("train-*-block2_pool_avg-40-*.h5")))
    assert reader.run["computed"] == 0
    assert np.isfinite(reader["block2_pool_avg"]).all()
    assert both <= {item["path"] for item in answer(capsys, "gc", *flags(project))["items"]}


def test_images_that_changed_make_no_cache_unreached(project, capsys):
    """Their rows will be copied; heads of other rows are of no use any more."""
    before = names(project, answer(capsys, "gc", *flags(project)))
    write_image(project.folder / "photos/train/disc/new.png", (200, 60, 60), 7777)
    after = names(project, answer(capsys, "gc", *flags(project)))
    assert [name for name in after if name.startswith("features")] == [n for n in before if n.startswith("features")]
    assert len([name for name in after if name.startswith("heads")]) == 6


@pytest.mark.parametrize(
    ("section", "values", "match"),
    [
        ("Features", {"weights": "imagenet"}, "weights or precision are not resolved yet"),
        ("Dataset", {"path": "nowhere"}, "is not a folder of images"),
    ],
)
def test_nothing_is_removed_while_it_is_not_known_what_is_reached(project, capsys, section, values, match):
    before = contents(project.artifacts)
    project.set(section, **values)
    capsys.readouterr()
    assert main(["gc", "--yes", *flags(project)]) == 1
    assert match in capsys.readouterr().err
    assert contents(project.artifacts) == before


def test_young_leftovers_and_unknown_files_stay(project, capsys):
    (project.artifacts / ".tmp-11111111-x.json").write_text("somebody is writing this")
    (project.artifacts / "notes.txt").write_text("mine")
    (project.artifacts / "features/own.npy").write_text("mine")
    record = answer(capsys, "gc", "--yes", *flags(project))
    assert len(record["items"]) == 8
    assert (project.artifacts / "notes.txt").exists()
    assert (project.artifacts / "features/own.npy").exists()
    assert (project.artifacts / ".tmp-11111111-x.json").exists()


def test_nothing_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "gc", "--yes")["items"] == []
    assert answer(capsys, "du")["bytes"] == 0
    assert list(tmp_path.iterdir()) == []
