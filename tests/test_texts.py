"""Columns of texts: like lists, at a few bytes a text."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from featcache.core.texts import (
    ChosenTexts,
    ComputedTexts,
    ConstantText,
    DecodedTexts,
    FixedTexts,
    PackedTexts,
    encoded_part,
    first_duplicate,
    index_of,
    texts_at,
)

TEXTS = ["a", "bc", "", "ü" * 3, "\udcff.png"]


def columns():
    fixed = np.array([text.encode("utf-8", "surrogateescape") for text in TEXTS], "S8")
    packed = PackedTexts(["other", *reversed(TEXTS)])
    chosen, taken = ChosenTexts(packed, np.array([5, 4, -1, 2, 1])), packed.taken(np.array([5, 4, 3, 2, 1], np.uint32))
    decoded = DecodedTexts(len(TEXTS), lambda start, stop: list(TEXTS[start:stop]))
    computed = ComputedTexts(len(TEXTS), TEXTS.__getitem__)
    return [PackedTexts(TEXTS), FixedTexts(fixed), computed, decoded, chosen, taken, TEXTS]


@pytest.mark.parametrize("column", columns()[:-1], ids=lambda column: type(column).__name__)
def test_a_column_is_like_a_list(column):
    assert column == TEXTS == column
    assert column == TEXTS
    assert column != TEXTS[:-1]
    assert column != "abc"
    assert (column[1], column[-1], column[np.int64(3)]) == ("bc", TEXTS[-1], "üüü")
    assert (column[1:3], column[::2], column[3:1], column[9:]) == (["bc", ""], TEXTS[::2], [], [])
    assert (list(column), len(column), repr(column)) == (TEXTS, 5, repr(TEXTS))
    with pytest.raises(IndexError, match="index=5 is out of range for 5 texts"):
        column[5]


@pytest.mark.parametrize("column", columns(), ids=lambda column: type(column).__name__)
def test_a_column_as_bytes(column):
    for start, stop in ((0, 5), (1, 3), (2, 2), (0, 2)):
        raw, lengths = encoded_part(column, start, stop)
        texts = [text.encode("utf-8", "surrogateescape") for text in TEXTS[start:stop]]
        assert (raw, lengths.tolist()) == (b"".join(texts), list(map(len, texts)))
    with pytest.raises(UnicodeEncodeError):
        encoded_part(column, 0, 5, "strict")


def test_texts_at_some_rows_near_and_far():
    column = ComputedTexts(10**6, str)
    for rows in ([], [3], [3, 4, 9], [0, 999_999]):
        assert texts_at(column, np.array(rows, np.int64)) == [str(row) for row in rows]


def test_a_long_column_prints_its_beginning():
    assert repr(ConstantText("x", 10**6)).endswith("'x', ... (1000000 in all)]")
    assert ConstantText("x", 3) == ["x"] * 3
    assert ConstantText("ü", 9).encoded(1, 3)[0] == "üü".encode()
    assert PackedTexts() == [] == PackedTexts(["x"]).taken(np.zeros(0, np.uint32))


@settings(deadline=None)
@given(st.lists(st.text("ab\0", max_size=2)))
def test_what_stands_twice_is_found(texts):
    twice = {text for text in texts if texts.count(text) > 1}
    assert first_duplicate(PackedTexts(texts)) in (twice or {None})


@settings(deadline=None)
@given(st.lists(st.text("abc", max_size=2)), st.lists(st.text("abc", max_size=2)))
def test_positions_are_those_of_the_first(wanted, among):
    expected = [among.index(text) if text in among else -1 for text in wanted]
    assert index_of(wanted, PackedTexts(among)).tolist() == expected


def test_texts_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr("featcache.core.texts._hashes", lambda texts: np.zeros(len(texts), np.int64))
    monkeypatch.setattr("featcache.core.texts.hash", lambda text: 0, raising=False)
    assert index_of(["c", "x", "a"], ["a", "b", "c"]).tolist() == [2, -1, 0]
    assert first_duplicate(["a", "b"]) is None
    assert first_duplicate(["a", "b", "a"]) == "a"
