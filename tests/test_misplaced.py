"""Layouts that aren't train/<class>/: what is found instead is named, and what to do; names that are the same name."""

import os
import unicodedata

import pytest
from images import encoded, make_folder, picture
from listings import build_manifest

from featcache.dataset.sources.source import open_source
from featcache.errors import SourceError
from featcache.inference.predictor import find_images
from featcache.settings.specs import DatasetSpec

COMPOSED, APART = "café", unicodedata.normalize("NFD", "café")


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed=seed)))


def listed(root):
    return build_manifest(DatasetSpec("x", "folder", root), root.parent / "out")


def refusal(root):
    with pytest.raises(SourceError) as caught:
        listed(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


# ---- no train, or deeper


@pytest.mark.parametrize("name", ["Train", "TRAIN", "training", "Training"])
def test_train_by_another_name(root, name):
    (root / "train").rename(root / name)
    assert f"has no folder train/<class>/, but {name!r}: rename it to train" in refusal(root)


@pytest.mark.parametrize("name", ["hymenoptera_data", "data set", "new\nline"])
def test_train_one_folder_deeper(tmp_path, name):
    make_folder(tmp_path / "set" / name)
    said = refusal(tmp_path / "set")
    shown = name.replace("\n", "\\n")
    assert said.endswith(f"but {shown}/train: set [Dataset] path = {tmp_path}/set/{shown}")


def test_the_path_of_train_itself(root):
    assert refusal(root / "train").endswith(f"but the classes themselves ('ants', 'bees'): set [Dataset] path = {root}")


def test_classes_right_in_the_folder(tmp_path):
    make_folder(tmp_path, {"ants": 2, "b ees": 2}, "data")
    image(tmp_path / "data" / "test" / "1.png")
    said = refusal(tmp_path / "data")
    assert "('ants', 'b ees')" in said
    os.system(said.rpartition("there: ")[2])  # noqa: S605 - what it says to type is right
    assert listed(tmp_path / "data").class_names == ("ants", "b ees")


def test_class_folders_alone_are_training_rows(tmp_path):
    make_folder(tmp_path, {"ants": 2, "bees": 3}, "flowers")
    (tmp_path / "flowers/LICENSE").write_text("")
    manifest = listed(tmp_path / "flowers")
    train = manifest.splits["train"]
    assert (list(manifest.splits), manifest.left_out) == (["train"], {"no suffix": 1})
    assert train.ids == ["ants/img_1.png", "ants/img_2.png", "bees/img_1.png", "bees/img_2.png", "bees/img_3.png"]
    source = open_source(DatasetSpec("x", "folder", tmp_path / "flowers"))
    assert source.load(train.locations[0], train.digests[0], 4).shape == (4, 4, 3)
    (tmp_path / "flowers").rename(tmp_path / "moved")
    assert listed(tmp_path / "moved").key == manifest.key


def test_images_right_in_the_folder(tmp_path):
    image(tmp_path / "data" / "1.png"), image(tmp_path / "data" / "2.png")
    assert "but 2 images right in it: make a folder train/<class>/" in refusal(tmp_path / "data")


@pytest.mark.parametrize("name", ["train.zip", "Train.tar.gz", "train_images.7z"])
def test_a_packed_set(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"PK")
    assert f"but {name!r}: unpack it there" in refusal(tmp_path / "data")


@pytest.mark.parametrize("name", ["train", "Train"])
def test_train_in_train(tmp_path, name):
    make_folder(tmp_path / "data" / "train", split=name)
    said = refusal(tmp_path / "data")
    assert (
        f"in {name!r} the images lie deeper than train/<class>/, e.g. {tmp_path}/data/train/{name}/ants/img_1.png"
        in said
    )
    assert said.endswith(f"set [Dataset] path = {tmp_path}/data/train")


def test_classes_of_classes(root):
    image(root / "train/animals/cat/1.png")
    said = refusal(root)
    assert (
        f"in 'animals' the images lie deeper than train/<class>/, e.g. {root}/train/animals/cat/1.png: move the folders"
        in said
    )


def test_a_link_to_a_folder_above_is_no_class(root):
    (root / "train/loop").symlink_to("..")
    assert "in 'loop' the images lie deeper" in refusal(root)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], "its folder is empty"),
        (["1.mp4", "2.mp4", "notes.txt"], "it holds only 2 .mp4, 1 .txt"),
        (["LICENSE"], "it holds only 1 no suffix"),
        (["deeper/"], "it holds only folders, without images"),
        ([".x.png"], "it holds only names that begin with a dot"),
    ],
)
def test_a_class_without_images_says_why(root, entries, why):
    (root / "train/wasps").mkdir()
    for name in entries:
        (root / "train/wasps" / name).mkdir() if name.endswith("/") else (root / "train/wasps" / name).write_bytes(b"x")
    assert f"class 'wasps' has 0 ({why}), each class needs a usable image: add images or remove the class" in refusal(
        root
    )


def test_no_class_has_images(tmp_path):
    make_folder(tmp_path / "data", dict.fromkeys("abcde", 0))
    said = refusal(tmp_path / "data")
    assert "has no training images: class 'a' has 0 (its folder is empty)" in said
    assert "and 2 more" in said


