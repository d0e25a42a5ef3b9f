"""`featcache export` of predictions: a table with the ids of the manifest's rows, as CSV and as Parquet."""

import json

import numpy as np
import pandas
import pytest

from featcache.cli import main
from featcache.core.rows import Rows
from featcache.dataset.manifest import Manifest
from featcache.training.predictions import Predictions

NAMES = ("ant", "bée")


@pytest.fixture
def record(tmp_path):
    """Out-of-fold predictions of two members in an artifacts folder; of one row one of them has none."""
    labels = np.array([0, 1, -1], np.int32)
    rows = Rows(("a,1.png", "b.png", "c.png"), labels, [""] * 3, ["d"] * 3, [""] * 3)
    Manifest(NAMES, {"train": rows}, {"source": "folder"}).save(tmp_path / "out")
    values = np.random.default_rng(0).dirichlet([1, 1], (2, 3)).astype(np.float32)
    values[1, 2] = np.nan
    folder = tmp_path / "out/heads/tap-fast-00000000"
    folder.mkdir(parents=True)
    folds = np.array([1, 0, -1], np.int32)
    stored = Predictions(rows.ids, labels, ("m0", "m1"), values, NAMES, folds, rows_key=rows.key).save(folder)
    (folder / "bag.json").write_text(json.dumps({"key": "k", "predictions": stored}))
    return folder / "bag.json", values


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_line_for_each_row_and_member(record, tmp_path, form, capsys):
    path, values = record
    target = tmp_path / f"table.{form}"
    assert main(["export", str(path), str(target), "--to", form]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    table = pandas.read_csv(target, keep_default_na=False, na_values={"ant": "", "bée": ""}) if form == "csv" else pandas.read_parquet(target)  # fmt: skip
    assert list(table.columns) == ["id", "label", "fold", "member", *NAMES]
    assert table["id"].tolist() == ["a,1.png", "b.png", "c.png"] * 2
    assert table["label"].tolist() == ["ant", "bée", ""] * 2
    assert table["fold"].tolist() == [1, 0, -1] * 2
    assert table["member"].tolist() == ["m0"] * 3 + ["m1"] * 3
    np.testing.assert_allclose(table[list(NAMES)].to_numpy(), values.reshape(6, 2), rtol=1e-6)


def test_a_form_that_does_not_fit_and_other_rows_are_refused(record, tmp_path, capsys):
    path, _ = record
    assert main(["export", str(path), str(tmp_path / "x"), "--to", "npy"]) == 1
    assert "csv and parquet for predictions" in capsys.readouterr().err
    rows = Rows(("z.png",), np.zeros(1, np.int32), [""], ["d"], [""])
    Manifest(NAMES, {"train": rows}, {"source": "folder"}).save(tmp_path / "out")
    assert main(["export", str(path), str(tmp_path / "x.csv")]) == 1
    assert "of other rows than the manifest's" in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()
