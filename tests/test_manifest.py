import csv
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings, strategies as st
from images import encoded, forge_rows, greys, make_folder, make_idx, picture
from listings import build_manifest
from PIL import Image

from featcache.core import rows
from featcache.core.rows import Rows
from featcache.dataset import decoding, digest_cache, file_checks, image_readers, listing as index
from featcache.dataset.listing import list_files, list_images
from featcache.dataset.manifest import Manifest, stored_manifest
from featcache.dataset.sources import idx
from featcache.errors import CacheFormatError, SourceChangedError, SourceError
from featcache.settings.specs import DatasetSpec


@pytest.fixture
def root(tmp_path):
    return age(make_folder(tmp_path / "data", {"ants": 4, "bees": 4}))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture(autouse=True)
def old_files(monkeypatch):
    """Files just written count as settled, but for the tests of just that."""
    monkeypatch.setattr(file_checks, "SETTLE_NS", 0)


@pytest.fixture
def reads(monkeypatch):
    """What was read since the listing began."""
    paths = []
    original = digest_cache._examined
    monkeypatch.setattr(
        digest_cache, "_examined", lambda path, *rest: paths.append(Path(path).name) or original(path, *rest)
    )
    return paths


def current_key(spec, out):
    return index.current_key(spec, out, list_files(spec))


def age(root):
    for path in root.rglob("*.png"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def spec_of(root, **settings):
    return DatasetSpec("x", "folder", root, **settings)


def test_round_trip(root, out):
    make_folder(root, {"unknown": 2}, "test")
    (root / "train" / "ants" / "img_2.png").write_bytes(b"")
    (root / "train" / "ants" / "notes.txt").write_bytes(b"")
    manifest = build_manifest(spec_of(root), out)
    assert {path.name for path in out.iterdir()} == {"manifest.arrow", "manifest.json", "listing.csv", "listing.json"}
    loaded = Manifest.load(out)
    assert loaded.key == manifest.key
    assert (loaded.class_names, loaded.settings, loaded.left_out) == (
        ("ants", "bees"),
        {"source": "folder"},
        {".txt": 1},
    )
    for split, own in manifest.splits.items():
        for column in ("ids", "groups", "digests", "reasons", "locations"):
            assert list(getattr(loaded.splits[split], column)) == list(getattr(own, column))
        np.testing.assert_array_equal(loaded.splits[split].labels, own.labels)
    stored = stored_manifest(out)
    assert stored["key"] == manifest.key
    assert stored["splits"]["train"] == {"rows": 8, "key": manifest.splits["train"].key, "rejected": 1}
    assert list(stored["splits"]) == ["train", "test"]


def test_key_counts_what_is_listed_and_nothing_else():
    def manifest(**changes):
        columns = {
            "ids": ["a", "b"],
            "groups": ["", ""],
            "digests": ["1", "2"],
            "reasons": ["", ""],
            "locations": ["", ""],
        }
        labels = changes.pop("labels", [0, 1])
        names = changes.pop("class_names", ("x", "y"))
        rows = Rows(labels=np.array(labels, np.int32), **columns | changes)
        return Manifest(names, {"train": rows}, {"source": "folder"}, {".txt": len(changes)})

    key = manifest().key
    assert key == manifest(locations=["elsewhere", "too"]).key
    for change in (
        {"ids": ["a", "c"]},
        {"groups": ["g", ""]},
        {"digests": ["1", "3"]},
        {"reasons": ["", "empty"]},
        {"labels": [1, 0]},
        {"class_names": ("x", "z")},
    ):
        assert manifest(**change).key != key


def test_several_labels(out):
    texts = {name: ["", "", "", ""] for name in ("groups", "digests", "reasons")}
    labels = np.array([[1, 1], [0, 1], [0, 0], [-1, -1]], np.int8)
    train = Rows([*"abcd"], labels, **texts)
    test = Rows(["e"], np.full((1, 2), -1, np.int8), **{name: [""] for name in texts})
    manifest = Manifest(("x", "y"), {"train": train, "test": test}, {"source": "table"})
    out.mkdir()
    manifest.save(out)
    loaded = Manifest.load(out)
    assert loaded.several
    assert stored_manifest(out)["several"] is True
    assert loaded.splits["train"].labels.dtype == np.int8
    assert loaded.splits["train"].labels.tolist() == labels.tolist()
    assert loaded.splits["test"].labels.tolist() == [[-1, -1]]
    assert (loaded.key, loaded.splits["train"].key) == (manifest.key, train.key)
    named = [list(names) if names is not None else None for names in pandas.read_feather(out / "manifest.arrow").label]
    assert named == [["x", "y"], ["y"], [], None, None]


def test_what_labels_are():
    one, several = np.array([1, -1, 1]), np.array([[0, 1], [-1, -1], [1, 1], [0, 0]], np.int8)
    assert (rows.is_several(one), rows.is_several(several)) == (False, True)
    assert rows.known_labels(one).tolist() == [True, False, True]
    assert rows.known_labels(several).tolist() == [True, False, True, True]
    assert (rows.has_label(one, 1).tolist(), rows.has_label(several, 0).tolist()) == (
        [True, False, True],
        [False, False, True, False],
    )
    assert (rows.label_counts(one, 3).tolist(), rows.label_counts(several, 2).tolist()) == ([0, 2, 0], [1, 2])
    assert [rows.label_text(one, row, "xy") for row in range(2)] == ["y", ""]
    assert [rows.label_text(several, row, "xy") for row in range(4)] == ["y", "", "x|y", ""]
    masked = rows.masked_labels(several, np.array([False, True, True, False]))
    assert (masked.dtype, masked.tolist()) == (np.int8, [[-1, -1], [-1, -1], [1, 1], [-1, -1]])
    assert rows.masked_labels(one, one == 1).tolist() == [1, -1, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-30],
        lambda content: content.replace(b"img_1", b"img_9", 1),
        lambda content: content[:100] + b"\xff" * 50 + content[150:],
        lambda content: content * 2,
        lambda content: b"",
    ],
)
def test_damaged_rows(root, out, damage):
    build_manifest(spec_of(root), out)
    path = out / "manifest.arrow"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CacheFormatError, match=r"manifest.arrow doesn't hold the rows .*run IndexImages again"):
        Manifest.load(out)


