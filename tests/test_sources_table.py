"""A table of ids and labels beside folders of images: however ids, columns and bytes are written, or one clear line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, picture
from listings import build_manifest

from featcache.dataset import digest_cache, file_checks
from featcache.dataset.listing import current_key, list_files
from featcache.dataset.sources import table
from featcache.errors import SettingsError, SourceError
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import DatasetSpec

IDS = ["007", "008", "009", "010"]
LABELS = ["cat", "dog", "cat", "dog"]
LINES = [f"{row},{label}" for row, label in zip(IDS, LABELS, strict=True)]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(4, 4, seed=len(str(path)))))


@pytest.fixture
def root(tmp_path):
    for name in IDS:
        image(tmp_path / f"data/photos/{name}.jpg")
    return tmp_path / "data"


def write(root, lines, header="id,label", name="train.csv", encoding="utf-8"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes("\n".join([header, *lines, ""]).encode(encoding))


def listed(root, out=None, **settings):
    settings = {"table": "train.csv", "label": ("label",), **settings}
    return build_manifest(DatasetSpec("x", "table", root, **settings), out or root.parent / "out")


def refusal(root, **settings):
    with pytest.raises(SourceError) as caught:
        listed(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def classes_of(rows, manifest):
    return [manifest.class_names[label] if label >= 0 else None for label in rows.labels]


FORMS = {
    "stem": "{}", "name": "{}.jpg", "another suffix": "{}.PNG", "path": "photos/{}.jpg", "path without suffix": "photos/{}",
    "path from here": "./photos/{}.jpg", "path of another system": "photos\\{}.jpg", "path from elsewhere": "in/{}.jpg",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_ids_name_images_by_their_path_or_name(root, form):
    ids = [form.format(name) for name in IDS]
    write(root, [f"{row},{label}" for row, label in zip(ids, LABELS, strict=True)])
    manifest = listed(root)
    train = manifest.splits["train"]
    assert (train.ids, manifest.class_names, manifest.left_out) == (ids, ("cat", "dog"), {".csv": 1})
    assert classes_of(train, manifest) == LABELS
    assert train.locations == [f"photos/{name}.jpg" for name in IDS]
    assert train.listed.all()


def test_images_nested_by_the_letters_of_their_ids(tmp_path):
    for name in IDS:
        image(tmp_path / f"data/{name[0]}/{name[1]}/{name}.jpg")
    write(tmp_path / "data", LINES)
    assert listed(tmp_path / "data").splits["train"].locations[3] == "0/1/010.jpg"


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_separators_and_encodings(root, sign, encoding):
    lines = [line.replace(",", sign).replace("cat", "k\u00e4tzchen") for line in LINES]
    write(root, [*lines, "", sign], f"id{sign}label", encoding=encoding)
    manifest = listed(root)
    assert (manifest.class_names, manifest.splits["train"].ids) == (("dog", "k\u00e4tzchen"), IDS)


def test_the_same_rows_of_every_kind_of_file(root):
    write(root, LINES)
    expected = listed(root).key
    write(root, ['"008\nx",dog'], name="other.csv")
    records = [{"label": label, "id": row} for row, label in zip(IDS, LABELS, strict=True)]
    write(root, map(json.dumps, records[1:]), json.dumps(records[0]), "train.jsonl")
    pq.write_table(pa.Table.from_pylist(records), root / "train.parquet")
    dictionary = pa.table({"id": pa.array(IDS).dictionary_encode(), "label": pa.array(LABELS).dictionary_encode()})
    pq.write_table(dictionary, root / "coded.parquet")
    for name in ("train.jsonl", "train.parquet", "coded.parquet"):
        assert listed(root, table=name, id="id").key == expected, name


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_that_became_floats_are_whole_again(tmp_path, kind):
    for name in (1, 2, 3, 4):
        image(tmp_path / f"data/{name}.jpg")
    if kind == "csv":
        write(tmp_path / "data", ["1.0,0.0", "2.0,1.0", "3.0,0.0", "4.0,10.0"])
    else:
        columns = {"id": [1.0, 2.0, 3.0, 4.0], "label": [0.0, 1.0, 0.0, 10.0]}
        pq.write_table(pa.table(columns), tmp_path / "data/train.parquet")
    manifest = listed(tmp_path / "data", table=f"train.{kind}")
    assert manifest.class_names == ("0", "1", "10")
    assert manifest.splits["train"].locations == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]


def test_a_column_a_label(root):
    write(root, ["007,1,0", "008,0,1.0", "009,1,", "010,0,0"], "id,cat,dog")
    manifest = listed(root, label=("cat", "dog"))
    train = manifest.splits["train"]
    assert classes_of(train, manifest) == ["cat", "dog", "cat", None]
    assert [*train.reasons] == ["", "", "", "it has no label"]
    write(root, ["007,1,0", "008,0.3,0.7"], "id,cat,dog")
    assert "column 'cat' holds '0.3', not 0 or 1" in refusal(root, label=("cat", "dog"))


@pytest.mark.parametrize(
    ("separator", "labels"),
    [
        ("blank", ["a b", "b", "a", "a b c", "c"]),
        ("|", ["a|b", "b", "a", "c", "b|c"]),
        (",", ["sea ice, fog", "fog", "sea ice", "fog, ice, sea ice", "ice"]),
    ],
)
def test_lists_of_labels_are_refused_without_a_separator(root, separator, labels):
    image(root / "photos/011.jpg")
    lines = [f"{row}\t{label}" for row, label in zip([*IDS, "011"], labels, strict=True)]
    write(root, lines, "id\tlabel", "train.tsv")
    said = refusal(root, table="train.tsv")
    assert "are lists of 3 labels, separated by" in said
    assert f"set [Dataset] separator = {separator}, or write" in said
    assert len(listed(root, table="train.tsv", separator=separator).class_names) == 3


def test_a_class_of_several_words_is_one_class(root):
    write(root, [f"{row},{label} retriever" for row, label in zip(IDS, LABELS, strict=True)])
    assert listed(root).class_names == ("cat retriever", "dog retriever")


def test_groups_and_splits_are_columns(root):
    image(root / "photos/011.jpg")
    write(
        root,
        ["007,cat,p1,train", "008,dog,p1,Train", "009,cat,,val", "010,,,TEST", "011,dog,,test"],
        "id,label,who,part",
    )
    manifest = listed(root, groups="who", split="part")
    assert [*manifest.splits["train"].groups] == ["p1", "p1"]
    assert {split: [*rows.ids] for split, rows in manifest.splits.items()} == {
        "train": ["007", "008"],
        "valid": ["009"],
        "test": ["010", "011"],
    }
    assert manifest.splits["test"].labels.tolist() == [-1, 1]
    write(root, ["007,cat,,train", "008,dog,p1,middle"], "id,label,who,part")
    assert "column 'part' holds 'middle', not train, valid and test" in refusal(root, split="part")
    assert "training rows have no group in column 'who': '007'" in refusal(root, groups="who")


def test_test_rows_by_a_folder(root):
    for name in (*IDS[:1], "2", "10"):
        image(root / f"hidden/deep/{name}.jpg")
    write(root, LINES)
    test = listed(root, test="hidden").splits["test"]
    assert test.ids == ["deep/2.jpg", "deep/007.jpg", "deep/10.jpg"], "an id of the table may be a test image's, too"
    assert set(test.labels.tolist()) == {-1}


def test_test_rows_by_a_table_keep_their_order_and_rows_without_an_image(root):
    image(root / "photos/x.jpg")
    write(root, LINES)
    write(root, ["x,0.5", "gone,0.5"], "photo,label", "sample_submission.csv")
    manifest = listed(root, id="id", test="sample_submission.csv")
    test = manifest.splits["test"]
    assert (test.ids, [*test.reasons]) == (["x", "gone"], ["", "no image file has this name"])
    assert test.labels.tolist() == [-1, -1], "a sample's labels are made up"


def test_ids_beside_their_table_come_before_others(root):
    """The Hugging Face hub's layout: metadata.csv in each split's folder, and the same names in all."""
    for split in ("train", "test"):
        for number in (1, 2):
            image(root / split / f"{number}.png")
        write(root, ["1.png,cat", "2.png,dog"], "file_name,text", f"{split}/metadata.csv")
    manifest = listed(
        root, table="train/metadata.csv", label=("text",), images=("train", "test"), test="test/metadata.csv"
    )
    assert {split: [*rows.locations] for split, rows in manifest.splits.items()} == {
        "train": ["train/1.png", "train/2.png"],
        "test": ["test/1.png", "test/2.png"],
    }


def test_what_is_set_aside_is_counted(root):
    image(root / "photos/nobody.jpg")
    write(root, [*LINES, "gone,cat", "007,cat", ",cat", "blank,"])
    image(root / "photos/blank.jpg")
    manifest = listed(root)
    train = manifest.splits["train"]
    reasons = {row: reason for row, reason in zip(train.ids, train.reasons, strict=True) if reason}
    assert reasons == {"gone": "no image file has this name", "blank": "it has no label"}
    assert manifest.left_out == {
        ".csv": 1,
        "images that no table names": 1,
        "lines of a table that repeat another": 1,
        "lines of a table without an id": 1,
    }


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([*LINES, "007,dog"], "id='007' has two labels, 'cat' and 'dog'"),
        ([*LINES, "007.jpg,cat"], "ids '007' and '007.jpg' are one image, 'photos/007.jpg'"),
        ([*LINES, "1,2,3"], "Expected 2 columns, got 3: 1,2,3"),
        (["a,cat", "b,dog"], "no id, such as 'a', is the name of one of 4 images, such as 'photos/0"),
        ([f"{row},cat" for row in IDS], "has only class 'cat', at least 2 classes are needed"),
        ([], "has no rows"),
        (['x,"dog', *LINES], "column 'label' has a line break, in 'dog\\n007,cat"),
    ],
)
def test_tables_that_cannot_be_meant(root, lines, fault):
    write(root, lines)
    assert fault in refusal(root)


def test_an_id_of_two_images(root):
    image(root / "masks/007.png")
    write(root, LINES)
    said = refusal(root)
    assert "id='007' is the name of" in said
    assert "'masks/007.png'" in said
    assert said.endswith("or set [Dataset] images to their folders")
    assert len(listed(root, images=("photos",)).splits["train"]) == 4


def test_an_image_of_both_tables(root):
    write(root, LINES)
    write(root, ["010,cat"], name="test.csv")
    assert "1 images are both training and test images, e.g. id='010'" in refusal(root, test="test.csv")


def test_what_is_no_table(root):
    assert "has no train.csv but nothing there: correct [Dataset] table" in refusal(root)
    (root / "train.parquet").write_bytes(b"PAR1 cut off")
    assert "is damaged or no table" in refusal(root, table="train.parquet")
    (root / "train.jsonl").write_text('{"id": "007", "label": "cat"}\n[]\n')
    assert "line 2 is no JSON object: write one a line" in refusal(root, table="train.jsonl")
    (root / "train.jsonl").write_text('{"id": "007", "label": ["cat", "dog"]}\n')
    assert "column 'label' has lists, [Dataset] groups needs one value a row" in refusal(
        root, table="train.jsonl", label=("id",), groups="label"
    )
    (root / "train.jsonl").write_text('{"id": "007", "label": [["cat"], ["dog"]]}\n')
    assert "column 'label' has lists of lists" in refusal(root, table="train.jsonl")
    write(root, LINES, "id,label,label")
    assert "has two columns 'label'" in refusal(root)
    write(root, LINES, "name,labell")
    assert "[Dataset] label: " in (said := refusal(root))
    assert "has no column 'label', but name, labell, did you mean labell?" in said


def test_settings_that_a_source_needs(root):
    with pytest.raises(SettingsError, match=r"\[Dataset\] table is missing, which source=table needs"):
        DatasetSpec("x", "table", root)
    with pytest.raises(SettingsError, match=r"\[Dataset\] label is missing, which source=table needs"):
        DatasetSpec("x", "table", root, table="t.csv")
    write(root, LINES)
    assert "[Dataset] images='../x' is not below [Dataset] path" in refusal(root, images=("../x",))
    assert "nowhere is not a folder of images but nothing there" in refusal(root, images=("nowhere",))
    texts = {"name": "x", "source": "table", "path": str(root), "table": "train.csv", "label": "a, b"}
    settings = parse_settings({"Dataset": texts})
    assert (settings.dataset.label, settings.features.image_size) == (("a", "b"), 224)


def test_a_table_is_read_only_when_it_changed(root, tmp_path, monkeypatch):
    monkeypatch.setattr(file_checks, "SETTLE_NS", 0)
    write(root, LINES)
    out, spec = tmp_path / "out", DatasetSpec("x", "table", root, table="train.csv", label=("label",))
    key = listed(root).key
    with monkeypatch.context() as patch:
        patch.setattr(digest_cache, "_examined", lambda *_: pytest.fail("a file was read"))
        patch.setattr(table, "read_lines", lambda *_: pytest.fail("the table was opened"))
        assert current_key(spec, out, list_files(spec)) == key
    read = []
    examined = digest_cache._examined
    monkeypatch.setattr(
        digest_cache, "_examined", lambda path, *rest: read.append(Path(path).name) or examined(path, *rest)
    )
    (root / "train.csv").touch()
    assert current_key(spec, out, list_files(spec)) == key
    write(root, [*LINES[:3], "010,cat"])
    assert current_key(spec, out, list_files(spec)) is None
    assert listed(root).key != key
    assert read == ["train.csv"] * 2, "no image is read again"


@pytest.mark.shared
def test_cactus_as_it_is(shared, tmp_path):
    manifest = listed(
        shared / "data/cactus", tmp_path, label=("has_cactus",), images=("train", "test"), test="sample_submission.csv"
    )
    assert {split: len(rows) for split, rows in manifest.splits.items()} == {"train": 2400, "test": 600}
    assert (manifest.class_names, manifest.left_out) == (("0", "1"), {})
    assert np.bincount(manifest.splits["train"].labels).min() > 500


def test_labels_and_groups_in_file_names(tmp_path):
    for name in ("cat.10.p1.jpg", "cat.2.p1.jpg", "dog.1.p2.jpg", "dog.3.p2.jpg", "notes.jpg"):
        image(tmp_path / "data/train" / name)
    image(tmp_path / "data/test/cat.1.jpg")
    pattern = r"(?P<label>cat|dog)\.\d+(\.(?P<group>\w+))?\.jpg$"
    spec = DatasetSpec("x", "filename", tmp_path / "data", pattern=pattern, test="test")
    manifest = build_manifest(spec, tmp_path / "out")
    train = manifest.splits["train"]
    assert train.ids == [f"train/{name}.jpg" for name in ("cat.2.p1", "cat.10.p1", "dog.1.p2", "dog.3.p2")]
    assert (classes_of(train, manifest), [*train.groups]) == (["cat", "cat", "dog", "dog"], ["p1", "p1", "p2", "p2"])
    assert manifest.splits["test"].ids == ["cat.1.jpg"]
    assert manifest.left_out == {"images whose names [Dataset] pattern doesn't match": 1}
    with pytest.raises(SourceError, match=r"pattern='\(\?P<label>owl\)' is in none of 5 images' names, such as"):
        build_manifest(DatasetSpec("x", "filename", tmp_path / "data", pattern="(?P<label>owl)", test="test"), tmp_path)
    for wrong, fault in (
        ("(cat", "is no regular expression"),
        ("(cat)", r"has the groups \(none\): write \(\?P<label>"),
    ):
        with pytest.raises(SettingsError, match=fault):
            DatasetSpec("x", "filename", tmp_path, pattern=wrong)


def sets_of(rows, manifest):
    """The names of each row's labels; None where they are unknown."""
    named = ([name for name, has in zip(manifest.class_names, row, strict=True) if has] for row in rows.labels)
    return [None if row.min() < 0 else names for row, names in zip(rows.labels, named, strict=True)]


