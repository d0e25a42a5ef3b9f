import hashlib

import pytest

from featcache.core import keys
from featcache.core.joined_texts import column_digest


def test_equal_numbers_give_equal_keys_and_texts_do_not():
    assert keys.digest({"rate": 5}) == keys.digest({"rate": 5.0})
    assert keys.digest({"rate": 5}) != keys.digest({"rate": "5"})
    assert keys.digest([1]) != keys.digest([True])
    assert keys.digest([None]) != keys.digest(["None"])


def test_the_order_of_names_does_not_count_but_the_order_of_items_does():
    assert keys.digest({"a": 1, "b": 2}) == keys.digest({"b": 2, "a": 1})
    assert keys.digest([1, 2]) != keys.digest([2, 1])
    assert keys.digest((1, 2)) == keys.digest([1, 2])


def test_canonical_json_is_this_text():
    assert keys.canonical_json({"b": [1.0, 0.5, "ü"], "a": None}) == '{"a":null,"b":[1,0.5,"\\u00fc"]}'


@pytest.mark.parametrize("value", [{1: "a"}, object(), {"a": {2}}, b"bytes"])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(TypeError, match="keys are made of"):
        keys.digest(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_equal_nothing_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        keys.digest([value])


def test_a_sequence_is_not_its_concatenation():
    assert column_digest(["ab", "c"]) != column_digest(["a", "bc"])
    assert column_digest([]) != column_digest([""])
    assert column_digest(["\udcff"]) != column_digest(["?"])


def test_a_files_digest_is_its_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert keys.file_digest(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest() == keys.bytes_digest(b"x" * 3_000_000)
    assert keys.short(keys.file_digest(path)) == keys.file_digest(path)[:8]