@pytest.mark.parametrize(
    "forge",
    [
        lambda table: table.slice(1),
        lambda table: table.drop_columns("location"),
        lambda table: table.rename_columns(["split", "label", "id", *table.column_names[3:]]),
        lambda table: table.set_column(1, "id", pa.array(range(len(table)))),
        lambda table: pa.Table.from_batches([out_of_range(table.to_batches()[0])]),
    ],
)
def test_rows_that_are_not_those_listed(root, out, forge):
    """A file that isn't what was written, though its checksum is right."""
    build_manifest(spec_of(root), out)
    forge_rows(out, forge)
    with pytest.raises(CacheFormatError, match=r"manifest.arrow doesn't hold the rows .*run IndexImages again"):
        Manifest.load(out)


def out_of_range(batch):
    """A column of texts some of which lie far behind the file's end."""
    offsets = np.full(len(batch) + 1, 1_000_000_000, np.int32)
    offsets[[0, -1]] = 0, 5
    ids = pa.Array.from_buffers(pa.string(), len(batch), [None, pa.py_buffer(offsets), pa.py_buffer(b"short")])
    return pa.RecordBatch.from_arrays([batch.column(0), ids, *batch.columns[2:]], schema=batch.schema)


@pytest.mark.parametrize("change", [{"class_names": ["ants", "wasps"]}, {"key": "0" * 64}, {"settings": {}}])
def test_a_record_of_other_rows(root, out, change):
    build_manifest(spec_of(root), out)
    record = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(CacheFormatError, match=r"their key is [0-9a-f]{8}, not [0-9a-f]{8}"):
        Manifest.load(out)


@pytest.mark.parametrize("content", ["", "[]", "{}", None])
def test_damaged_json(root, out, content):
    build_manifest(spec_of(root), out)
    if content is None:
        (out / "manifest.json").unlink()
    else:
        (out / "manifest.json").write_text(content)
    assert stored_manifest(out) is None
    assert current_key(spec_of(root), out) is None
    with pytest.raises(CacheFormatError, match="run IndexImages again"):
        Manifest.load(out)


