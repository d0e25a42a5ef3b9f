import csv
import json
import unicodedata

import numpy as np
import pytest
from cache_files import TAPS, make_rows, write_cache

import featcache
from featcache.cache.layout import TapLayout
from featcache.cli import main


@pytest.fixture
def caches(tmp_path):
    """Training rows with one rejected, and test rows that are the first three of them again."""
    train = write_cache(tmp_path / "train.h5", make_rows(30), rejected=(4,))
    return str(train), str(write_cache(tmp_path / "test.h5", make_rows(3), split="test"))


def test_stats(caches, capsys):
    assert main(["stats", "--json", caches[0]]) == 0
    taps = json.loads(capsys.readouterr().out)["taps"]
    values = np.delete(np.asarray(featcache.open(caches[0])["block5_pool_avg"]), 4, axis=0)
    assert (taps["block5_pool_avg"]["rows"], taps["block5_pool_avg"]["features"]) == (29, 5)
    assert taps["block5_pool_avg"]["max"] == values.max()
    assert taps["block5_pool"]["features"] == 30
    assert main(["stats", caches[0], "--tap", "block5_pool_avg"]) == 0
    shown = capsys.readouterr().out
    assert "tap block5_pool_avg: 5 features of 29 rows; 0 always 0" in shown
    assert "tap block5_pool:" not in shown


def test_pca_with_a_table_of_the_rows(caches, tmp_path, capsys):
    command = ["pca", caches[0], "--tap", "block5_pool", "--components", "2"]
    assert main([*command, "--csv", str(tmp_path / "rows.csv")]) == 0
    head, names, first, second = capsys.readouterr().out.splitlines()
    assert head.endswith("train.h5: tap block5_pool, 30 features")
    assert names.split() == ["component", "variance", "share", "together"]
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    with open(tmp_path / "rows.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["row", "id", "class", "pc1", "pc2"]
    assert [int(row["row"]) for row in rows] == [row for row in range(30) if row != 4]
    assert main([*command, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["components"][0]
    assert np.var([float(row["pc1"]) for row in rows]) == pytest.approx(first["variance"], rel=1e-4)


def test_neighbours_among_other_rows_and_its_own(caches, capsys):
    train, test = caches
    tap = ["--tap", "block5_pool", "--count", "2"]
    assert main(["neighbours", test, "ünï/1.jpg", "ünï/0.jpg", "--among", train, *tap, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert (first["id"], first["neighbours"][0]["id"], first["neighbours"][0]["row"]) == ("ünï/1.jpg", "ünï/1.jpg", 1)
    assert first["neighbours"][0]["distance"] == pytest.approx(0, abs=1e-9)
    assert second["neighbours"][0]["row"] == 0
    assert main(["neighbours", train, "ünï/1.jpg", *tap]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "ünï/1.jpg  ant"
    assert len(shown) == 5
    assert main(["neighbours", train, unicodedata.normalize("NFD", "ünï/1.jpg"), *tap]) == 0
    assert capsys.readouterr().out.splitlines() == shown
    assert "ünï/1.jpg" not in "".join(shown[3:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pca", "TRAIN"], "has several taps (block5_pool, block5_pool_avg): name one with --tap"),
        (["stats", "TRAIN", "--tap", "nope"], "is not one of the taps"),
        (["pca", "TRAIN", "--tap", "block5_pool", "--components", "0"], "count=0: at least 1 component"),
        (
            ["neighbours", "TRAIN", "x.jpg", "--tap", "block5_pool"],
            "has no row 'x.jpg'; its ids are like 'ünï/0.jpg'",
        ),
        (["neighbours", "TRAIN", "ünï/4.jpg", "--tap", "block5_pool"], "'ünï/4.jpg' was rejected"),
        (["neighbours", "TRAIN", "ünï/1.jpg", "--among", "OTHER"], "differ in image_size"),
        (["stats", "nothing.h5"], "nothing.h5"),
    ],
)
def test_mistakes_are_one_line(caches, tmp_path, capsys, arguments, message):
    tap = TapLayout("block5_pool", TAPS[0].shape, "f" * 64, {**TAPS[0].settings, "image_size": 96})
    places = {"TRAIN": caches[0], "OTHER": str(write_cache(tmp_path / "other.h5", make_rows(3), (tap,)))}
    assert main([places.get(word, word) for word in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
