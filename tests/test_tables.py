"""Tables of pixels as other competitions write them: names of columns, ids, separators, packings, encodings."""

import zipfile

import numpy as np
import pytest
from images import greys, table
from listings import build_manifest

from featcache.dataset.sources.source import open_source
from featcache.errors import SourceError
from featcache.settings.specs import DatasetSpec

IMAGES, LABELS = greys(), [7, 3, 7, 3, 9, 9]
ORDER = np.arange(16)


def lines(names, ids=None, labels=LABELS, sign=","):
    """The text of a table of IMAGES; `ids` is (name, values)."""
    header = [*([ids[0]] if ids else []), *(["label"] if labels else []), *names]
    rows = [header]
    for row, image in enumerate(IMAGES):
        first = [*([ids[1][row]] if ids else []), *([labels[row]] if labels else [])]
        rows.append([*first, *image.ravel().tolist()])
    return "".join(sign.join(map(str, row)) + "\n" for row in rows)


def listed(root):
    return build_manifest(DatasetSpec("x", "csv", root), root / "artifacts")


def pixels(root, rows):
    source = open_source(DatasetSpec("x", "csv", root))
    return np.stack([source.load(*where, 4) for where in zip(rows.locations, rows.digests, strict=True)])[..., 0]


NAMES = {
    "from 0": [f"pixel{number}" for number in range(16)],
    "from 1": [f"pixel{number}" for number in range(1, 17)],
    "in capitals": [f"Pixel{number}" for number in range(16)],
    "underscored": [f"pixel_{number:03d}" for number in range(16)],
    "short": [f"px{number}" for number in range(16)],
    "row x column": [f"{row}x{column}" for row in range(1, 5) for column in range(1, 5)],
    "row x column from 0": [f"{row}x{column}" for row in range(4) for column in range(4)],
    "pixel row x column": [f"pixel{row}X{column}" for row in range(4) for column in range(4)],
}


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_pixels_are_found_whatever_their_columns_are_called(tmp_path, names, sign):
    (tmp_path / "train.csv").write_text(table(IMAGES, LABELS))
    key = listed(tmp_path).key
    (tmp_path / "train.csv").write_text(lines(names, sign=sign))
    (tmp_path / "test.csv").write_text(lines(names, labels=None, sign=sign))
    manifest = listed(tmp_path)
    np.testing.assert_array_equal(pixels(tmp_path, manifest.splits["train"]), IMAGES)
    np.testing.assert_array_equal(pixels(tmp_path, manifest.splits["test"]), IMAGES)
    (tmp_path / "test.csv").unlink()
    assert listed(tmp_path).key == key, "the same pixels are the same rows"


def test_row_x_column_gives_images_of_any_shape_in_any_order(tmp_path):
    names = [f"{row}x{column}" for row in range(1, 3) for column in range(1, 9)]
    (tmp_path / "train.csv").write_text(lines(names))
    straight = listed(tmp_path)
    texts = [line.split(",")[::-1] for line in lines(names).splitlines()]
    (tmp_path / "train.csv").write_text("".join(",".join(line) + "\n" for line in texts))
    assert listed(tmp_path).key == straight.key
    source = open_source(DatasetSpec("x", "csv", tmp_path))
    assert source._read()["train"].images.shape == (6, 2, 8)


@pytest.mark.parametrize("name", ["id", "ImageId", "image_id", "index", "Id"])
def test_ids_of_the_table_are_the_rows_ids(tmp_path, name):
    ids = ["007", "7", "NA", "a,b", "café", "1.2.840.1"]
    quoted = [f'"{each}"' for each in ids]
    (tmp_path / "train.csv").write_text(lines(NAMES["from 0"], (name, quoted)))
    (tmp_path / "test.csv").write_text(lines(NAMES["from 0"], (name, quoted[::-1]), labels=None))
    manifest = listed(tmp_path)
    assert manifest.splits["train"].ids == ids
    assert manifest.splits["test"].ids == ids[::-1]
    np.testing.assert_array_equal(pixels(tmp_path, manifest.splits["train"]), IMAGES)


def fails(root, match):
    with pytest.raises(SourceError, match=match) as caught:
        listed(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(NAMES["from 0"], ("id", [1, 2, 3, 4, 5, 1])), "id='1' occurs twice: make ids unique"),
        (lines(NAMES["from 0"], ("id", [1, 2, 3, "", 5, 6])), "id='' in row 4 is no id: give each row one"),
        (lines(NAMES["from 0"], ("", [1, 2, 3, 4, 5, 6])), "column '' is none of"),
        (lines([*NAMES["from 0"], "x"], ("id", [1, 2, 3, 4, 5, 6])), "column 'x' is none of"),
        (lines([*NAMES["row x column"][:-1], "5x4"]), "column 4x4 is missing of 1x1 to 5x4"),
        (lines([f"pixel{number}" for number in range(2, 18)]), "pixel0 is missing"),
        (lines(NAMES["from 0"], sign=";").replace("\n7;", "\n7;x", 1), "line 2, column pixel0: 'x.*' is not a whole"),
    ],
)
def test_other_tables_are_one_line(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    fails(tmp_path, message)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_one_line(tmp_path, encoding):
    (tmp_path / "train.csv").write_bytes(table(IMAGES, LABELS).encode(encoding))
    fails(tmp_path, "save it as UTF-8")


def test_an_encrypted_or_crowded_zip_is_one_line(tmp_path):
    path = tmp_path / "train.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.csv", table(IMAGES, LABELS))
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)
    fails(tmp_path, "train.csv.zip is an encrypted zip: unpack it")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    fails(tmp_path, "a zip with 2 CSV files inside, not one")