def test_an_unchanged_set_is_neither_read_nor_parsed(root, out, reads, monkeypatch):
    key = build_manifest(spec_of(root), out).key
    assert len(reads) == 8
    monkeypatch.setattr(digest_cache.DigestCache, "load", lambda _: pytest.fail("listing.csv was parsed"))
    assert current_key(spec_of(root), out) == key
    assert len(reads) == 8


def test_touch_reads_that_file_once_and_keeps_the_key(root, out, reads):
    key = build_manifest(spec_of(root), out).key
    reads.clear()
    (root / "train" / "ants" / "img_2.png").touch()
    assert current_key(spec_of(root), out) == key
    assert reads == ["img_2.png"]
    assert current_key(spec_of(root), out) == key
    assert reads == ["img_2.png"]


def test_added_removed_and_changed_images_change_the_key(root, out, reads):
    key = build_manifest(spec_of(root), out).key
    reads.clear()
    extra = root / "train" / "bees" / "new.png"
    extra.write_bytes(encoded(picture(seed=99)))
    assert current_key(spec_of(root), out) is None
    assert current_key(spec_of(root), out) is None
    added = build_manifest(spec_of(root), out)
    assert added.key != key
    assert reads == ["new.png"]  # by the first question, and never again
    assert current_key(spec_of(root), out) == added.key
    extra.unlink()
    assert current_key(spec_of(root), out) is None
    assert build_manifest(spec_of(root), out).key == key
    assert reads == ["new.png"]
    (root / "train" / "ants" / "img_1.png").rename(root / "train" / "ants" / "renamed.png")
    assert current_key(spec_of(root), out) is None


def test_a_change_in_place_shows_even_with_size_and_time_set_back(root, out):
    build_manifest(spec_of(root), out)
    path = root / "train" / "ants" / "img_1.png"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert current_key(spec_of(root), out) is None


def test_an_image_added_to_test_leaves_train_alone(root, out):
    train = build_manifest(spec_of(root), out).splits["train"].key
    make_folder(root, {"unknown": 1}, "test")
    build_manifest(spec_of(root), out)
    assert stored_manifest(out)["splits"]["train"]["key"] == train


def test_files_read_in_the_tick_they_changed_in_are_read_again_until_it_has_passed(root, out, reads, monkeypatch):
    monkeypatch.setattr(file_checks, "SETTLE_NS", 2_000_000_000)
    key = build_manifest(spec_of(root), out).key
    reads.clear()
    assert current_key(spec_of(root), out) == key
    assert len(reads) == 8  # less than two seconds old
    now = time.time_ns()
    monkeypatch.setattr(digest_cache.time, "time_ns", lambda: now + 3_000_000_000)
    reads.clear()
    assert current_key(spec_of(root), out) == key
    assert len(reads) == 8
    reads.clear()
    assert current_key(spec_of(root), out) == key
    assert reads == []


def test_time_stamps_in_the_future_are_trusted(monkeypatch):
    monkeypatch.setattr(file_checks, "SETTLE_NS", 2_000_000_000)
    now, checks = time.time_ns(), file_checks.FileChecks(file_checks.FileStats())
    for location, changed in {"past": 0, "now": now, "future": 2**63 - 1, "far past": 1 - 2**63}.items():
        checks.append(file_checks.FileStat(location, 1, changed, changed), now, "ab" * 32, "")
    checks.append(file_checks.FileStat("unread", 1, 0, 0), now, "", "can't be read")
    assert checks.settled().tolist() == [True, False, True, True, False]


def test_moving_artifacts_or_images_keeps_the_key(root, out, reads):
    key = build_manifest(spec_of(root), out).key
    out = out.rename(out.with_name("moved artifacts"))
    reads.clear()
    assert current_key(spec_of(root), out) == key
    assert reads == []
    root = root.rename(root.with_name("moved images"))
    assert current_key(spec_of(root), out) == key
    assert len(reads) == 8
    copied = root.with_name("copied images")
    shutil.copytree(root, copied)
    assert current_key(spec_of(copied), out) == key
    assert build_manifest(spec_of(copied), out).key == key
    (copied / "train" / "ants" / "img_1.png").unlink()
    assert current_key(spec_of(copied), out) is None
    assert current_key(spec_of(root.with_name("nowhere")), out) is None