# ---- what is no class


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_folders_of_systems_are_no_classes_and_hold_no_images(root, name):
    make_folder(root, {"ants": 1, "bees": 1}, "valid")
    make_folder(root, {"ants": 1}, "test")
    for place in ("train", "train/ants", "valid", "test", "test/ants"):
        image(root / place / name / "1.png")
    manifest = listed(root)
    assert manifest.class_names == ("ants", "bees")
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 6, "valid": 2, "test": 1}
    assert manifest.left_out == {f"system folders ({name})": 5}
    assert [file.name for file in find_images([root / "test"])] == ["img_1.png"]


def test_what_desktops_leave_beside_images_is_passed_by(root):
    for name in (".DS_Store", "._img_1.png", ".ipynb_checkpoints/img.txt", ".thumbnails/x.txt", ".#lock"):
        (root / "train/ants" / name).parent.mkdir(exist_ok=True)
        (root / "train/ants" / name).write_bytes(b"x")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert not listed(root).left_out


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_class_with_a_hidden_name_is_spoken_of(root, split):
    image(root / split / ".net" / "1.png")
    assert listed(root).left_out == {f"folder {split}/.net/, as its name begins with a dot": 1}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dev", "valid"), ("Valid", "valid"), ("VAL", "valid"),
        ("Test", "test"), ("testing", "test"), ("test1", "test"), ("Train", "train"), ("training", "train"),
    ],
)  # fmt: skip
def test_folders_called_nearly_like_a_split_are_spoken_of(root, name, split):
    (root / name).mkdir()
    assert listed(root).left_out == {f"folder {name}/, as it isn't called {split}": 1}


@pytest.mark.parametrize("name", ["val", "validation"])
def test_other_names_of_the_validation_split(root, name):
    make_folder(root, {"ants": 1}, name)
    valid = listed(root).splits["valid"]
    assert (valid.ids, valid.locations) == (["ants/img_1.png"], ["valid/ants/img_1.png"])
    source = open_source(DatasetSpec("x", "folder", root))
    assert source.load(valid.locations[0], valid.digests[0], 4).shape == (4, 4, 3)
    make_folder(root, {"ants": 2}, "valid")
    assert len(listed(root).splits["valid"]) == 2
    assert listed(root).left_out == {f"folder {name}/, as it isn't called valid": 1}


def test_images_in_folders_inside_a_class_are_counted(root):
    image(root / "train/ants/more/1.png"), image(root / "train/ants/more/deeper/2.png")
    assert listed(root).left_out == {"images in folders inside a class folder": 2}


def test_a_class_folder_that_is_elsewhere_and_gone_is_not_passed_by(root):
    (root / "train/wasps").symlink_to("/nowhere/wasps")
    assert "train/wasps' is not a class folder but a link to nothing: correct or remove the link" in refusal(root)


# ---- names that are the same name


@pytest.mark.parametrize(("train", "other"), [(COMPOSED, APART), (APART, COMPOSED)], ids=["composed", "apart"])
def test_a_class_is_the_same_however_its_accents_are_encoded(tmp_path, train, other):
    root = make_folder(tmp_path / "data", {train: 2, "tea": 2})
    make_folder(root, {other: 1}, "valid"), make_folder(root, {other: 1}, "test")
    manifest = listed(root)
    assert manifest.class_names == (train, "tea")
    for split in ("valid", "test"):
        rows = manifest.splits[split]
        assert rows.labels.tolist() == [0]
        assert rows.ids == [f"{other}/img_1.png"]
        assert rows.locations == [f"{split}/{other}/img_1.png"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_two_folders_that_are_one_class(tmp_path, split):
    root = make_folder(tmp_path / "data", {COMPOSED: 2, "tea": 2})
    make_folder(root, {COMPOSED: 2, APART: 2}, split)
    said = refusal(root)
    assert f"{root}/{split}: folders " in said
    assert r"'cafe\u0301' and 'caf\xe9'" in said


def test_two_folders_that_are_written_as_one_class(tmp_path):
    """Bytes that are no text are shown as escapes, as which another folder may be called."""
    said = refusal(make_folder(tmp_path / "data", {"\udcff": 2, r"\xff": 2}))
    assert r"folders '\\xff' and '\udcff' are the same name" in said


def test_folders_of_test_that_are_no_classes_may_be_called_as_they_like(root):
    make_folder(root, {COMPOSED: 1, APART: 1}, "test")
    assert len(listed(root).splits["test"]) == 2


ODD = [
    "cat\r",
    "new\nline",
    " blank ",
    "-dash",
    "\udce9t\udce9",
    "x" * 250,
    "%s{}",
    "*?",
    "tab\t",
    "日本",
    "a,b",
    '"q"',
    "CON",
    "#1",
]


def test_odd_class_names_go_through(tmp_path):
    root = make_folder(tmp_path / "data", dict.fromkeys(ODD, 2))
    make_folder(root, dict.fromkeys(ODD, 1), "test")
    manifest = listed(root)
    assert len(manifest.class_names) == len(ODD)
    assert sorted(manifest.splits["test"].labels.tolist()) == list(range(len(ODD)))
