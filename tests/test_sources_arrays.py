import gzip
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from images import greys, idx1, idx3, make_idx, table
from listings import build_manifest

from featcache.dataset.decoding.decode import resize_rgb
from featcache.dataset.listing import list_files, list_images
from featcache.dataset.sources.source import open_source
from featcache.errors import SourceChangedError, SourceError
from featcache.settings.specs import DatasetSpec

IMAGES, LABELS = greys(), [7, 3, 7, 3, 9, 9]


def listed(source, root):
    return build_manifest(DatasetSpec("x", source, root), root / "artifacts")


def fails(source, root, match):
    with pytest.raises(SourceError, match=match) as caught:
        listed(source, root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


def load_all(source, root, rows, size=8):
    opened = open_source(DatasetSpec("x", source, root))
    return np.stack([opened.load(*where, size) for where in zip(rows.locations, rows.digests, strict=True)])


def test_digits(tmp_path):
    spec = DatasetSpec()
    manifest = build_manifest(spec, tmp_path)
    train, test = manifest.splits["train"], manifest.splits["test"]
    assert manifest.class_names == tuple("0123456789")
    assert (len(train), len(test)) == (1438, 359)
    assert sorted([*train.ids, *test.ids]) == [f"digit-{n:04d}" for n in range(1, 1798)]
    assert test.ids[:3] == ["digit-0004", "digit-0008", "digit-0014"]  # the same on every machine
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert abs(shares - 0.2).max() < 0.003


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    manifest = build_manifest(DatasetSpec(), tmp_path)
    reference = load_digits()
    source = open_source(DatasetSpec())
    rows = manifest.splits["test"]
    for row, label, location, digest in zip(rows.ids[:40], rows.labels, rows.locations, rows.digests, strict=False):
        index = int(row.removeprefix("digit-")) - 1
        grey = np.rint(reference.images[index] * 255 / 16 + 1e-9).astype(np.uint8)
        np.testing.assert_array_equal(source.load(location, digest, 8), resize_rgb(grey, 8))
        assert label == reference.target[index]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("test", [None, LABELS])
def test_idx(tmp_path, packed, test):
    make_idx(tmp_path, IMAGES, LABELS, test, packed)
    manifest = listed("idx", tmp_path)
    assert manifest.class_names == ("3", "7", "9")
    assert manifest.splits["train"].ids == [f"train-{n}" for n in range(1, 7)]
    assert manifest.splits["train"].labels.tolist() == [1, 0, 1, 0, 2, 2]
    assert manifest.splits["test"].ids == [str(n) for n in range(1, 7)]
    assert manifest.splits["test"].labels.tolist() == ([-1] * 6 if test is None else [1, 0, 1, 0, 2, 2])
    decoded = load_all("idx", tmp_path, manifest.splits["train"], 4)
    np.testing.assert_array_equal(decoded, np.stack([IMAGES] * 3, axis=-1))


def test_idx_of_oblong_images_and_the_shape_counts(tmp_path):
    make_idx(tmp_path, IMAGES.reshape(6, 2, 8), LABELS)
    oblong = listed("idx", tmp_path)
    assert load_all("idx", tmp_path, oblong.splits["train"]).shape == (6, 8, 8, 3)
    make_idx(tmp_path, IMAGES.reshape(6, 8, 2), LABELS)
    assert listed("idx", tmp_path).splits["train"].digests[0] != oblong.splits["train"].digests[0]


def test_idx_test_prefix_and_other_files(tmp_path):
    make_idx(tmp_path, IMAGES, LABELS)
    (tmp_path / "t10k-images-idx3-ubyte").rename(tmp_path / "test-images-idx3-ubyte")
    (tmp_path / "README").write_text("")
    manifest = listed("idx", tmp_path)
    assert len(manifest.splits["test"]) == 6
    assert manifest.left_out == {"not train-*, t10k-* or test-* idx files": 1}


TRAIN3, TRAIN1 = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            TRAIN3,
            b"\0\0\x08\x01" + idx3(IMAGES)[4:],
            "magic=0x00000801 instead of 0x00000803",
        ),
        (TRAIN3, idx3(IMAGES)[:-1], "has 111 bytes; 6 images of 4x4 pixels take 112: download"),
        (TRAIN3, idx3(IMAGES) + b"x", "has 113 bytes; .* take 112"),
        (TRAIN3, b"", "has 0 bytes; an idx header takes 16"),
        (TRAIN3, idx3(IMAGES[:, :0]), "6 images of 0x4"),
        (TRAIN1, idx1(LABELS)[:-1], "has 13 bytes; 6 labels take 14"),
        (TRAIN1, idx1(LABELS[:4]), "has 4 labels for 6 images"),
        (TRAIN1, idx3(IMAGES), "magic=0x00000803 instead of 0x00000801"),
        (TRAIN1, idx1([3] * 6), "has only class '3', at least 2 classes"),
        ("t10k-labels-idx1-ubyte", idx1([3, 3, 3, 3, 3, 5]), "t10k.*label=5 does not occur in training, which has 3"),
    ],
)
def test_idx_faults(tmp_path, name, content, message):
    make_idx(tmp_path, IMAGES, LABELS)
    (tmp_path / name).write_bytes(content)
    fails("idx", tmp_path, f"{name}.*{message}" if name != "t10k-labels-idx1-ubyte" else message)


