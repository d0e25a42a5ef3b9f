import pytest
from images import greys, make_folder, make_idx
from listings import build_manifest

from featcache.dataset.manifest import stored_manifest
from featcache.errors import SourceError
from featcache.settings.specs import DatasetSpec

ROWS = [("ants", n) for n in (1, 2, 3)] + [("bees", n) for n in (4, 5, 6)]


@pytest.fixture
def root(tmp_path):
    """Like State Farm: file names are unique over the class folders."""
    make_folder(tmp_path, {"ants": 6, "bees": 6})
    for name, number in [("ants", 4), ("ants", 5), ("ants", 6), ("bees", 1), ("bees", 2), ("bees", 3)]:
        (tmp_path / "train" / name / f"img_{number}.png").unlink()
    return tmp_path


def write(root, rows, header="subject,classname,img"):
    (root / "drivers.csv").write_text("\n".join([header, *rows]) + "\n")


def listed(root, groups="drivers.csv:subject", source="folder"):
    return build_manifest(DatasetSpec("x", source, root, groups), root / "artifacts")


def test_join_by_file_name(root):
    write(root, [f"p{n % 2},{name},img_{n}.png" for name, n in ROWS[::-1]] + ["p9,ants,img_99.png"])
    manifest = listed(root)
    assert manifest.splits["train"].groups == ["p1", "p0", "p1", "p0", "p1", "p0"]
    assert manifest.settings == {"source": "folder", "groups": "subject"}
    assert listed(root, "").key != manifest.key
    assert listed(root, f"{root}/drivers.csv:subject").key == manifest.key


def test_join_by_row_id(root):
    write(root, [f"p{n},{name}/img_{n}.png" for name, n in ROWS], "subject,file")
    assert listed(root).splits["train"].groups == ["p1", "p2", "p3", "p4", "p5", "p6"]


def test_rows_without_a_group(root):
    write(root, [f"p1,{name},img_{n}.png" for name, n in ROWS if n not in (2, 3)] + [",ants,img_2.png"])
    with pytest.raises(
        SourceError, match=r"2 of 6 training rows have no group in column 'subject': 'ants/img_2.png', 'ants/img_3"
    ):
        listed(root)


def test_no_column_matches(root):
    write(root, ["p1,ants,foto.png"])
    with pytest.raises(
        SourceError, match=r"no training row's name, such as 'img_1.png', is in a column: classname, img"
    ):
        listed(root)


def test_names_that_repeat_need_a_class_column(tmp_path):
    make_folder(tmp_path, {"ants": 2, "bees": 2})
    write(tmp_path, ["p1,img_1.png", "p2,img_2.png"], "subject,img")
    with pytest.raises(
        SourceError, match=r"name='img_1.png' is that of several images or groups: add a column of class names"
    ):
        listed(tmp_path)
    write(tmp_path, [f"p{name}{n},{name},img_{n}.png" for name in ("bees", "ants") for n in (1, 2)])
    assert listed(tmp_path).splits["train"].groups == ["pants1", "pants2", "pbees1", "pbees2"]
    write(tmp_path, [f"p{k},{name},img_{n}.png" for k, name in enumerate(("ants", "bees", "ants")) for n in (1, 2)])
    with pytest.raises(SourceError, match=r"'img_1.png' of class 'ants' has two groups, 'p0' and 'p2'"):
        listed(tmp_path)


def test_one_name_with_two_groups(root):
    write(root, [f"p1,img_{n}.png" for _, n in ROWS] + ["p2,img_3.png"], "subject,img")
    with pytest.raises(SourceError, match=r"name='img_3.png' is that of several"):
        listed(root)