def test_a_removed_source_says_so_when_it_is_listed(root, out):
    build_manifest(spec_of(root), out)
    kept = (out / "listing.csv").read_bytes()
    shutil.rmtree(root)
    assert current_key(spec_of(root), out) is None
    with pytest.raises(SourceError, match="but nothing there"):
        build_manifest(spec_of(root), out)
    assert (out / "listing.csv").read_bytes() == kept


def test_other_settings_and_groups_are_noticed(root, out):
    (root / "g.csv").write_text(
        "img,who\n" + "".join(f"{c}/img_{n}.png,p{n}\n" for c in ("ants", "bees") for n in range(1, 5))
    )
    plain = build_manifest(spec_of(root), out).key
    grouped = spec_of(root, groups="g.csv:who")
    assert current_key(grouped, out) is None
    assert build_manifest(grouped, out).key != plain
    key = current_key(grouped, out)
    (root / "g.csv").touch()
    assert current_key(grouped, out) == key is not None
    (root / "g.csv").write_text((root / "g.csv").read_text().replace("p4", "p5"))
    assert current_key(grouped, out) is None
    assert build_manifest(grouped, out).key != key
    assert current_key(spec_of(root), out) is None
    assert current_key(DatasetSpec(), out) is None


def test_idx_is_not_parsed_while_its_contents_stand(tmp_path, out, monkeypatch):
    root = tmp_path / "idx"
    root.mkdir()
    make_idx(root, greys(), [0, 1] * 3)
    spec = DatasetSpec("x", "idx", root)
    key = build_manifest(spec, out).key
    monkeypatch.setattr(idx, "_content", lambda _: pytest.fail("an idx file was parsed"))
    (root / "train-images-idx3-ubyte").touch()
    assert current_key(spec, out) == key
    make_idx(root, greys()[::-1], [0, 1] * 3)
    assert current_key(spec, out) is None


def test_what_was_read_before_a_failure_is_not_read_again(root, out, reads):
    shutil.copytree(root / "train" / "ants", root / "train" / "wasps")
    for number in (1, 2, 3, 4):
        (root / "train" / "wasps" / f"img_{number}.png").write_bytes(b"")
    with pytest.raises(SourceError, match="'wasps' has 0"):
        build_manifest(spec_of(root), out)
    shutil.rmtree(root / "train" / "wasps")
    reads.clear()
    build_manifest(spec_of(root), out)
    assert reads == []


def test_an_interrupt_ends_the_listing_soon(root, out, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "header_fault", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_manifest(spec_of(root), out)
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("name", ["listing.csv", "listing.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\0,nonsense\n", b"{}", b"[1]"])
def test_a_damaged_listing_costs_a_reading_and_no_more(root, out, name, content):
    key = build_manifest(spec_of(root), out).key
    (out / name).unlink() if content is None else (out / name).write_bytes(content)
    assert current_key(spec_of(root), out) in ({key} if name == "listing.csv" else {None})
    assert build_manifest(spec_of(root), out).key == key
    assert current_key(spec_of(root), out) == key


def test_a_listing_that_cannot_be_kept_does_not_stop_a_question(root, out, monkeypatch):
    key = build_manifest(spec_of(root), out).key
    (root / "train" / "ants" / "img_1.png").touch()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digest_cache.DigestCache, "save", full)
    assert current_key(spec_of(root), out) == key


def test_another_version_of_the_code_lists_again(root, out, monkeypatch):
    build_manifest(spec_of(root), out)
    monkeypatch.setattr(index, "LISTING_VERSION", index.LISTING_VERSION + 1)
    assert current_key(spec_of(root), out) is None


