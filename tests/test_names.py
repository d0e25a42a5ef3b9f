"""When two names are the same, and which class a column of the submission takes: by name, in any order, or not at all."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, strategies as st

from featcache.core.names import clash, composed, match_columns, stem
from featcache.dataset.sources.scan import SUFFIXES
from featcache.ensemble.submission import write_submission_file
from featcache.errors import SubmissionError
from featcache.settings.specs import SubmissionSpec

CAFE, CAFE_APART = "caf\u00e9", "cafe\u0301"
WORDS = st.text(st.sampled_from("aAbB \u00e9\u0301_-\u00df\u0130s1=,;\r\n\"'"), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("columns", "classes", "found"),
    [
        (["dog", "cat"], ["Cat", "Dog"], [1, 0]),
        (["DOG", "CAT"], ["cat", "dog"], [1, 0]),
        (["red_car", "blue_car"], ["blue car", "red car"], [1, 0]),
        (["red-car", "Blue Car"], ["blue_car", "red  car"], [1, 0]),
        ([CAFE, "the"], ["the", CAFE_APART], [1, 0]),
        (["CAFE\u0301", "the"], ["the", CAFE], [1, 0]),
        (["STRASSE", "x"], ["x", "stra\u00dfe"], [1, 0]),
        (["dog", "Dog"], ["Dog", "dog"], [1, 0]),
        (["dog", "dog"], ["dog", "cat"], [None, None]),
        (["dog", "DOG"], ["dog", "Dog"], [0, None]),  # DOG could be either
        (["a b", "A_B"], ["a-b", "c"], [None, None]),
        (["c0", "c1"], ["0", "1"], [None, None]),
        (["1", "-1"], ["-1", "1"], [1, 0]),
        (["redcar"], ["red car"], [None]),
        (["cat.", "dog"], ["cat", "dog"], [None, 1]),
        (["cat"], ["cat\r"], [0]),
        ([], ["a"], []),
    ],
)
def test_columns_and_classes(columns, classes, found):
    assert match_columns(columns, classes) == found


@given(st.lists(WORDS, unique_by=composed, max_size=6), st.randoms())
def test_every_class_is_found_by_its_own_name_in_any_order_and_form(classes, random):
    columns = [unicodedata.normalize(random.choice(["NFC", "NFD"]), name) for name in classes]
    random.shuffle(columns)
    found = match_columns(columns, classes)
    assert [composed(classes[place]) for place in found] == [composed(name) for name in columns]


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5))
def test_matches_are_one_to_one_and_of_equal_names(columns, classes):
    found = match_columns(columns, classes)
    places = [place for place in found if place is not None]
    assert len(found) == len(columns)
    assert len(set(places)) == len(places)
    back = match_columns(classes, columns)
    for column, place in enumerate(found):
        assert place is None or back[place] == column


def test_names_that_are_one_in_two_forms():
    assert clash([CAFE, "b", CAFE_APART]) == (CAFE, CAFE_APART)
    assert clash(["a", "A", "a b", "a_b"]) is None


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("1.2.840.1", "1.2.840.1"),
        ("1.2.840.1.png", "1.2.840.1"),
        ("a.v1", "a.v1"),
        ("a.JPG", "a"),
        ("x/a.b/c.TiFf", "x/a.b/c"),
        ("a.jpg.png", "a.jpg"),
        (".png", ".png"),
        ("a/.png", "a/.png"),
        ("a.png/b", "a.png/b"),
        ("apng", "apng"),
        ("a.png\n", "a.png\n"),
    ],
)
def test_only_an_images_suffix_is_cut(name, cut):
    assert stem(name) == cut


def test_every_suffix_that_is_listed_is_known():
    assert all(stem(f"a.1{suffix}") == "a.1" for suffix in SUFFIXES)


def written(tmp_path, columns, classes, values=None, **spec):
    """The submission's columns by name, and its notices."""
    values = np.array([np.arange(1, len(classes) + 1) / 100]) if values is None else values
    spec = SubmissionSpec(format="probabilities", columns=("id", *columns), **spec)
    report = write_submission_file(tmp_path / "s.csv", ["1.png"], values, classes, spec)
    header, row = (line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines())
    return dict(zip(header[1:], map(float, row[1:]), strict=True)), report.notices


