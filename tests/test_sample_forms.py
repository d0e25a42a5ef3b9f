"""Sample submissions in every form that people have them in: written right, or refused in one line; never a traceback."""

import csv
import gzip
import io
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from featcache.core.names import composed
from featcache.ensemble.columns import layout_of, submission_format
from featcache.ensemble.sample_submission import find_sample, match_ids, read_sample
from featcache.ensemble.submission import write_submission_file
from featcache.errors import SettingsError, SubmissionError
from featcache.settings.specs import SubmissionSpec

PROBABILITIES = SubmissionSpec(format="probabilities")
CLASSES = ("caf\u00e9", "Red car", "dog")
IDS = ("1.2.840.1.png", "a.v1.JPG", "\u00e9.jpg", "007.png")
VALUES = np.random.default_rng(3).dirichlet(np.ones(3), 4)


def read_back(path):
    """The submission by the csv module; pandas must read the same."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    with pd.option_context("mode.string_storage", "python"):  # Arrow's texts are UTF-8 alone
        frame = pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    assert frame.to_numpy().tolist() == rows
    return header, rows


def holds(path, ids, classes, values, columns):
    """Whether each row holds the probabilities of its own class columns, in the sample's order."""
    header, rows = read_back(path)
    assert header[1:] == [name for name, _ in columns]
    for name, *numbers in rows:
        expected = [values[ids.index(name), place] for _, place in columns]
        assert np.allclose(np.array(numbers, float), expected, rtol=1e-6)


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_encodings_quotes_and_line_ends(tmp_path, sign, encoding, quoting, end):
    names = ["dog", "RED_CAR", "cafe\u0301"]
    ids = ["007", "1.2.840.1", "a.v1", "e\u0301"]
    text = io.StringIO(newline="")
    lines = csv.writer(text, delimiter=sign, quoting=quoting, lineterminator=end)
    lines.writerows([["id", *names], *([name, "0,3", "0", "1"] for name in ids), ["", "", "", ""]])
    (tmp_path / "s.csv").write_bytes(text.getvalue().encode(encoding))
    report = write_submission_file(tmp_path / "o.csv", IDS, VALUES, CLASSES, PROBABILITIES, tmp_path / "s.csv")
    header, rows = read_back(tmp_path / "o.csv")
    assert header == ["id", *names]
    assert [row[0] for row in rows] == ids
    assert np.allclose(np.array([row[1:] for row in rows], float), VALUES[[3, 0, 1, 2]][:, [2, 1, 0]], rtol=1e-6)
    assert any("are separated by" in notice for notice in report.notices) == (sign != ",")


