"""Every CSV that is written is read back the same, by the csv module and by pandas, whatever stands in names."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from projects import LuigiProject, _settings, write_image

from featcache.cli import main
from featcache.core.csv_files import CsvWriter, delimiter
from featcache.dataset.manifest import Manifest
from featcache.inference.predictor import Prediction, write_csv

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6) | st.text(
    '\r\n",; \tx', max_size=4
)
CLASSES = ("ants\r", "be\nes", 'wa"s,ps')
NAMES = ("a\rb", " c ", 'd"\n', "e,f;\t", "caf\u00e9", "NA", "=1")


def both(path):
    """A CSV's lines; pandas must read the same."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *rows = list(csv.reader(stream, strict=True))
    frame = pd.read_csv(path, dtype=str, na_filter=False, encoding_errors="surrogateescape")
    assert frame.columns.tolist() == header
    assert frame.to_numpy().tolist() == rows
    return header, rows


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=1)))
def test_rows_are_read_back_by_any_reader(rows):
    text = io.StringIO(newline="")
    CsvWriter(text).rows(rows)
    written = text.getvalue()
    assert list(csv.reader(io.StringIO(written, newline=""), strict=True)) == rows
    frame = pd.read_csv(
        io.StringIO(written, newline=""), header=None, dtype=str, na_filter=False, skip_blank_lines=False
    )
    assert frame.to_numpy().tolist() == rows


def test_ordinary_rows_look_as_they_always_did():
    text = io.StringIO(newline="")
    lines = CsvWriter(text)
    lines.row(("id", "a b", 'c"d', "e,f", "", 0.5))
    lines.rows([["1", "x"]])
    assert text.getvalue() == 'id,a b,"c""d","e,f",,0.5\n1,x\n'


@pytest.mark.parametrize(
    ("header", "line", "sign"),
    [
        ("id,a", "1,0", ","),
        ("id;a", "1;0,5", ";"),
        ("id\ta b", "1\t0", "\t"),
        ("id,a;b;c;d", "1,0.5", ","),
        ("id;a, b;c", "1;0,5;0,5", ";"),
        ('"i;d";"a;b";x', "1;2;3", ";"),
        ('id,"a;b;c"', "1,2", ","),
        ("id", "1", ","),
        ("", "", ","),
    ],
)
def test_what_separates_the_fields(header, line, sign):
    assert delimiter(header, line) == sign


def test_every_csv_of_a_run_and_of_the_commands_is_read_back(tmp_path):
    photos = tmp_path / "photos"
    for number, name in enumerate(CLASSES):
        for place, file in enumerate(NAMES):
            write_image(photos / "train" / name / f"{file}.png", (60 + 70 * number,) * 3, 10 * number + place)
    for place, file in enumerate(NAMES):
        write_image(photos / "test" / f"{file}.png", (90, 20, 200), 100 + place)
    (photos / "test/brok\ren.png").write_bytes(b"")
    project = LuigiProject(tmp_path, _settings(tmp_path))
    project.set("Submission", format="probabilities")
    project.run()
    assert project.succeeded
    tests = {f"{name}.png" for name in NAMES}
    header, rows = both(project.artifacts / "submission.csv")
    assert header == ["id", *Manifest.load(project.artifacts).class_names]
    assert {*header[1:]} == {*CLASSES}
    assert {row[0] for row in rows} == {*tests, "brok\ren.png"}
    assert [row[:2] for row in both(project.artifacts / "rejected.csv")[1]] == [["test", "brok\ren.png"]]
    seen = both(project.artifacts / "listing.csv")[1]
    listed = pd.read_feather(project.artifacts / "manifest.arrow").to_numpy().tolist()
    assert {row[7].decode() for row in listed} == {row[0] for row in seen}
    assert {row[2] for row in listed if row[0] == "train"} == {*CLASSES}
    cache = next(project.artifacts.glob("features/train-*.h5"))
    assert main(["export", str(cache), str(tmp_path / "exported")]) == 0
    assert main(["pca", str(cache), "--components", "2", "--csv", str(tmp_path / "pca.csv")]) == 0
    told = [Prediction(photos / "test" / name, np.array([0.2, 0.5, 0.3])) for name in tests]
    assert list(write_csv(tmp_path / "told.csv", told, CLASSES)) == told
    trained = {(row[1], row[2]) for row in listed if row[0] == "train"}
    assert {(row[1], row[2]) for row in both(tmp_path / "exported/rows.csv")[1]} == trained
    assert {(row[1], row[2]) for row in both(tmp_path / "pca.csv")[1]} == trained
    header, rows = both(tmp_path / "told.csv")
    assert header == ["file", "class", *CLASSES, "farther_than"]
    assert [row[:2] for row in rows] == [[str(each.file), CLASSES[1]] for each in told]
