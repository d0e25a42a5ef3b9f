"""The notebooks in docs/ are run, cell by cell, on less data and by a smaller network; nothing in them names this machine."""

import ast
import functools
import gzip
import json

import pytest
from documented import ROOT, here, small_vgg16

import featcache
from featcache.dataset.sources import digits

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SMALL = {
    "weights": "random",
    "preset": "fast",
    "hidden": 8,
    "schedule": "1e-2x1",
    "seeds": 1,
    "folds": 2,
    "image_size": 32,
}
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@EACH
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    rows = gzip.decompress(digits._data_file().read_bytes()).decode("ascii").splitlines(keepends=True)
    few = tmp_path / "digits.csv.gz"
    few.write_bytes(gzip.compress("".join(rows[:150]).encode("ascii")))
    monkeypatch.setattr(digits, "_data_file", lambda: few)
    monkeypatch.setattr("featcache.features.network._application", small_vgg16)
    monkeypatch.setattr(featcache, "fit", functools.partial(_small, featcache.fit), raising=False)
    encode = functools.partial(featcache.encode, weights="random")
    monkeypatch.setattr(featcache, "encode", encode, raising=False)
    namespace = {"__name__": "__main__"}
    with here(tmp_path):
        for number, cell in enumerate(cells(path)):
            program = ast.parse("".join(cell["source"]))
            shown = program.body.pop() if isinstance(program.body[-1], ast.Expr) else None
            exec(compile(program, f"{path.name}, cell {number}", "exec"), namespace)  # noqa: S102 - the documentation's own
            if shown is not None:
                value = eval(compile(ast.Expression(shown.value), f"{path.name}, cell {number}", "eval"), namespace)  # noqa: S307
                assert value is None or repr(value)


def _small(fit, *data, **settings):
    return fit(*data, **{**SMALL, "report_enabled": False, **settings})


@EACH
def test_a_notebook_shows_what_it_showed_when_it_was_run(path):
    text = path.read_text()
    assert "/tmp/" not in text
    assert "site-packages" not in text
    assert "Error" not in text
    assert any("image/png" in output.get("data", {}) for cell in cells(path) for output in cell["outputs"])
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    assert path.stat().st_size < 300_000