def test_idx_without_images_or_rows(tmp_path):
    fails("idx", tmp_path, "has no file train-.-idx3-ubyte")
    make_idx(tmp_path, IMAGES[:0], [])
    fails("idx", tmp_path, "has no training images")
    (tmp_path / TRAIN1).unlink()
    fails("idx", tmp_path, "has no file train-.-idx1-ubyte")


@pytest.mark.parametrize("damage", [lambda c: c[:-20], lambda c: c[:30] + b"\xff\xff" + c[32:], lambda _: b"plain"])
def test_damaged_gzip(tmp_path, damage):
    make_idx(tmp_path, IMAGES, LABELS, packed=True)
    path = tmp_path / f"{TRAIN3}.gz"
    path.write_bytes(damage(path.read_bytes()))
    fails("idx", tmp_path, f"{path.name} is a damaged gzip file")


def write_tables(root, train, test=None):
    (root / "train.csv").write_bytes(train.encode())
    if test is not None:
        (root / "test.csv").write_bytes(test.encode())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "gz", "zip"])
def test_csv(tmp_path, end, kind):
    write_tables(tmp_path, table(IMAGES, LABELS, end), table(IMAGES[:2], None, end))
    for path in list(tmp_path.glob("*.csv")) if kind != "csv" else []:
        if kind == "gz":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            with zipfile.ZipFile(path.with_name(f"{path.name}.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(path, path.name)
        path.unlink()
    manifest = listed("csv", tmp_path)
    assert manifest.class_names == ("3", "7", "9")
    assert manifest.splits["train"].ids[-1] == "train-6"
    assert manifest.splits["test"].ids == ["1", "2"]
    assert manifest.splits["test"].labels.tolist() == [-1, -1]
    decoded = load_all("csv", tmp_path, manifest.splits["train"], 4)
    np.testing.assert_array_equal(decoded, np.stack([IMAGES] * 3, axis=-1))


def test_csv_and_idx_of_the_same_pixels_have_the_same_digests(tmp_path):
    write_tables(tmp_path, table(IMAGES, LABELS))
    make_idx(tmp_path, IMAGES, LABELS)
    assert listed("csv", tmp_path).splits["train"].digests == listed("idx", tmp_path).splits["train"].digests


def test_csv_columns_are_found_by_name(tmp_path):
    shuffled = "\ufeff" + "\n".join(",".join(line.split(",")[::-1]) for line in table(IMAGES, LABELS).split("\n"))
    write_tables(tmp_path, table(IMAGES, LABELS))
    straight = listed("csv", tmp_path)
    write_tables(tmp_path, shuffled)
    assert listed("csv", tmp_path).key == straight.key


def test_csv_in_several_chunks(tmp_path):
    images = greys(9000, 2)
    write_tables(tmp_path, table(images, [row % 3 for row in range(9000)]))
    train = listed("csv", tmp_path).splits["train"]
    assert train.labels.tolist() == [row % 3 for row in range(9000)]
    lines = table(images, [0, 1] * 4500).split("\n")
    lines[8765] = lines[8765].rpartition(",")[0] + ",x"
    write_tables(tmp_path, "\n".join(lines))
    fails("csv", tmp_path, "train.csv, line 8766, column pixel3: 'x' is not a whole number from 0 to 255")


def edited(line, column, value):
    lines = [text.split(",") for text in table(IMAGES, LABELS).splitlines()]
    lines[line - 1][column] = value
    return "\n".join(map(",".join, lines)) + "\n"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", "has no header line"),
        (table(IMAGES, LABELS).split("\n")[0] + "\n", "has no training images"),
        (edited(1, 0, "digit"), "line 1: column 'label' is missing"),
        (edited(1, 4, "pixel99"), "column pixel3 is missing of pixel0 to pixel99"),
        (edited(1, 4, "pixel2"), "column 'pixel2' occurs twice"),
        (edited(1, 4, "weight"), "column 'weight' is none of label, pixel0"),
        ("label\n1\n", "pixel0 is missing"),
        (table(IMAGES.reshape(6, -1)[:, :15], LABELS), "15 pixel columns are no square image"),
        (edited(3, 5, "300"), "line 3, column pixel4: '300' is not a whole number from 0 to 255"),
        (edited(3, 5, "-1"), "line 3, column pixel4: '-1' is not"),
        (edited(3, 5, "3.5"), "line 3, column pixel4: '3.5' is not"),
        (edited(3, 5, "abc"), "line 3, column pixel4: 'abc' is not"),
        (edited(3, 5, ""), "line 3, column pixel4: '' is not"),
        (edited(3, 5, "NA"), "line 3, column pixel4: 'NA' is not"),
        (edited(3, 5, "99999999999999999999999"), "line 3, column pixel4"),
        (edited(3, 0, "cat"), "line 3, column label: 'cat' is not a whole number: "),
        (edited(3, 0, "1.5"), "line 3, column label: '1.5' is not"),
        (edited(3, 0, "3,3"), "line 3 has 18 fields, line 1 has 17"),
        (edited(2, 0, "3,3"), "line 2 has 18 fields, line 1 has 17"),
        (table(IMAGES, LABELS) + "1,2\n", "line 8 has 2 fields, line 1 has 17"),
    ],
)
def test_csv_faults(tmp_path, train, message):
    write_tables(tmp_path, train)
    fails("csv", tmp_path, f"train.csv.*{message}")


