"""`featcache repair` computes the damaged blocks alone, and gives the undamaged file's features, byte for byte."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cache_files import feature_bytes
from projects import copied_project, flags, newest, small_project, write_image

from featcache.cache.layout import CacheHeader
from featcache.cache.reader import open_cache
from featcache.cache.row_lookup import find_rows
from featcache.cache.writer import CacheWriter
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.inspection.verify.checks import DISK, FILE
from featcache.stages import repair as repair_module


def in_blocks(path, manifest, block_rows=4):
    """Write the cache again in small blocks, so that there are some to damage."""
    reader = open_cache(path)
    header = CacheHeader(
        reader.split, reader.copy, reader.key, reader.name, reader.settings, reader.class_names,
        tuple(reader.taps.values()), manifest.splits[reader.split], block_rows,
    )  # fmt: skip
    run = {name: value for name, value in reader.run.items() if name != "rows"}
    with CacheWriter(path, header) as writer:
        writer.write(np.arange(len(reader)), {tap: reader[tap] for tap in reader.taps}, np.asarray(reader.status))
        writer.publish(run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    project = small_project(tmp_path_factory.mktemp("finished"))
    project.run()
    assert project.succeeded
    manifest = Manifest.load(project.artifacts)
    for path in (project.artifacts / "features").glob("*.h5"):
        in_blocks(path, manifest)
    return project


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    copied = copied_project(finished, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    return copied


@pytest.fixture
def cache(project):
    return next((project.artifacts / "features").glob("train-*.h5"))


def repair(capsys, *arguments):
    capsys.readouterr()
    code = main(["repair", "--json", *map(str, arguments)])
    return code, {
        record["path"]: (record["outcome"], record["detail"]) for record in json.loads(capsys.readouterr().out)
    }


def flip(path, dataset, at=0):
    place = open_cache(path)._structure.places[dataset].offset + at
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize(("rows", "computed"), [((9,), 4), ((0, 23), 8), (range(24), 24)])
def test_damaged_blocks_alone_are_computed_and_the_features_are_the_same(project, cache, capsys, rows, computed):
    before = feature_bytes(open_cache(cache))
    for row in rows:
        flip(cache, "block1_pool_avg", row * 64 * 2)
    assert main(["verify", str(cache)]) == 1
    damaged, old = cache.read_bytes(), open(cache, "rb")  # noqa: SIM115
    code, found = repair(capsys, cache, *flags(project))
    assert (code, found[str(cache)]) == (0, ("repaired", f"{computed} rows computed, {24 - computed} copied"))
    assert feature_bytes(open_cache(cache)) == before
    with old:
        assert old.read() == damaged, "a published file is never changed in place"
    assert main(["verify", str(project.artifacts)]) == 0, capsys.readouterr().out
    assert main(["status", "--check", *flags(project)]) == 0
    assert not [path for path in cache.parent.iterdir() if "partial" in path.name or ".tmp" in path.name]


@pytest.mark.parametrize("dataset", ["id", "label", "record/run", "journal/checksum", "status", "digest"])
def test_damage_beside_the_features(project, cache, capsys, dataset):
    before = feature_bytes(open_cache(cache))
    flip(cache, dataset)
    code, found = repair(capsys, cache.parent, *flags(project))
    assert (code, found[str(cache)][0]) == (0, "repaired")
    assert [outcome for outcome, _ in found.values()].count("sound") == 1
    assert feature_bytes(open_cache(cache)) == before
    assert open_cache(cache).ids[0] == "disc/0.png"


def test_a_file_cut_short_is_computed_whole(project, cache, capsys):
    before = feature_bytes(open_cache(cache))
    os.truncate(cache, 1000)
    assert repair(capsys, cache, *flags(project)) == (0, {str(cache): ("repaired", "24 rows computed, 0 copied")})
    assert feature_bytes(open_cache(cache)) == before


def test_what_is_sound_is_left_alone_and_needs_no_tensorflow(project, cache):
    before = cache.stat()
    program = "import sys; from featcache.cli import main; code = main(sys.argv[1:]); sys.exit(code or 'keras' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "repair", str(cache), *flags(project)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{cache}: sound\n")
    assert (cache.stat().st_ino, cache.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_settings_are_refused_and_the_file_stays(project, cache, capsys):
    flip(cache, "block1_pool_avg")
    content = cache.read_bytes()
    project.set("Features", image_size="40")
    code, found = repair(capsys, cache, *flags(project))
    assert (code, found[str(cache)][0]) == (1, "not repaired")
    assert "not used by the current settings" in found[str(cache)][1]
    assert repair(capsys, cache)[0] == 1, "nor without the project's settings"
    assert cache.read_bytes() == content


def test_an_image_that_changed_is_not_repaired_into_another_file(project, cache, capsys):
    flip(cache, "block1_pool_avg")
    content = cache.read_bytes()
    write_image(project.folder / "photos/train/disc/0.png", (1, 2, 3), 99)
    code, found = repair(capsys, cache, *flags(project))
    assert (code, found[str(cache)][0]) == (1, "not repaired")
    assert cache.read_bytes() == content


def test_other_artifacts_and_nothing(project, tmp_path, capsys):
    ensemble = newest(project, "ensembles/*/ensemble.json")
    ensemble.write_text("{")
    code, found = repair(capsys, ensemble, *flags(project))
    assert (code, found[str(ensemble)][0]) == (1, "not repaired")
    assert repair(capsys, tmp_path / "none.h5")[0] == 2


@pytest.mark.parametrize("cause", [DISK, FILE])
def test_a_file_that_ends_whoever_reads_it_is_not_read_for_its_repair(project, cache, monkeypatch, cause):
    fault = {"cause": cause, "message": "in whatever words", "unreadable": True}
    records = [{"path": str(cache), "kind": "feature cache", "faults": [fault]}]
    monkeypatch.setattr(repair_module, "verify_records", lambda paths: records)
    monkeypatch.setattr(repair_module, "extract_split", lambda *_: pytest.fail("it was read"))
    (found,) = repair_module.repair_records([cache], flags(project)[1::2], Silent())
    assert (found["outcome"], "remove it and run again" in found["detail"]) == ("not repaired", True)


def test_a_disk_that_cannot_read_a_block_costs_that_block_only(cache, monkeypatch):
    reader = open_cache(cache)
    bad, preadv = reader._structure.places["block1_pool_avg"].offset + 4 * 128, os.preadv

    def failing(descriptor, buffers, at):
        if at == bad:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, at)

    monkeypatch.setattr(os, "preadv", failing)
    finder = find_rows(cache.parent, {tap.name: tap.key for tap in reader.taps.values()}, reader.digests)
    assert np.flatnonzero(~finder.found).tolist() == [4, 5, 6, 7]
