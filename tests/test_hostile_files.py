"""Damaged and forged files: featcache's own errors and nothing else, no hang, no crash, nothing executed, nothing followed."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fuzzing
import h5py
import numpy as np
import pyarrow as pa
import pytest
from cache_files import make_rows, write_cache
from images import forge_rows

import featcache
from featcache.dataset.manifest import Manifest
from featcache.dataset.sources.source import open_source
from featcache.ensemble.ensemble import Ensemble
from featcache.errors import CacheError, CacheFormatError, FeatcacheError, SourceError
from featcache.training.heads.bag import load_bag
from featcache.training.predictions import Predictions

EXAMPLES = {"cache": 300, "partial": 300, "predictions": 300, "bag": 300, "project": 120, "lock": 100, "idx": 100, "csv": 100, "images": 60}  # fmt: skip


@pytest.mark.parametrize(
    "kinds", [["cache", "partial", "predictions", "bag", "lock"], ["project"], ["idx", "csv", "images"]]
)
def test_mutated_files_are_refused_in_one_line_or_read(kinds):
    """In a process of its own, which HDF5 may crash or hang; 15,000 of a kind by hand: python tests/fuzzing.py cache 15000."""
    for kind in kinds:
        words = [sys.executable, fuzzing.__file__, kind, str(EXAMPLES[kind])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, f"{kind}: {done.stderr[-3000:]}"
        assert f"{kind}: " in done.stdout


# ---- found by fuzzing, kept


def test_damaged_predictions_are_refused_before_numpy_parses_them(tmp_path, monkeypatch):
    record, *files = fuzzing.make_predictions(tmp_path)
    load = np.load

    def refuse(path, **options):
        assert Path(path) not in damaged, "NumPy was asked to open a damaged file"
        return load(path, **options)

    monkeypatch.setattr(np, "load", refuse)
    for path in files:
        whole, damaged = path.read_bytes(), {path}
        flipped = [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
        for content in (*flipped, whole[:100], whole[:-1], whole + b"\0", b""):
            path.write_bytes(content)
            with pytest.raises(CacheFormatError, match=f"{path.name}: checksum mismatch: remove .* and run again"):
                Predictions.load(record, fuzzing.SIX)
        path.write_bytes(whole)
        damaged.clear()
        assert Predictions.load(record, fuzzing.SIX).members == ("m1", "m2")


@pytest.mark.parametrize("name", ["/dev/zero", "../out_of_fold.npy", "", 3, None])
def test_forged_names_of_files_lead_nowhere(tmp_path, name):
    record, *_ = fuzzing.make_predictions(tmp_path)
    stored = json.loads(record.read_text())
    stored["predictions"]["files"] = {str(name): "0" * 64} if name is not None else [name]
    record.write_text(json.dumps(stored))
    with pytest.raises(CacheFormatError, match="can't be used"):
        Predictions.load(record, fuzzing.SIX)


def without_a_member(stored):
    stored["candidates"] = []


def with_a_weight_too_many(stored):
    stored["whole"]["weights"].append(0.5)


def with_a_text_as_weight(stored):
    stored["whole"]["weights"] = ["1.0", "0.0"]


def of_infinite_temperature(stored):
    stored["whole"]["temperature"] = float("inf")


def with_a_clip_above_one(stored):
    stored["folds"]["0"]["clip"] = 1.5


@pytest.mark.parametrize(
    "forge",
    [without_a_member, with_a_weight_too_many, with_a_text_as_weight, of_infinite_temperature, with_a_clip_above_one],
)
def test_an_ensemble_that_does_not_fit_together_is_refused(tmp_path, forge):
    path = next(path for path in fuzzing.make_project(tmp_path) if path.name == "ensemble.json")
    content = json.loads(path.read_text())
    forge(content["ensemble"])
    path.write_text(json.dumps(content))
    with pytest.raises(CacheFormatError, match="run BuildEnsemble with --rerun"):
        Ensemble.load(path)


@pytest.mark.parametrize("name", ["manifest.json", "listing.json", "resolved.json", "ensemble.json", "submission.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"schema": 1, "key": NaN}', '"text"', "\ufeff{}", '{"splits": {"train": 3}}']
)
def test_odd_json_is_no_more_than_not_complete(tmp_path, name, content):
    for path in fuzzing.make_project(tmp_path):
        if path.name == name:
            path.write_text(content, encoding="utf-8")
    try:
        fuzzing.read_project(tmp_path)
    except FeatcacheError as error:
        assert "\n" not in str(error)  # noqa: PT017
    assert fuzzing.project_of(tmp_path).manifest().key


# ---- nothing is followed


def link_outside(file):
    del file["status"]
    file["status"] = h5py.ExternalLink("/etc/passwd", "/status")


def soft_link(file):
    del file["status"]
    file["status"] = h5py.SoftLink("/label")


def bytes_outside(file):
    del file["status"]
    file.create_dataset("status", (9,), "u1", external=[("/etc/passwd", 0, 9)])


def virtual(file):
    del file["status"]
    layout = h5py.VirtualLayout((9,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "status", (9,))
    file.create_virtual_dataset("status", layout)


@pytest.mark.parametrize("forge", [link_outside, soft_link, bytes_outside, virtual])
def test_a_cache_that_points_elsewhere_is_refused_on_open(tmp_path, forge):
    path = write_cache(tmp_path / "a.h5", make_rows(9))
    with h5py.File(path, "r+") as file:
        forge(file)
    with pytest.raises(CacheError, match=r"a link to somewhere else|not stored as contiguous"):
        featcache.open(path)


@pytest.mark.parametrize("location", ["../../outside.png", "/dev/zero", "train/../../outside.png"])
def test_a_forged_manifest_leads_nowhere(tmp_path, location):
    fuzzing.make_project(tmp_path)

    def forge(table):
        places = [
            location.encode() if place == b"train/ants/img_1.png" else place for place in table["location"].to_pylist()
        ]
        return table.set_column(7, "location", pa.array(places))

    forge_rows(tmp_path / "out", forge)
    rows = Manifest.load(tmp_path / "out").splits["train"]
    row = rows.locations.index(location)
    with pytest.raises(SourceError, match="is not below"):
        open_source(fuzzing.photos(tmp_path)).load(rows.locations[row], rows.digests[row], 8)


# ---- nothing is executed


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_in_a_bag_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "bag.npz", header=np.array([Bomb()], object), out_of_fold=np.array([Bomb()], object))
    with pytest.raises(CacheFormatError, match="no sound bag of heads"):
        load_bag(tmp_path)
    (tmp_path / "bag.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CacheFormatError, match="no sound bag of heads"):
        load_bag(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_python_inside_a_keras_file_is_not_run(tmp_path, monkeypatch):
    keras = pytest.importorskip("keras")
    from featcache.core.progress import Silent
    from featcache.features.backbone import load_backbone
    from featcache.features.weights import resolve_weights
    from featcache.settings.specs import FeaturesSpec, Tap

    monkeypatch.chdir(tmp_path)
    layer = keras.layers.Lambda(lambda x: (__import__("os").path.isdir("exploded") or __import__("os").mkdir("exploded"), x)[1])  # fmt: skip
    model = keras.Sequential([keras.Input((32, 32, 3)), layer, keras.layers.Conv2D(2, 3, name="conv")])
    model.save(tmp_path / "own.keras")
    for made in tmp_path.glob("exploded"):
        made.rmdir()
    spec = FeaturesSpec(backbone=str(tmp_path / "own.keras"), taps=(Tap("conv"),), image_size=32)
    with pytest.raises(FeatcacheError):
        load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size=2)
    assert not (tmp_path / "exploded").exists()


def test_nothing_here_could_unpickle():
    for path in (Path(featcache.__file__).parent).rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "allow_pickle=True" not in text, path
        loads = [line for line in text.splitlines() if "models.load_model(" in line]
        assert all("safe_mode=True" in line for line in loads), path