@pytest.mark.parametrize(("separator", "sign"), [("blank", "  "), (",", ", "), (";", ";"), ("|", " | ")])
def test_tags_in_a_column(root, separator, sign):
    tags = ["cat", sign.join(["dog", "cat", "dog"]), "", sign.join(["10", "9"])]
    write(root, [f"{row}\t{each}" for row, each in zip(IDS, tags, strict=True)], "id\tlabel", "train.tsv")
    manifest = listed(root, table="train.tsv", separator=separator)
    train = manifest.splits["train"]
    assert manifest.several
    assert manifest.class_names == ("9", "10", "cat", "dog")
    assert train.labels.dtype == np.int8
    assert sets_of(train, manifest) == [["cat"], ["cat", "dog"], None, ["9", "10"]]
    assert [*train.reasons] == ["", "", "it has no label", ""]


def test_columns_of_labels(root):
    write(root, ["007,1,0,0,train", "008,1,1.0,0,train", "009,0,,0,train", "010,,,,test"], "id,cat,dog,cow,split")
    manifest = listed(root, label=("cat", "dog", "cow"), split="split")
    assert manifest.class_names == ("cat", "dog"), "no training row is a cow"
    assert sets_of(manifest.splits["train"], manifest) == [["cat"], ["cat", "dog"], []]
    assert sets_of(manifest.splits["test"], manifest) == [None]
    assert not any(manifest.splits["train"].reasons)
    write(root, ["007,1,0,train", "008,0,1,train", "009,1,1,valid"], "id,cat,dog,split")
    said = refusal(root, label=("cat", "dog"), split="split")
    assert "id='009' of valid has several labels, cat|dog, but no training row has" in said