def test_notices(root, out):
    class Notices(list):
        def notice(self, message):
            self.append(message)

        def start(self, what, total, unit):
            assert total == 10

        def advance(self, count, status=""):
            pass

        def finish(self):
            pass

    (root / "train" / "ants" / "a.pdf").write_bytes(b"")
    make_folder(root, {"u": 2}, "test")
    (root / "test" / "u" / "img_1.png").write_bytes(b"")
    (root / "dev" / "ants").mkdir(parents=True)
    notices = Notices()
    build_manifest(spec_of(root), out, notices)
    assert notices == [
        "not listed: 1 .pdf, 1 folder dev/, as it isn't called valid",
        "test: 1 of 2 images rejected, e.g. 'u/img_1.png' (the file is empty (0 bytes))",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pandas|pyarrow")
def test_the_files_open_with_what_people_have(root, out):
    (root / "train" / "ants" / "img_2.png").write_bytes(b"")
    make_folder(root, {"unknown": 2}, "test")
    manifest = build_manifest(spec_of(root), out)
    table = pandas.read_feather(out / "manifest.arrow")
    assert list(table) == ["split", "id", "label", "group", "digest", "status", "reason", "location"]
    assert table.iloc[1].tolist()[:4] == ["train", "ants/img_2.png", "ants", ""]
    assert table.iloc[1].tolist()[5:] == ["rejected", "the file is empty (0 bytes)", b"train/ants/img_2.png"]
    assert table.groupby("split", observed=True).size().to_dict() == {"train": 8, "test": 2}
    assert table.label.isna().tolist() == [False] * 8 + [True] * 2
    assert table.digest.tolist() == [digest for rows in manifest.splits.values() for digest in rows.digests]
    assert json.loads((out / "listing.json").read_text())["asked"] == {"source": "folder", "groups": ""}


@given(st.lists(st.text(min_size=1), min_size=3, max_size=3, unique=True))
@settings(max_examples=25, deadline=None)
def test_any_texts_survive(texts):
    """Names that aren't UTF-8 come with lone surrogates, as Python has them."""
    names = [os.fsdecode(b"\xff" + text.encode("utf-8", "replace")) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        for ids, others in ((texts, names), (names, texts)):
            assume(not any("\ud800" <= letter <= "\udfff" for text in texts for letter in text))
            rows = Rows(ids, np.array([0, -1, 0], np.int32), others, ["", "1", "2"], others, others)
            Manifest(("a",), {"test": rows, "train": rows}, {}).save(Path(folder))
            loaded = Manifest.load(Path(folder))
            for split in ("train", "test"):
                found = loaded.splits[split]
                for column in ("ids", "groups", "digests", "reasons", "locations"):
                    assert getattr(found, column) == getattr(rows, column)
                assert found.labels.tolist() == [0, -1, 0]
                assert Rows(found.ids, found.labels, found.groups, found.digests, found.reasons).key == rows.key


def test_keys_are_those_of_version_0_1():
    """Feature caches carry keys that are derived from these: they must never change."""
    reasons = ["", "the file is empty (0 bytes)"]
    rows = Rows(
        ["a/\udcff.png", "b/ü.png"], np.array([0, -1], np.int32), ["", "g"], ["0" * 64, ""], reasons, ["x", "y"]
    )
    assert rows.key == "7d5ecc4ea5a43a0b333306e077f93e4aec0eb32f6c43d4b8b8c3b5c9e5673a46"
    assert (
        Manifest(("a", "b"), {"train": rows}, {"source": "folder"}).key
        == "f320a199179a76bb08cfb61d8ffc8b7667cd25150fe2c4aaab6cd99a1861a580"
    )


def test_a_manifest_of_an_older_version_is_made_again(root, out):
    key = build_manifest(spec_of(root), out).key
    record = json.loads((out / "manifest.json").read_text()) | {"schema": 1, "csv_bytes": 3}
    (out / "manifest.json").write_text(json.dumps(record))
    (out / "manifest.csv").write_text("old")
    assert stored_manifest(out) is None
    assert current_key(spec_of(root), out) is None
    assert build_manifest(spec_of(root), out).key == key
    assert not (out / "manifest.csv").exists()


def test_a_listing_keeps_to_the_files_that_were_seen(root, out):
    spec = spec_of(root)
    seen = list_files(spec)
    make_folder(root, {"wasps": 3})
    manifest = list_images(spec, out, files=seen)
    assert manifest.class_names == ("ants", "bees")
    assert len(manifest.splits["train"]) == 8
    manifest.save(out, {"run": "r1"})
    assert stored_manifest(out)["run"] == "r1"
    assert index.current_key(spec, out, seen) == manifest.key
    assert current_key(spec, out) is None
    (root / "train" / "ants" / "img_1.png").write_bytes(encoded(picture(seed=77)))  # unseen: the next run's
    assert index.current_key(spec, out, seen) == manifest.key
    assert current_key(spec, out) is None


def test_a_file_that_vanishes_while_it_is_listed(root, out):
    seen = list_files(spec_of(root))
    (root / "train" / "ants" / "img_1.png").unlink()
    with pytest.raises(SourceChangedError, match=r"img_1.png' was deleted after indexing: run again"):
        list_images(spec_of(root), out, files=seen)
    assert list_files(spec_of(root / "nowhere")) is None


def test_a_manifest_that_is_replaced_is_read_on_as_it_was(root, out):
    build_manifest(spec_of(root), out)
    rows = Manifest.load(out).splits["train"]
    shutil.copy(out / "manifest.arrow", out / "other.csv")
    (out / "other.csv").write_text("nonsense")
    (out / "other.csv").replace(out / "manifest.arrow")
    assert rows.ids[0] == "ants/img_1.png"


def test_many_files_are_read_by_other_processes_and_found_the_same(root, out, tmp_path, monkeypatch):
    for number in range(600):
        Image.new("RGB", (number % 20 + 1, 3), (number % 256, 0, 0)).save(root / f"train/ants/x{number}.jpg")
    (root / "train/bees/broken.jpg").write_bytes(b"no image")
    (root / "train/bees/folder.jpg").mkdir()
    alone = build_manifest(spec_of(root), out)
    monkeypatch.setattr(image_readers, "_MANY", 100)
    monkeypatch.setattr(image_readers, "core_numbers", lambda: [0, 1])
    asked = []
    answer = image_readers.Readers.answer
    monkeypatch.setattr(
        image_readers.Readers, "answer", lambda self, files: asked.append(answer(self, files)) or asked[-1]
    )
    together = build_manifest(spec_of(root), tmp_path / "together")
    assert any(asked)
    assert together.key == alone.key
    assert (tmp_path / "together/manifest.arrow").read_bytes() == (out / "manifest.arrow").read_bytes()
    digests = [json.loads((folder / "listing.json").read_text())["contents"] for folder in (out, tmp_path / "together")]
    assert digests[0] == digests[1]
    monkeypatch.setattr(image_readers.sys, "executable", "/bin/false")  # they end at once: this process reads alone
    assert build_manifest(spec_of(root), tmp_path / "unaided").key == alone.key


@pytest.mark.parametrize(("waited", "sizes"), [(0, [8] * 3), (8, [8] + [2] * 8)])
def test_a_reader_has_more_threads_once_it_waits(waited, sizes, root, monkeypatch):
    files = sorted(root.glob("train/*/*.png"))
    names = b"\0".join(map(os.fsencode, files))
    seen, counts, look, answers = [], itertools.count(0, waited), image_readers._look, io.BytesIO()
    monkeypatch.setattr(image_readers, "_waits", lambda: next(counts))
    monkeypatch.setattr(image_readers, "_look", lambda some: seen.append(len(some)) or look(some))
    requests = io.BytesIO(3 * (len(names).to_bytes(8) + names))
    monkeypatch.setattr(image_readers.sys, "stdin", SimpleNamespace(buffer=requests))
    monkeypatch.setattr(image_readers.sys, "stdout", SimpleNamespace(buffer=answers))
    image_readers.main()
    assert seen == sizes
    digests = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    assert answers.getvalue().count(digests) == 3


def test_a_listing_is_csv_whatever_files_are_called(root, out):
    names = ['with "quotes", and commas.png', "two\nlines.png", "caf\xe9.png", "plain.png"]
    for name in names:
        (root / "train/ants" / name).write_bytes((root / "train/ants/img_1.png").read_bytes())
    build_manifest(spec_of(root), out)
    with open(out / "listing.csv", encoding="utf-8", newline="") as stream:
        _, *lines = csv.reader(stream)
    assert {f"train/ants/{name}" for name in names} <= {line[0] for line in lines}
    assert {len(line) for line in lines} == {7}
    for name in names:
        os.unlink(root / "train/ants" / name)
    plain = build_manifest(spec_of(root), out)
    again = io.StringIO(newline="")
    with open(out / "listing.csv", encoding="utf-8", newline="") as stream:
        csv.writer(again).writerows(csv.reader(stream))
    assert (out / "listing.csv").read_bytes().decode() == again.getvalue()
    assert len(plain.splits["train"])
