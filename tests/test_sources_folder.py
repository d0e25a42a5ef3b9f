import os
import re

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from images import encoded, make_folder, picture
from listings import build_manifest

from featcache.core.texts import PackedTexts
from featcache.dataset.manifest import Manifest
from featcache.dataset.natural_sort import natural_order
from featcache.dataset.sources import folder
from featcache.dataset.sources.source import open_source
from featcache.errors import RejectedImageError, SourceChangedError, SourceError
from featcache.settings.specs import DatasetSpec


def listed(root, out=None, **settings):
    return build_manifest(DatasetSpec("x", "folder", root, **settings), out or root.parent / "artifacts")


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def test_rows_labels_and_natural_order(root):
    make_folder(root, {"ants": 11, "bees": 2}, "train")
    (root / "train" / "bees" / "IMG_10.PNG").write_bytes(encoded(picture()))
    manifest = listed(root)
    train = manifest.splits["train"]
    assert manifest.class_names == ("ants", "bees")
    assert list(manifest.splits) == ["train"]
    assert train.ids == [f"ants/img_{n}.png" for n in range(1, 12)] + [f"bees/img_{n}.png" for n in (1, 2, 3)] + [
        "bees/IMG_10.PNG"
    ]
    assert train.labels.tolist() == [0] * 11 + [1] * 4
    assert set(train.groups) == set(train.reasons) == {""}


@pytest.mark.parametrize(("more", "walks"), [("train/ants/a.txt", 1), ("train/ants/more/1.png", 2)])
def test_folders_are_walked_once_unless_some_were_passed_over(root, more, walks, monkeypatch):
    (root / more).parent.mkdir(exist_ok=True)
    (root / more).write_bytes(encoded(picture()))
    scan, scans = folder.Scan, []
    monkeypatch.setattr(folder, "Scan", lambda **words: scans.append(words) or scan(**words))
    assert sum(listed(root).left_out.values()) == 1
    assert len(scans) == walks


def test_classes_stand_in_natural_order(tmp_path):
    assert listed(make_folder(tmp_path / "d", {"c10": 2, "c9": 2, "C1": 2})).class_names == ("C1", "c9", "c10")


def test_flat_test_has_no_labels(root):
    (root / "test").mkdir()
    for number in (10, 9):
        (root / "test" / f"{number}.jpg").write_bytes(encoded(picture(), "JPEG"))
    test = listed(root).splits["test"]
    assert test.ids == ["9.jpg", "10.jpg"]
    assert test.labels.tolist() == [-1, -1]


def test_class_folders_in_test_are_known_labels_and_others_are_not(root):
    make_folder(root, {"bees": 2}, "test")
    assert listed(root).splits["test"].labels.tolist() == [1, 1]
    make_folder(root, {"wasps": 1}, "test")
    with pytest.raises(
        SourceError, match=r"test: folders 'wasps' are no classes of train: .* give test no class folders"
    ):
        listed(root)


def test_unknown_folder_in_test(root):
    make_folder(root, {"unknown": 2}, "test")
    test = listed(root).splits["test"]
    assert test.ids == ["unknown/img_1.png", "unknown/img_2.png"]
    assert test.labels.tolist() == [-1, -1]


def test_images_beside_class_folders_in_test(root):
    make_folder(root, {"bees": 2}, "test")
    (root / "test" / "stray.png").write_bytes(encoded(picture()))
    with pytest.raises(SourceError, match=r"test has 1 images beside its class folders.*stray"):
        listed(root)


def test_valid_needs_the_classes_of_train(root):
    make_folder(root, {"ants": 1}, "valid")
    assert listed(root).splits["valid"].labels.tolist() == [0]
    make_folder(root, {"flies": 1}, "valid")
    with pytest.raises(SourceError, match=r"valid: folders 'flies' are no classes of train"):
        listed(root)


def test_what_is_no_image_by_name_is_counted_and_so_are_hidden_images(root):
    for name in ("notes.txt", "Thumbs.db", "LICENSE", "more.TXT", ".DS_Store", ".hidden.png", "._img_1.png"):
        (root / "train" / "ants" / name).write_bytes(b"x")
    (root / "train" / "stray.png").write_bytes(encoded(picture()))
    (root / "train" / "ants" / "deeper").mkdir()
    (root / "train" / ".ipynb_checkpoints").mkdir()
    manifest = listed(root)
    assert len(manifest.splits["train"]) == 6
    assert manifest.left_out == {
        ".txt": 2,
        ".db": 1,
        "no suffix": 1,
        "images outside a class folder": 1,
        "folders inside a class folder": 1,
        "images whose names begin with a dot": 1,
    }


def test_faulty_headers_are_rejected_rows(root, tmp_path):
    ants = root / "train" / "ants"
    (ants / "empty.jpg").write_bytes(b"")
    (ants / "page.png").write_bytes(b"<html>")
    (ants / "gone.gif").symlink_to(tmp_path / "nowhere.gif")
    train = listed(root).splits["train"]
    reasons = {row: reason for row, reason in zip(train.ids, train.reasons, strict=True) if reason}
    assert reasons["ants/empty.jpg"] == "the file is empty (0 bytes)"
    assert reasons["ants/page.png"].startswith("not an image")
    assert reasons["ants/gone.gif"] == "can't be read: No such file or directory"
    assert train.listed.sum() == 6