def test_lists_of_labels(root):
    write_json = (root / "train.jsonl").write_text
    lines = [{"id": "007", "label": ["cat"]}, {"id": "008", "label": ["dog", "cat"]}, {"id": "009", "label": []}]
    write_json("".join(json.dumps(line) + "\n" for line in [*lines, {"id": "010"}]))
    manifest = listed(root, table="train.jsonl")
    assert sets_of(manifest.splits["train"], manifest) == [["cat"], ["cat", "dog"], [], None]


def test_wrong_tags(root):
    write(root, ["007,a b,train", "008,b,train", "009,a c d,valid"], "id,label,split")
    assert "label='c' does not occur in training, which has a, b" in refusal(root, separator="blank", split="split")
    write(root, ["007,a b", "008,b", "007,b a", "007,a"])
    said = refusal(root, separator="blank")
    assert "id='007' has two labels, 'a|b' and 'a': correct the table, or write all labels of an id into one" in said
    write(root, ["007,a b", "008,b a", "nothing,c"])
    assert "class 'c' has 0 ('nothing' can't be used: no image file has this name)" in refusal(root, separator="blank")
    write(root, ["007,a", "008,a"])
    assert "has only class 'a', at least 2 classes are needed" in refusal(root, separator="blank")


def test_the_key_of_several_labels(root, tmp_path):
    write(root, ["007,a", "008,b"])
    one, several = listed(root), listed(root, separator="blank")
    assert one.splits["train"].key != several.splits["train"].key
    write(root, ["007,a b", "008,b"])
    assert listed(root, separator="blank").key != several.key


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"separator": "x"}, "separator='x' is unknown; known: blank, ,, ;, |"),
        ({"separator": "|", "label": "a, b"}, "separator='|' does not fit label='a, b'; it is for one column of lists"),
        ({"separator": "|", "source": "filename", "pattern": "(?P<label>a)"}, "does not fit source=filename"),
    ],
)
def test_a_separator_that_does_not_fit(settings, said):
    own = {"name": "x", "source": "table", "path": "x", "table": "t.csv", "label": "label"}
    with pytest.raises(SettingsError) as caught:
        parse_settings({"Dataset": own | settings})
    assert said in str(caught.value)
