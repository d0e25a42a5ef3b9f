"""The examples in docstrings are run, and about fifteen public functions have one."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from cache_files import digest_of

from featcache.cache import CacheHeader, CacheWriter, TapLayout, file_key
from featcache.core.rows import Rows

SOURCE = Path(__file__).parent.parent / "src/featcache"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())


def examples(path):
    module = importlib.import_module(".".join(("featcache", *path.relative_to(SOURCE).with_suffix("").parts)))
    return [each for each in doctest.DocTestFinder(exclude_empty=True).find(module) if each.examples]


def write_animals(path):
    """Four rows of one tap, which the examples read."""
    ids = ["cat/0.png", "dog/1.png", "cat/2.png", "dog/3.png"]
    rows = Rows(ids, np.array([0, 1, 0, 1], np.int32), [""] * 4, [digest_of(name) for name in ids], [""] * 4)
    tap = TapLayout("block5_pool", (2, 2, 3), "a" * 64, {"tap": "block5_pool"})
    key = file_key({tap.name: tap.key}, rows.key, ("cat", "dog"), "train", 0)
    header = CacheHeader("train", 0, key, "animals", {}, ("cat", "dog"), (tap,), rows, 4)
    with CacheWriter(path, header) as writer:
        features = {"block5_pool": np.arange(48, dtype=np.float16).reshape(4, 2, 2, 3)}
        writer.write(np.arange(4), features, np.ones(4, np.uint8))
        writer.publish({})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_the_examples_of_a_module_are_right(path, tmp_path, monkeypatch):
    write_animals(tmp_path / "train.h5")
    monkeypatch.chdir(tmp_path)
    for example in examples(path):
        example.globs.update(Path=Path, np=np)
        assert doctest.DocTestRunner().run(example).failed == 0, example.name


def test_about_fifteen_public_names_have_an_example():
    exported = {name for face in SOURCE.glob("*/__init__.pyi") for name in re.findall(r" as (\w+)", face.read_text())}
    shown = {name for path in MODULES for each in examples(path) for name in each.name.split(".")} & exported
    assert len(shown) >= 15, sorted(shown)