def test_another_case_takes_the_class_of_that_name_and_says_so(tmp_path):
    values, notices = written(tmp_path, ["dog", "cat"], ["Cat", "Dog"])
    assert values == {"dog": 0.02, "cat": 0.01}
    assert notices == (
        "[Submission] columns: columns that are written otherwise than their classes: dog = Dog, cat = Cat",
    )
    assert written(tmp_path, ["Dog", "Cat"], ["Cat", "Dog"]) == ({"Dog": 0.02, "Cat": 0.01}, ())


def test_what_cannot_be_matched_is_refused_with_both_lists_and_the_way_out(tmp_path):
    classes = [str(number) for number in range(10)]
    with pytest.raises(SubmissionError) as told:
        written(tmp_path, [f"c{number}" for number in range(10)], classes)
    text = str(told.value)
    assert "\n" not in text
    assert all(
        part in text for part in ("10 classes (0, 1, 2", "the id (c0, c1, c2", "[Submission] columns = id, c0 = CLASS")
    )
    pairs = [f"c{number} = {number}" for number in range(9, -1, -1)]
    values, notices = written(tmp_path, pairs, classes)
    assert values == {f"c{number}": (number + 1) / 100 for number in range(9, -1, -1)}
    assert notices == ()


@pytest.mark.parametrize(
    "columns", [["a", "x"], ["a = ant", "b"], ["a = ant", "b = ant"], ["ant", "ant"], ["ant", "x = y"]]
)
def test_half_a_match_is_no_match(tmp_path, columns):
    with pytest.raises(
        SubmissionError, match=r"the columns after the id \(.*\) are not one for each of 2 classes \(ant, bee\)"
    ):
        written(tmp_path, columns, ["ant", "bee"])


def test_classes_with_an_equals_sign(tmp_path):
    assert written(tmp_path, ["p=1", "p=0"], ["p=0", "p=1"])[0] == {"p=1": 0.02, "p=0": 0.01}
    assert written(tmp_path, ["x = p=1", "y=p=0"], ["p=0", "p=1"])[0] == {"x": 0.02, "y": 0.01}


@pytest.mark.parametrize(
    ("column", "classes", "value", "notice"),
    [
        ("label", ["cat", "dog"], 0.02, "column label holds the probability of class dog"),
        ("Target", ["cat", "dog"], 0.02, "for the other: [Submission] columns = id, Target = cat"),
        ("prediction", ["0", "1"], 0.02, "class 1"),
        ("has_cactus", ["0", "1"], 0.02, "class 1"),
        ("ill", ["No", "Yes"], 0.02, "class Yes"),
        ("cat", ["cat", "dog"], 0.01, ""),
        ("CAT", ["Dog", "cat"], 0.02, "CAT = cat"),
        ("label", ["label", "other"], 0.01, ""),
        ("label = cat", ["cat", "dog"], 0.01, ""),
    ],
)
def test_one_column_for_two_classes(tmp_path, column, classes, value, notice):
    values, notices = written(tmp_path, [column], classes)
    assert [*values.values()] == [value]
    assert notice in "".join(notices)
    assert bool(notices) == bool(notice)


@pytest.mark.parametrize("column", ["bird", "has_cactus", "cats", "dog2", "is_cat"])
def test_one_column_that_names_neither_class_is_refused(tmp_path, column):
    with pytest.raises(
        SubmissionError,
        match=rf"the columns after the id \({column}\) are not .* 2 classes \(cat, dog\); .* {column} = CLASS",
    ):
        written(tmp_path, [column], ["cat", "dog"])


def test_names_that_break_lines_are_written_out_in_messages(tmp_path):
    for columns, classes in ((["label"], ["a\nb", "c\rd"]), (["a\rb", "x\ny"], ["p", "q"]), (["x\ny"], ["p", "q"])):
        try:
            told = "".join(written(tmp_path, columns, classes)[1])
        except SubmissionError as error:
            told = str(error)
        assert told
        assert told.isprintable()
