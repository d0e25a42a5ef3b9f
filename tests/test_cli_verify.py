"""`featcache verify` names every fault of damaged copies of good files, and whose fault it is."""

import errno
import json
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from cache_files import make_header, make_rows, write_cache, write_rows
from projects import copied_project, flags, write_image

from featcache.cache.layout import TapLayout
from featcache.cache.reader import open_cache
from featcache.cache.writer import CacheWriter
from featcache.cli import main
from featcache.core import keys
from featcache.inspection.verify import checks, report

SETTINGS = {"tap": "conv", "image_size": 32}
TAPS = (TapLayout("conv", (2, 3, 5), keys.digest(SETTINGS), SETTINGS),)


@pytest.fixture
def cache(tmp_path):
    """11 rows in blocks of 4, row 3 rejected."""
    return write_cache(tmp_path / "c.h5", make_rows(11), TAPS, rejected=(3,))


def offset(path, name):
    return open_cache(path, partial=True)._structure.places[name].offset


def damage(path, at, content):
    with open(path, "r+b") as stream:
        stream.seek(at)
        stream.write(content)


def verify(capsys, *arguments):
    """(exit status, path's name -> [(cause, message)])."""
    capsys.readouterr()
    code = main(["verify", "--json", *map(str, arguments)])
    records = json.loads(capsys.readouterr().out)
    found = {}  # bags share their files' names
    for record in records:
        found.setdefault(Path(record["path"]).name, []).extend((f["cause"], f["message"]) for f in record["faults"])
    return code, found


def test_a_sound_file_is_sound(cache, capsys):
    assert verify(capsys, cache) == (0, {"c.h5": []})
    assert main(["verify", str(cache)]) == 0
    assert capsys.readouterr().out == f"{cache}: feature cache, sound\n"


def test_an_unfinished_file_is_sound_as_far_as_it_got(tmp_path, capsys):
    rows = make_rows(9)
    with CacheWriter(tmp_path / "d.h5", make_header(rows, TAPS)) as writer:
        write_rows(writer, rows, range(5), TAPS)
    partial = next(tmp_path.glob("*.partial.h5"))
    assert verify(capsys, tmp_path) == (0, {partial.name: []})
    damage(partial, offset(partial, "conv"), b"\xff")
    code, found = verify(capsys, partial)
    assert code == 1
    assert found[partial.name] == [
        ("file", "block 0 (rows 0 to 3): checksum mismatch"),
    ]


def test_every_fault_is_reported_not_the_first(cache, capsys):
    damage(cache, offset(cache, "conv") + 7, b"\x5a")
    damage(cache, offset(cache, "conv") + 9 * 60, np.array([np.nan, np.inf], "<f2").tobytes())
    damage(cache, offset(cache, "digest"), b"0" * 8)
    damage(cache, offset(cache, "record/run"), b"nonsense")
    damage(cache, offset(cache, "row") + 8, b"\x09")
    damage(cache, offset(cache, "journal/checksum") + 16, bytes(16))
    code, found = verify(capsys, cache)
    messages = [message for _, message in found["c.h5"]]
    assert code == 1
    assert {cause for cause, _ in found["c.h5"]} == {"file"}
    for text in (
        "id, label, group and digest: checksum mismatch",
        "row: the row numbers do not count from 0",
        "record/run is not JSON: b'nonsense",
        "block 0 (rows 0 to 3): checksum mismatch",
        "block 1 (rows 4 to 7): no checksum",
        "block 2 (rows 8 to 10): checksum mismatch",
        "block 2 (rows 8 to 10): NaN or infinity in 1 rows of conv",
    ):
        assert any(text in message for message in messages), text
    assert len(messages) == 7


def test_checksums_cover_ids_status_and_rejected_rows(cache, capsys):
    reader = open_cache(cache)
    width = reader._structure.places["id"].dtype.itemsize
    damage(cache, offset(cache, "id") + width, reader.ids[0].encode().ljust(width, b"\0"))
    damage(cache, offset(cache, "conv") + 3 * 60, b"\x01\x3c")
    damage(cache, offset(cache, "status") + 10, b"\x07")
    damage(cache, offset(cache, "journal/complete"), b"\0")
    _, found = verify(capsys, cache)
    assert [message for _, message in found["c.h5"]] == [
        "journal/complete is not 1, as it is in a finished file",
        "id, label, group and digest: checksum mismatch",
        "block 0 (rows 0 to 3): checksum mismatch",
        "block 2 (rows 8 to 10): checksum mismatch",
    ]