def test_csv_faults_in_test_and_around(tmp_path):
    fails("csv", tmp_path, "has no train.csv, train.csv.gz or train.csv.zip")
    write_tables(tmp_path, table(IMAGES, LABELS), table(IMAGES, LABELS))
    fails("csv", tmp_path, "test.csv, line 1: column 'label' is none of pixel0")
    write_tables(tmp_path, table(IMAGES, LABELS), '"1,2\n')
    fails("csv", tmp_path, "test.csv")
    write_tables(tmp_path, table(IMAGES, LABELS), table(IMAGES) + '"' + "1" * 200_000)
    fails("csv", tmp_path, "test.csv")
    (tmp_path / "test.csv").write_bytes(b"\xff\xfe\x00")
    fails("csv", tmp_path, "test.csv is text that is not UTF-8|test.csv: line 1 is no UTF-8 text")


@pytest.mark.parametrize("name", ["train.csv.gz", "train.csv.zip"])
def test_csv_damaged_archive(tmp_path, name):
    (tmp_path / name).write_bytes(b"no archive")
    fails("csv", tmp_path, f"{name} is damaged data")


def test_load_finds_changed_rows(tmp_path):
    make_idx(tmp_path, IMAGES, LABELS)
    rows = listed("idx", tmp_path).splits["train"]
    make_idx(tmp_path, IMAGES[::-1], LABELS)
    with pytest.raises(SourceChangedError, match="image train:0 changed after indexing: run again"):
        load_all("idx", tmp_path, rows)
    make_idx(tmp_path, IMAGES[:2], LABELS[:2])
    with pytest.raises(SourceChangedError, match="train:5"):
        open_source(DatasetSpec("x", "idx", tmp_path)).load("train:5", rows.digests[5], 8)


def test_files_that_come_or_go_while_listing(tmp_path):
    make_idx(tmp_path, IMAGES, LABELS)
    spec = DatasetSpec("x", "idx", tmp_path)
    seen = list_files(spec)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx1(LABELS))
    with pytest.raises(SourceChangedError, match=r"files came or went .*t10k-labels-idx1-ubyte.*: run again"):
        list_images(spec, tmp_path / "artifacts", files=seen)
    (tmp_path / "train-extra-idx3-ubyte").write_bytes(b"")
    fails("idx", tmp_path, "has several train-.-idx3-ubyte files, train-extra-idx3-ubyte and train-images")


def test_many_threads_read_the_file_once(tmp_path, monkeypatch):
    from featcache.dataset.sources import idx

    make_idx(tmp_path, IMAGES, LABELS)
    rows = listed("idx", tmp_path).splits["train"]
    calls = []
    original = idx._images
    monkeypatch.setattr(idx, "_images", lambda path: calls.append(path) or original(path))
    source = open_source(DatasetSpec("x", "idx", tmp_path))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: source.load(rows.locations[0], rows.digests[0], 8), range(64)))
    assert len(calls) == 2  # train and test


@pytest.mark.shared
def test_mnist(shared, tmp_path):
    manifest = build_manifest(DatasetSpec("mnist", "idx", shared / "data" / "mnist"), tmp_path)
    assert {name: len(rows) for name, rows in manifest.splits.items()} == {"train": 60000, "test": 10000}
    assert np.bincount(manifest.splits["test"].labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