def zipped(*files, flag=0):
    """The bytes of a zip, with a flag in all its headers."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files:
            archive.writestr(zipfile.ZipInfo(name), text)
    content = bytearray(stream.getvalue())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= flag
    return bytes(content)


GOOD = "id,label\n1,0\n2,0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(("s.csv", GOOD), flag=1), "an encrypted zip: unpack it"),
        (zipped(("a.csv", GOOD), ("b.csv", GOOD)), "a zip with 2 CSV files inside, not one"),
        (zipped(("a.txt", GOOD)), "a zip with 0 CSV files inside"),
        (zipped(("s.csv", GOOD))[:-30], "a zip that can't be unpacked"),
        (zipped(("s.csv", GOOD)).replace(b"1,0", b"9,9"), "damaged data"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "damaged data"),
        ("id,label\ncaf\u00e9,0\n".encode("latin-1"), "text that is not UTF-8 .*: save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "text that is not UTF-8 .*NUL.*: save it as UTF-8"),
        (b"id,label\n1,0\n,0\n", "line 3 has no id"),
        (b"id,label,\n1,0,\n", "column 3 has no name"),
        ("id,caf\u00e9,cafe\u0301\n1,0,0\n".encode(), "columns 'caf.xe9' and 'cafe.u0301' have the same name"),
        ("id,label\ncaf\u00e9,0\ncafe\u0301,0\n".encode(), "'caf.xe9' and 'cafe.u0301' are one name in two"),
        (b"\n\nid,label\n1,0\n\n2\n", "line 6 has 1 values, not the header's 2"),
        (b"id|label\n1|0\n", "lines=2, columns=1: it needs .* comma-separated, and rows"),
        (b'id,label\n"1,0\n2,0\n', "has 1 values, not the header's 2"),
    ],
)
def test_what_is_wrong_with_a_sample_is_one_line(tmp_path, content, message):
    path = tmp_path / "sample.csv"
    path.write_bytes(content)
    with pytest.raises(SubmissionError, match=message) as told:
        read_sample(path)
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)


def sample_of(tmp_path, text):
    (tmp_path / "s.csv").write_text(text)
    return read_sample(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["1.2.840.1.png", "1.2.840.2.png"], ["1.2.840.2", "1.2.840.1"]),
        (["a.v1.jpg", "a.v2.jpg"], ["a.v2", "a.v1"]),
        (["a.v1.JPEG", "a.v2.Tiff"], ["a.v2.png", "a.v1.dcm"]),
        (["a.jpg.png", "b.jpg.png"], ["b.jpg", "a.jpg"]),
        (["u/1.jpg", "v/1.jpg"], ["test/v/1", "test/u/1"]),
        (["u/1.jpg", "v/1.jpg"], ["data/test/v/1.png", "data/test/u/1.png"]),
        (["a", "b.c"], ["b.c", "a"]),
    ],
)
def test_dots_belong_to_ids_but_for_an_images_suffix(tmp_path, ours, theirs):
    sample = sample_of(tmp_path, "id,l\n" + "".join(f"{name},0\n" for name in theirs))
    assert match_ids(ours, sample).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("ours", "text", "message"),
    [
        (["007.png", "011.png"], "id,l\n7,0\n11,0\n", "they differ in leading zeros, which a spreadsheet drops"),
        (["A.png", "B.png"], "id,l\na,0\nb,0\n", "they differ in upper and lower case"),
        (["a.png", "b.png"], ",id,l\n0,a,0\n1,b,0\n", "first column has no name, like an index that pandas wrote"),
        (["a.png", "b.png"], "Unnamed: 0,id,l\n0,a,0\n1,b,0\n", "first column has no name"),
        (["a.v1", "a.v2"], "id,l\na.v3,0\na.v4,0\n", "2 of 2 have no image"),
        (["a b.png"], "id,l\na_b,0\n", "1 of 1 have no image"),
    ],
)
def test_ids_that_nearly_match_are_refused_with_the_likely_cause(tmp_path, ours, text, message):
    with pytest.raises(SubmissionError, match=message) as told:
        match_ids(ours, sample_of(tmp_path, text))
    assert "\n" not in str(told.value)


def test_a_nameless_id_column_is_an_id_column(tmp_path):
    assert match_ids(["a.png", "b.png"], sample_of(tmp_path, ",l\nb,0\na,0\n")).tolist() == [1, 0]


def test_test_images_of_one_name_in_two_forms_are_refused(tmp_path):
    with pytest.raises(SubmissionError, match=r"'\\xe9.png' and 'e\\u0301.png' are one name"):
        write_submission_file(tmp_path / "o.csv", ["\u00e9.png", "e\u0301.png"], VALUES[:2], CLASSES, PROBABILITIES)


@pytest.mark.parametrize(
    "name",
    ["sampleSubmission.csv", "SampleSubmission.csv.zip", "Sample_Submission.CSV", "sample-submission.csv.gz",
     "sample submissions.csv", "stage1_sample_submission.csv", "sample_submission.zip"],
)  # fmt: skip
def test_the_only_sample_of_a_folder_is_used_whatever_its_spelling(tmp_path, name):
    (tmp_path / name).write_text(GOOD)
    for other in ("train.csv", "._sampleSubmission.csv", "sample.csv", "submission.csv", "sampleSubmission.txt"):
        (tmp_path / other).write_text(GOOD)
    assert find_sample(None, tmp_path) == tmp_path / name


def test_of_several_samples_the_usual_name_counts_and_else_one_must_be_named(tmp_path):
    for name in (
        "sampleSubmission.csv",
        "stage2_sample_submission.csv",
        "sample_submission.csv",
        "sample_submission.zip",
    ):
        (tmp_path / name).write_text(GOOD)
    assert find_sample(None, tmp_path) == tmp_path / "sample_submission.csv"
    (tmp_path / "sample_submission.csv").unlink()
    assert find_sample(None, tmp_path) == tmp_path / "sample_submission.zip"
    (tmp_path / "sample_submission.zip").unlink()
    with pytest.raises(SettingsError, match=r"sampleSubmission.csv, stage2_sample_submission.csv: set it to one"):
        find_sample(None, tmp_path)
    named = tmp_path / "sampleSubmission.csv"
    assert find_sample(named, tmp_path) == named
    assert find_sample(None, tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("dog", ""),
        ("cafe\u0301", ""),
        ("", ""),
        ("Dog", "column label holds Dog"),
        ("0", "holds 0; the submission has the names of the class folders"),
        ("0.5", "set [Submission] format = probabilities"),
    ],
)
def test_labels_that_are_written_otherwise_than_the_classes_are_told(tmp_path, labels, said):
    sample = sample_of(tmp_path, f"id,label\n1,{labels}\n2,{labels}\n")
    notices = layout_of(SubmissionSpec(), CLASSES, sample).notices
    assert said in "".join(notices)
    assert bool(notices) == bool(said)


def test_class_names_where_probabilities_shall_be_written_are_refused(tmp_path):
    with pytest.raises(SubmissionError, match=r"holds Dog, no number .*: set .Submission. format = labels"):
        layout_of(PROBABILITIES, ("cat", "dog"), sample_of(tmp_path, "id,label\n1,Dog\n2,Dog\n"))
    assert layout_of(PROBABILITIES, ("0", "1"), sample_of(tmp_path, "id,label\n1,0\n2,0.5\n")).classes == (1,)


TWO, AUTO = ("cat", "dog"), SubmissionSpec(format="auto")


@pytest.mark.parametrize(
    ("sample", "classes", "metric", "form"),
    [
        (None, CLASSES, "log_loss", "probabilities"),
        (None, CLASSES, "roc_auc", "probabilities"),
        (None, CLASSES, "map@5", "top5"),
        (None, CLASSES, "qwk", "labels"),
        ("id,label\n1,dog\n", TWO, "log_loss", "labels"),
        ("id,label\n1,0.5\n", TWO, "accuracy", "probabilities"),
        ("id,label\n1,0\n2,0\n", ("0", "1"), "accuracy", "labels"),
        ("id,label\n1,0\n2,0\n", ("0", "1"), "roc_auc", "probabilities"),
        ("id,label\n1,3\n", ("0", "1", "3"), "qwk", "labels"),
        ("id,cat,dog\n1,0,0\n", TWO, "qwk", "probabilities"),
        ("id,label\n1,dog cat\n2,dog\n", (*TWO, "bird"), "log_loss", "top2"),
        ("id,label\n1,dog\n2,dog\n", (*TWO, "bird"), "map@3", "top3"),
        ("id,label\n1,red car\n2,dog\n", ("red car", "red", "car", "dog"), "log_loss", "labels"),
    ],
)
def test_auto_follows_the_sample_and_without_one_the_metric(tmp_path, sample, classes, metric, form):
    read = sample_of(tmp_path, sample) if sample else None
    assert submission_format(metric, classes, read) == form


@pytest.mark.parametrize(
    ("sample", "form", "metric", "said"),
    [
        ("id,label\n1,dog cat\n", "labels", "log_loss", "holds 2 classes a row, .*: set .Submission. format = top2"),
        ("id,label\n1,dog cat\n", "probabilities", "log_loss", "set .Submission. format = top2"),
        ("id,cat,dog\n1,0,0\n", "top2", "log_loss", "format=top2 has 2: set .Submission. format = probabilities"),
        ("id,label\n1,dog\n", "labels", "map@3", "metric=map@3 scores: set .Submission. format = top3"),
        ("id,label\n1,0\n", "labels", "roc_auc", "metric=roc_auc scores: set .Submission. format = probabilities"),
    ],
)
def test_a_format_that_the_sample_or_the_metric_contradicts_is_refused(tmp_path, sample, form, metric, said):
    with pytest.raises(SubmissionError, match=said):
        layout_of(SubmissionSpec(format=form), TWO, sample_of(tmp_path, sample), metric)


def test_the_most_probable_classes_are_written_blank_separated(tmp_path):
    target, values = tmp_path / "o.csv", np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    write_submission_file(target, ["1", "2"], values, ("a", "b", "c"), SubmissionSpec(format="top2"))
    assert target.read_text().split("\n")[:3] == ["id,label", "1,c b", "2,a b"]
    with pytest.raises(SubmissionError, match="red car has one"):
        layout_of(SubmissionSpec(format="top2"), ("red car", "dog"), None)


def test_columns_of_the_settings_may_say_what_a_samples_columns_are(tmp_path):
    sample = sample_of(tmp_path, "img,p1,p2,p3\n1,0,0,0\n")
    pairs = ("img", "p1 = dog", "p2=red_car", "p3 = cafe\u0301")
    layout = layout_of(SubmissionSpec(format="probabilities", columns=pairs), CLASSES, sample)
    assert (layout.columns, layout.classes) == (("img", "p1", "p2", "p3"), (2, 1, 0))
    with pytest.raises(SubmissionError, match="drop the setting"):
        layout_of(SubmissionSpec(format="probabilities", columns=("img", "p2 = dog", "p1", "p3")), CLASSES, sample)


def test_columns_of_the_settings_equal_the_samples_in_another_unicode_form(tmp_path):
    sample = sample_of(tmp_path, "id,dog,caf\u00e9,red car\n1,0,0,0\n")
    spec = SubmissionSpec(format="probabilities", columns=("id", "dog", "cafe\u0301", "red car"))
    assert layout_of(spec, CLASSES, sample).classes == (2, 0, 1)


# Whatever a file system takes for a name, as `printable` makes it writable.
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
) | st.sampled_from(
    [
        "cat\r",
        "a\nb",
        '"',
        "a,b",
        " x",
        "x ",
        "caf\u00e9",
        "cafe\u0301",
        "\ufeffid",
        "NA",
        "-1",
        "=1+1",
        ";",
        "\\xe9",
        "\u2028",
    ]
)


BYTES = st.binary(min_size=1, max_size=6).map(lambda raw: os.fsdecode(raw.replace(b"/", b"-").replace(b"\0", b"0")))


def unlike(names):
    """Names of which none is another one's in any way that columns are compared by."""
    return len({"".join(c for c in composed(name.casefold()) if c.isalnum()) for name in names}) == len(names)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(NAMES | BYTES, min_size=2, max_size=4, unique_by=composed),
    st.lists(NAMES | BYTES, min_size=1, max_size=4, unique_by=composed),
)
@example(["cat\r", "dog\n"], ["\r", "\n", '"\r\n"', "a,\r"])
def test_any_names_are_written_and_read_back(tmp_path, classes, ids):
    values = np.random.default_rng(1).dirichlet(np.ones(len(classes)), len(ids))
    write_submission_file(tmp_path / "o.csv", ids, values, classes, PROBABILITIES)
    header, rows = read_back(tmp_path / "o.csv")
    assert header == ["id", *classes]
    assert [row[0] for row in rows] == list(ids)
    assert np.allclose(np.array([row[1:] for row in rows], float), values, rtol=1e-6)
    write_submission_file(tmp_path / "l.csv", ids, values, classes, SubmissionSpec())
    assert [row[1] for row in read_back(tmp_path / "l.csv")[1]] == [classes[place] for place in values.argmax(axis=1)]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_sample_is_followed_or_refused_in_one_line(tmp_path, data):
    draw = data.draw
    classes = draw(st.lists(NAMES, min_size=2, max_size=4, unique_by=composed).filter(unlike))
    ids = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=composed))
    order, rows = draw(st.permutations(range(len(classes)))), draw(st.permutations(ids))
    order = order[: draw(st.integers(1, len(order)))]
    changed = [lambda name: name, str.upper, str.title, lambda name: unicodedata.normalize("NFD", name),
               lambda name: name.replace(" ", "_")]  # fmt: skip
    columns = [(draw(st.sampled_from(changed))(classes[place]), place) for place in order]
    text = io.StringIO(newline="")
    form = {
        "delimiter": draw(st.sampled_from(",;\t")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    csv.writer(text, **form).writerows(
        [["id", *(name for name, _ in columns)], *([row, *["0"] * len(columns)] for row in rows)]
    )
    (tmp_path / "s.csv").write_bytes(text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))))
    values = np.random.default_rng(2).dirichlet(np.ones(len(classes)), len(ids))
    try:
        write_submission_file(tmp_path / "o.csv", ids, values, classes, PROBABILITIES, tmp_path / "s.csv")
    except SubmissionError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some are refused, and in one line
        return
    held = [(name.strip().strip("\ufeff"), place) for name, place in columns]
    holds(tmp_path / "o.csv", ids, classes, values, held)


def test_a_sample_that_is_no_file_is_said_to_be_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "sample_submission.csv")
    for named in (None, tmp_path / "sample_submission.csv"):
        with pytest.raises(SettingsError, match=r"sample_submission.csv is a FIFO.*, not a file"):
            find_sample(named, tmp_path)
    with pytest.raises(SettingsError, match=r"sample_submission='no.csv' is not there"):
        find_sample(Path("no.csv"), tmp_path)