def test_settings_that_do_not_make_their_key(tmp_path, capsys):
    taps = (TapLayout("conv", (5,), "a" * 64, SETTINGS),)
    write_cache(tmp_path / "c.h5", make_rows(3), taps)
    assert verify(capsys, tmp_path)[1]["c.h5"] == [("file", "tap conv: its settings do not match its key aaaaaaaa")]


@pytest.mark.parametrize("size", [0, 1, 100, 4000, -1, -4000])
def test_a_file_cut_short_anywhere(cache, capsys, size):
    os.truncate(cache, size if size >= 0 else cache.stat().st_size + size)
    code, found = verify(capsys, cache)
    assert code == 1
    assert [cause for cause, _ in found["c.h5"]] == ["file"]


def test_any_flipped_byte_of_the_features_is_found(cache, capsys):
    begin = offset(cache, "conv")
    for at in np.random.default_rng(0).integers(begin, begin + 11 * 60, 5).tolist():
        content = cache.read_bytes()
        damage(cache, at, bytes([content[at] ^ 0x10]))
        assert verify(capsys, cache)[0] == 1
        cache.write_bytes(content)


def test_links_out_of_the_file_are_refused(cache, capsys):
    with h5py.File(cache, "r+") as file:
        del file["status"]
        file["status"] = h5py.ExternalLink("/etc/passwd", "/x")
    code, found = verify(capsys, cache)
    assert code == 1
    assert "'status' is a link to somewhere else" in found["c.h5"][0][1]


def test_a_disk_that_fails_is_the_disks_fault(tmp_path, capsys):
    """Reading /proc/self/mem at 0 gives a real EIO."""
    (tmp_path / "c.h5").symlink_to("/proc/self/mem")
    code, found = verify(capsys, tmp_path / "c.h5")
    assert (code, found) == (1, {"c.h5": [("disk", "c.h5 can't be read: Input/output error")]})


def test_a_disk_that_fails_in_one_block_hides_no_other_fault(cache, monkeypatch):
    damage(cache, offset(cache, "conv") + 9 * 60, b"\x5a")
    bad, preadv = offset(cache, "conv") + 4 * 60, os.preadv

    def failing(descriptor, buffers, at):
        if at == bad:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, at)

    monkeypatch.setattr(os, "preadv", failing)
    found = [(fault.cause, fault.message) for fault in checks.file_faults(cache)]
    assert found == [
        ("disk", "block 1 (rows 4 to 7): c.h5 can't be read: Input/output error"),
        ("file", "block 2 (rows 8 to 10): checksum mismatch"),
    ]


def test_what_could_not_be_determined(tmp_path, capsys, monkeypatch):
    (tmp_path / "x.txt").write_text("x")
    assert verify(capsys, tmp_path / "none.h5") == (2, {"none.h5": [("unknown", "there is no such file")]})
    assert verify(capsys, tmp_path / "x.txt")[0] == 2
    os.mkfifo(tmp_path / "fifo.h5")
    assert verify(capsys, tmp_path) == (2, {"fifo.h5": [("unknown", "a FIFO, not a file")]})
    (tmp_path / "fifo.h5").unlink()
    assert verify(capsys, tmp_path) == (2, {})
    monkeypatch.setattr(checks, "open_cache", lambda *_, **__: os.open(tmp_path / "x.txt" / "y", os.O_RDONLY))
    (fault,) = checks.file_faults(write_cache(tmp_path / "c.h5", make_rows(2), TAPS))
    assert (fault.cause, fault.message) == ("unknown", "c.h5 can't be read: Not a directory")


@pytest.mark.parametrize(
    ("command", "failure"),
    [("exec sleep 60", "took longer than 2 s"), ("kill -SEGV $$", "crashed with SIGSEGV")],
    ids=["hang", "crash"],
)
def test_a_file_that_hangs_or_kills_its_reader_is_a_fault_of_the_file(
    tmp_path, cache, capsys, monkeypatch, command, failure
):
    """What the child reported before it ended is kept."""
    fault = '{"cause": "file", "message": "one", "unreadable": false}'
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nfor file; do case $file in *b.h5) echo '{fault}'; {command};; *.h5) echo;; esac; done\n"
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    shutil.copy(cache, tmp_path / "b.h5")
    monkeypatch.setattr(sys, "executable", str(python))
    code, found = verify(capsys, "--timeout", "2", tmp_path)
    assert code == 1
    assert found == {"b.h5": [("file", "one"), ("file", f"reading it {failure}")], "c.h5": []}


