"""Columns joined row by row: the same bytes as Python's own joining, by Arrow where that is imported."""

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from featcache.core import joined_texts
from featcache.core.joined_texts import column_digest
from featcache.core.system import child_environment
from featcache.core.texts import ConstantText, PackedTexts, encoded

TEXTS = ["a", "", "ü,ü", "\udcff.png", "x" * 300]
CODE = """
import sys
import numpy as np
from featcache.core.joined_texts import column_digest, joined
from featcache.core.texts import PackedTexts, encoded
for module in ("pyarrow", "pandas"):
    joined(encoded(["a", "b"]), b",", np.array([1, 2]))
    column_digest(["a", "b"])
    assert module not in sys.modules
    import pyarrow.compute
assert PackedTexts(["a", "b"]).taken(np.array([1], np.uint32)) == ["b"]
assert "pandas" not in sys.modules
"""


def sequence_digest(texts):
    """What the digest of a column is by definition, which keys of released versions hold."""
    raw = [text.encode("utf-8", "surrogateescape") for text in texts]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(text), text) for text in raw)).hexdigest()


@pytest.fixture(params=["_by_arrow", "_by_python"])
def join(request, monkeypatch):
    monkeypatch.setattr(joined_texts, "joined", getattr(joined_texts, request.param))
    return joined_texts.joined


def test_rows_are_joined(join):
    rows, bounds = join(encoded(TEXTS), b",", np.array([0, -7, 2**62, 10, 1]), b",", encoded([""] * 5), b"\r\n")
    expected = [
        f"{text},{number},\r\n".encode("utf-8", "surrogateescape")
        for text, number in zip(TEXTS, (0, -7, 2**62, 10, 1), strict=True)
    ]
    assert rows == b"".join(expected)
    assert [rows[a:b] for a, b in pairwise(bounds)] == expected


@pytest.mark.usefixtures("join")
@pytest.mark.parametrize("part", [1, 2, 100])
def test_a_column_has_the_digest_of_its_texts(part, monkeypatch):
    monkeypatch.setattr(joined_texts, "PART", part)
    for texts in (TEXTS, TEXTS[:1], []):
        assert column_digest(texts) == column_digest(PackedTexts(texts)) == sequence_digest(texts)
    assert column_digest(ConstantText("", 5)) == sequence_digest([""] * 5)


def test_nothing_slow_is_imported():
    subprocess.run([sys.executable, "-c", CODE], check=True, env=child_environment())
