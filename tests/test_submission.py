"""Submissions as Kaggle wants them: R6, R13, R16."""

import csv
import gzip
import zipfile

import numpy as np
import pytest

from featcache.ensemble.submission import write_submission_file
from featcache.errors import SubmissionError
from featcache.settings.specs import SubmissionSpec

TEN = tuple(f"c{i}" for i in range(10))


def lines(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as stream:
        return list(csv.reader(stream))


def uniform(n, classes, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


def test_state_farm_form_by_its_sample_in_its_order(tmp_path):
    sample = tmp_path / "sample_submission.csv"
    columns = ("img", "c0", *[f"c{i}" for i in range(9, 0, -1)])
    sample.write_text(",".join(columns) + "\r\n" + "".join(f"img_{i}.jpg{',0.1' * 10}\r\n" for i in (2, 10, 1)))
    values = uniform(3, 10)
    spec = SubmissionSpec(format="probabilities", gzip=True)
    path = tmp_path / "submission.csv.gz"
    report = write_submission_file(path, ["img_1.jpg", "img_2.jpg", "img_10.jpg"], values, TEN, spec, sample)
    table = lines(path)
    assert tuple(table[0]) == columns == report.columns
    assert [row[0] for row in table[1:]] == ["img_2.jpg", "img_10.jpg", "img_1.jpg"]
    written = np.array([row[1:] for row in table[1:]], float)
    assert np.allclose(written, values[[1, 2, 0]][:, [0, *range(9, 0, -1)]], rtol=1e-6)
    assert report.notices == ()


def test_same_predictions_same_bytes(tmp_path):
    spec = SubmissionSpec(format="probabilities", gzip=True)
    for name in ("a.csv.gz", "b.csv.gz"):
        write_submission_file(tmp_path / name, ["1", "2"], uniform(2, 3), ("x", "y", "z"), spec)
    content = (tmp_path / "a.csv.gz").read_bytes()
    assert content == (tmp_path / "b.csv.gz").read_bytes()
    assert content[4:8] == b"\0\0\0\0"
    assert not content[3] & 0x08  # no file name


def test_digit_recognizer_form(tmp_path):
    values = np.eye(10)[[3, 0]]
    spec = SubmissionSpec(columns=("ImageId", "Label"))
    write_submission_file(tmp_path / "s.csv", ["1", "2"], values, [str(i) for i in range(10)], spec)
    assert (tmp_path / "s.csv").read_bytes() == b"ImageId,Label\n1,3\n2,0\n"


def test_cats_and_dogs_form_is_the_second_class(tmp_path):
    spec = SubmissionSpec(format="probabilities", columns=("id", "label"))
    write_submission_file(tmp_path / "s.csv", ["1.jpg"], np.array([[0.25, 0.75]]), ("cat", "dog"), spec)
    assert lines(tmp_path / "s.csv") == [["id", "label"], ["1.jpg", "0.75"]]


def test_one_column_named_like_a_class_is_that_class(tmp_path):
    spec = SubmissionSpec(format="probabilities", columns=("id", "cat"))
    write_submission_file(tmp_path / "s.csv", ["1.jpg"], np.array([[0.25, 0.75]]), ("cat", "dog"), spec)
    assert lines(tmp_path / "s.csv")[1] == ["1.jpg", "0.25"]


def test_intel_form_and_columns_by_default(tmp_path):
    names = ("Type_1", "Type_2", "Type_3")
    spec = SubmissionSpec(format="probabilities", columns=("image_name", *names))
    write_submission_file(tmp_path / "s.csv", ["0.jpg"], np.array([[0.5, 0.3, 0.2]]), names, spec)
    assert lines(tmp_path / "s.csv")[0] == ["image_name", *names]
    write_submission_file(tmp_path / "s.csv", ["0.jpg"], np.array([[0.5, 0.3, 0.2]]), names,
                     SubmissionSpec(format="probabilities"))  # fmt: skip
    assert lines(tmp_path / "s.csv")[0] == ["id", *names]


def test_columns_that_name_no_class_are_never_matched_by_position(tmp_path):
    spec = SubmissionSpec(format="probabilities", columns=("img", "p0", "p1"))
    with pytest.raises(
        SubmissionError,
        match=r"columns after the id \(p0, p1\) are not .* 2 classes \(ant, bee\); .* columns = img, p0 = CLASS, ...",
    ):
        write_submission_file(tmp_path / "s.csv", ["a"], np.array([[0.25, 0.75]]), ("ant", "bee"), spec)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["test/b/1.jpg", "test/a/2.jpg"], ["2.jpg", "1.jpg"]),
        (["x/1.jpg", "x/2.png"], ["2", "1"]),
        (["u/1.jpg", "v/1.jpg"], ["test/v/1.jpg", "test/u/1.jpg"]),
        (["bl\u00fcte.jpg", "rose.jpg"], ["rose", "blu\u0308te"]),  # as macOS packs it
    ],
)
@pytest.mark.parametrize("kind", ["csv", "gz", "zip"])
def test_ids_match_by_name_stem_or_path(tmp_path, ours, theirs, kind):
    text = "id,label\n" + "".join(f"{row_id},x\n" for row_id in theirs)
    sample = tmp_path / f"sample.csv.{kind}"
    if kind == "gz":
        sample.write_bytes(gzip.compress(text.encode()))
    elif kind == "zip":
        with zipfile.ZipFile(sample, "w") as archive:
            archive.writestr("sample_submission.csv", text)
    else:
        sample.write_text(text)
    write_submission_file(
        tmp_path / "s.csv", ours, np.array([[1.0, 0], [0, 1.0]]), ("x", "y"), SubmissionSpec(), sample
    )
    assert lines(tmp_path / "s.csv")[1:] == [[theirs[0], "y"], [theirs[1], "x"]]