@pytest.mark.parametrize(
    ("groups", "text", "message"),
    [
        ("none.csv:subject", "", "none.csv, the table of .Dataset. groups, is missing"),
        (
            "drivers.csv:subjct",
            "subject,img\np1,a\n",
            "has no column 'subjct', but subject, img, did you mean subject",
        ),
        ("drivers.csv:subject", "subject,img\np1\n", "line 2 has 1 fields, line 1 has 2"),
        ("drivers.csv:subject", "", "has no column 'subject'"),
        ("drivers.csv:subject", "subject\np1\n", r"is in a column: \(none\)"),
    ],
)
def test_faulty_tables(root, groups, text, message):
    (root / "drivers.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        listed(root, groups)


def test_idx_rows_join_by_id(tmp_path):
    make_idx(tmp_path, greys(), [0, 1] * 3)
    write(tmp_path, [f"w{n % 3},train-{n}" for n in range(1, 7)], "writer,id")
    assert listed(tmp_path, "drivers.csv:writer", "idx").splits["train"].groups == ["w1", "w2", "w0"] * 2
    assert stored_manifest(tmp_path / "artifacts")["settings"] == {"source": "idx", "groups": "writer"}


FORMS = {
    "row ids": "{name}/{file}.png",
    "paths": "train/{name}/{file}.png",
    "paths from here": "./train/{name}/{file}.png",
    "paths from elsewhere": "imgs/train/{name}/{file}.png",
    "paths without suffix": "data/train/{name}/{file}",
    "row ids without suffix": "{name}/{file}",
    "file names": "{file}.png",
    "stems": "{file}",
    "stems of other files": "{file}.JPEG",
    "files in other folders": "raw/{file}.png",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("stem", ["img_{}", "1.2.840.{}", "caf\u00e9 {}"])
def test_rows_are_found_however_the_table_calls_them(tmp_path, form, stem):
    make_folder(tmp_path, {"ants": 3, "bees": 6})
    for name, number in ROWS:
        place = tmp_path / f"train/{name}/img_{number}.png"
        place.rename(place.with_name(f"{stem.format(number)}.png"))
    for number in (1, 2, 3):
        (tmp_path / f"train/bees/img_{number}.png").unlink()
    rows = [f"p{number},{form.format(name=name, file=stem.format(number))}" for name, number in ROWS[::-1]]
    write(tmp_path, [*rows, "p9,test/ants/other.png"], "subject,img")
    assert listed(tmp_path).splits["train"].groups == ["p1", "p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(root, sign, encoding):
    rows = [sign.join(("subject", "img")), *(sign.join((f"p{n % 2}", f"img_{n}.png")) for _, n in ROWS), sign, ""]
    (root / "drivers.csv").write_bytes("\r\n".join(rows).encode(encoding))
    assert listed(root).splits["train"].groups == ["p1", "p0"] * 3


def test_one_rule_for_accents_in_headers_names_classes_and_groups(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    make_folder(tmp_path, {composed: 2, "bees": 2})
    rows = [
        f"{apart},bees,img_1.png",
        f"{composed},bees,img_2.png",
        f"x,{apart},img_1.png",
        f"{composed},{apart},img_2.png",
    ]
    (tmp_path / "drivers.csv").write_text("\n".join([f"{apart},class,img", *rows]) + "\n")
    groups = listed(tmp_path, f"drivers.csv:{composed}").splits["train"].groups
    assert groups == [apart, apart, "x", apart], "one group, written as it was first"


def test_a_table_half_matched_tells_both_sides(root):
    write(root, [f"p1,img_{n}.png" for n in (1, 2, 3)] + ["p2,img_04.png", "p2,img_05.png"], "subject,img")
    with pytest.raises(SourceError) as told:
        listed(root)
    assert "3 of 6 training rows have no group in column 'subject': 'bees/img_4.png', 'bees/img_5.png'" in str(
        told.value
    )
    assert "2 of 5 names in column 'img' are no training row's: 'img_04.png', 'img_05.png'" in str(told.value)


def test_another_rows_conflict_is_nobodys_business(root):
    write(root, [*(f"p{n},img_{n}.png" for _, n in ROWS), "p1,img_99.png", "p2,img_99.png"], "subject,img")
    assert len({*listed(root).splits["train"].groups}) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("subject,img\n".encode("utf-16-le"), "is text that is not UTF-8"),
        (b"subject,img,img\np1,a,b\n", "has columns 'img' and 'img', which are the same name"),
        (b"\x1f\x8bxx", "is damaged data"),
        (b"PK\3\4xxxx", "a zip that can't be unpacked"),
        (b"subject,\np1,a\n", r"is in a column: column 2"),
    ],
)
def test_what_is_no_table_is_one_line(root, content, message):
    (root / "drivers.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message) as told:
        listed(root)
    assert "\n" not in str(told.value)