def test_rejected_images_do_not_count_for_a_class(root):
    for path in (root / "train" / "bees").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"class 'bees' has 0 .*each class needs a usable image"):
        listed(root)


def test_odd_names_survive(root):
    odd = [b"a,b.png", b"line\nbreak.png", b"return\r.png", b"\xff\xfe.png", 'größe "q".png'.encode(), b" blank .png"]
    for seed, name in enumerate(odd):
        (root / "train" / "ants" / os.fsdecode(name)).write_bytes(encoded(picture(seed=seed)))
    manifest = listed(root)
    train = manifest.splits["train"]
    assert "ants/\\xff\\xfe.png" in train.ids
    for row in train.ids:
        row.encode("utf-8")
    stored = Manifest.load(root.parent / "artifacts")
    assert stored.key == manifest.key
    assert stored.splits["train"].ids == train.ids
    source = open_source(DatasetSpec("x", "folder", root))
    for location, digest in zip(stored.splits["train"].locations, train.digests, strict=True):
        assert source.load(location, digest, 8).shape == (8, 8, 3)


def test_links_are_followed_and_loops_end(root, tmp_path):
    elsewhere = make_folder(tmp_path / "elsewhere", {"wasps": 2})
    (root / "train" / "wasps").symlink_to(elsewhere / "train" / "wasps")
    (root / "train" / "ants" / "link.png").symlink_to(elsewhere / "train" / "wasps" / "img_1.png")
    make_folder(root, {"unknown": 1}, "test")
    (root / "test" / "unknown" / "loop").symlink_to(root / "test")
    manifest = listed(root)
    assert manifest.class_names == ("ants", "bees", "wasps")
    assert "ants/link.png" in manifest.splits["train"].ids
    assert manifest.splits["test"].ids == ["unknown/img_1.png"]


def test_load_finds_changed_vanished_and_damaged_images(root):
    row = root / "train" / "ants" / "img_1.png"
    row.write_bytes(encoded(picture())[:-40])
    train = listed(root).splits["train"]
    source = open_source(DatasetSpec("x", "folder", root))
    with pytest.raises(RejectedImageError, match=r"damaged or truncated PNG"):
        source.load(train.locations[0], train.digests[0], 8)
    row.write_bytes(encoded(picture()))
    with pytest.raises(SourceChangedError, match=r"img_1.png' changed after indexing: run again"):
        source.load(train.locations[0], train.digests[0], 8)
    row.unlink()
    with pytest.raises(SourceChangedError, match=r"was deleted after indexing: run again"):
        source.load(train.locations[0], train.digests[0], 8)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no folder for a class: make a folder train/<class>/"),
        ({"ants": 3}, "has only class 'ants', at least 2 classes"),
        ({"ants": 3, "bees": 0}, "class 'bees' has 0"),
        ({"ants": 0, "bees": 0}, "has no training images"),
    ],
)
def test_impossible_training_folders(tmp_path, counts, message):
    (tmp_path / "data" / "train").mkdir(parents=True)
    with pytest.raises(SourceError, match=message) as caught:
        listed(make_folder(tmp_path / "data", counts) if counts else tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_duplicate_content_is_fine(root):
    content = (root / "train" / "ants" / "img_1.png").read_bytes()
    (root / "train" / "bees" / "img_1.png").write_bytes(content)
    digests = listed(root).splits["train"].digests
    assert len(set(digests)) == len(digests) - 1


@pytest.mark.shared
def test_real_folders(shared, tmp_path):
    ants = listed(shared / "data" / "hymenoptera", tmp_path / "h")
    assert {name: len(rows) for name, rows in ants.splits.items()} == {"train": 245, "test": 153}
    assert set(ants.splits["test"].labels.tolist()) == {0, 1}
    brain = listed(shared / "data" / "brain-mri", tmp_path / "b")
    train = brain.splits["train"]
    assert (len(train), int(train.listed.sum()), len(brain.left_out)) == (253, 253, 0)
    assert len(set(train.digests)) < 253
    source = open_source(DatasetSpec("x", "folder", shared / "data" / "brain-mri"))
    images = [source.load(*where, 32) for where in zip(train.locations, train.digests, strict=True)]
    assert np.stack(images).shape == (253, 32, 32, 3)


def natural(name):
    """What people expect of one name, in plain objects."""
    pieces = re.split("([0-9]+)", name.casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name


PARTS = st.text("aAbBß01.-\udcff", min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), unique_by=tuple))
@example([["img_2"], ["img_10"], ["img_02"], ["IMG_2"], ["img_"], ["img"], ["img", "2"]])
def test_natural_order_is_the_same_in_bytes(paths):
    expected = sorted(paths, key=lambda parts: [natural(part) for part in parts])
    order = natural_order(PackedTexts(map("/".join, paths)))
    assert [paths[row] for row in order.tolist()] == expected