def test_no_child_is_left_behind(cache):
    before = {child.pid for child in psutil.Process().children()}  # other tests' own
    assert report.verify_records([cache])[0]["faults"] == []
    assert {child.pid for child in psutil.Process().children()} <= before


# ---- against the manifest, and other artifacts


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    copied = copied_project(finished, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    return copied


def faulty(found):
    return {name: faults for name, faults in found.items() if faults}


def test_a_whole_project_is_sound(project, capsys):
    code, found = verify(capsys, project.artifacts)
    assert (code, faulty(found)) == (0, {})
    assert len(found) == 7


def test_another_listing_is_the_settings_fault_and_rows_are_counted(project, capsys):
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    project.run("IndexImages")
    code, found = verify(capsys, project.artifacts / "features")
    assert code == 1
    ((name, faults),) = faulty(found).items()
    assert name.startswith("test-")
    counts = "9 rows here, 10 in the manifest"
    assert faults == [("settings", f"other rows than the manifest lists ({counts}); Manifest: 1 added")]


def test_class_names_are_held_to_the_key(project, capsys):
    path = next((project.artifacts / "features").glob("test-*.h5"))
    content = path.read_bytes()
    assert content.count(b"disc\0\0\0\0square\0\0triangle") == 1
    path.write_bytes(content.replace(b"disc\0\0\0\0square", b"disk\0\0\0\0square"))
    code, found = verify(capsys, path)
    assert (code, [cause for cause, _ in found[path.name]]) == (1, ["file"])
    assert main(["repair", str(path), *flags(project)]) == 0
    assert path.read_bytes().count(b"disc\0\0\0\0square") == 1


@pytest.mark.parametrize(
    ("pattern", "cut", "text"),
    [
        ("manifest.arrow", 40, "run IndexImages again"),
        ("heads/*/bag.npz", 3000, "no sound bag of heads"),
        ("heads/*/out_of_fold.npy", 200, "out_of_fold.npy: checksum mismatch"),
        ("predictions/*/probabilities.npy", 200, "probabilities.npy: checksum mismatch"),
        ("ensembles/*/ensemble.json", 20, "is no sound ensemble"),
        ("submission.csv", 5, "SHA-256 mismatch"),
    ],
)
def test_other_artifacts_are_checked_too(project, capsys, pattern, cut, text):
    path = sorted(project.artifacts.glob(pattern))[0]
    path.write_bytes(path.read_bytes()[:-cut])
    code, found = verify(capsys, project.artifacts)
    assert code == 1
    assert any(text in message for faults in found.values() for cause, message in faults if cause == "file"), found


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_a_trained_head_is_found(project, capsys):
    path = next(
        project.artifacts.glob("heads/*-fast-*/bag.npz")
    )  # whose middle is a kernel's, not a name's in the archive
    flip(path)
    assert verify(capsys, path.parent)[0] == 1


@pytest.mark.parametrize("name", ["weights/kernel_0", "input/mean", "input/scale"])
def test_values_of_a_bag_that_are_no_numbers_are_found(project, capsys, name):
    path = next(project.artifacts.glob("heads/*-fast-*/bag.npz"))
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays[name].flat[0] = np.nan
    np.savez(path, **arrays)
    message = f"weights that are NaN or infinite: {name.removeprefix('weights/')}"
    assert verify(capsys, path.parent) == (1, {"bag.json": [("file", message)]})


def test_a_damaged_convnet_is_found(project, capsys):
    """Its folder is a bag's, with networks in place of the heads."""
    folder = next(project.artifacts.glob("heads/*"))
    network = folder / "fold0.keras"
    (folder / "bag.json").rename(folder / "convnet.json")
    with zipfile.ZipFile(network, "w") as archive:
        archive.writestr("model.weights.h5", bytes(1000))
    assert verify(capsys, folder) == (0, {"convnet.json": []})
    flip(network)
    message = "fold0.keras: checksum mismatch in model.weights.h5"
    assert verify(capsys, folder) == (1, {"convnet.json": [("file", message)]})
    network.write_bytes(network.read_bytes()[:-10])
    assert "fold0.keras is not a Keras model" in verify(capsys, folder)[1]["convnet.json"][0][1]