def test_other_ids_are_one_line_with_numbers(tmp_path):
    sample = tmp_path / "sample.csv"
    sample.write_text("id,label\n1.jpg,0\n2.jpg,0\n9.jpg,0\n")
    with pytest.raises(
        SubmissionError, match=r"1 of 3 have no image \('9.jpg'\) and 2 of 4 .*'3.jpg', '4.jpg'"
    ) as told:
        write_submission_file(tmp_path / "s.csv", [f"{i}.jpg" for i in (1, 2, 3, 4)], uniform(4, 2), ("x", "y"),
                         SubmissionSpec(), sample)  # fmt: skip
    assert "\n" not in str(told.value)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    ("columns", "format_", "message"),
    [
        (("id", "c0", "c1"), "probabilities", r"the id \(c0, c1\) are not one for each of 3 classes \(c0, c1, c2\)"),
        (("id", "c0", "c1", "x"), "probabilities", "unknown: x"),
        (("id", "c0", "c1", "c2"), "labels", "4 columns .*, where format=labels has 2"),
    ],
)
def test_other_columns_are_refused(tmp_path, columns, format_, message):
    with pytest.raises(SubmissionError, match=message):
        write_submission_file(tmp_path / "s.csv", ["a"], uniform(1, 3), ("c0", "c1", "c2"),
                         SubmissionSpec(format=format_, columns=columns))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"id,label\n", "lines=1"), (b"", "lines=0"), (b"id,l\n1,2\n2\n", "line 3 has 1 values"),
     (b"id,l\n1,2\n1,2\n", "id='1' is there twice"), (b"\xff\xfe\x00", "is no sample"), (b"\x1f\x8bxx", "is no sample")],
)  # fmt: skip
def test_damaged_samples_are_refused(tmp_path, content, message):
    sample = tmp_path / "sample.csv"
    sample.write_bytes(content)
    with pytest.raises(SubmissionError, match=message):
        write_submission_file(tmp_path / "s.csv", ["1"], uniform(1, 2), ("x", "y"), SubmissionSpec(), sample)


def test_values_that_are_no_probabilities_name_the_row(tmp_path):
    with pytest.raises(SubmissionError, match="first id='b'"):
        write_submission_file(
            tmp_path / "s.csv", ["a", "b"], np.array([[0.5, 0.5], [np.nan, 1]]), ("x", "y"), SubmissionSpec()
        )


def test_rejected_rows_are_counted_and_told(tmp_path):
    report = write_submission_file(
        tmp_path / "s.csv", ["a", "b"], uniform(2, 2), ("x", "y"), SubmissionSpec(), None, rejected=1
    )
    assert report.rows == 2
    assert "1 of 2 test images" in report.notices[0]


def test_small_probabilities_keep_their_digits(tmp_path):
    values = np.array([[1 - 3.14159e-9, 3.14159e-9]])
    write_submission_file(tmp_path / "s.csv", ["a"], values, ("x", "y"), SubmissionSpec(format="probabilities"))
    assert float(lines(tmp_path / "s.csv")[1][2]) == pytest.approx(3.14159e-9)
    assert sum(map(float, lines(tmp_path / "s.csv")[1][1:])) == pytest.approx(1, abs=1e-6)
