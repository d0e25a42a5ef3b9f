"""`featcache plan` against what the run then does."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from projects import flags, small_project, write_image

from featcache.cache.layout import FEATURE_DTYPE
from featcache.cache.reader import open_cache
from featcache.cli import main
from featcache.inspection import cost_estimate


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return small_project(tmp_path / "project")


def plan(project, capsys, *arguments):
    capsys.readouterr()
    assert main(["plan", "--json", *arguments, *flags(project)]) == 0
    return json.loads(capsys.readouterr().out)


def to_compute(record):
    return {f"{cache['split']}{cache['copy']}": cache["compute"] for cache in record["caches"]}


def test_a_plan_of_a_new_project_holds(project, capsys):
    record = plan(project, capsys)
    assert to_compute(record) == {"train0": 24, "test0": 9}
    assert (record["hours"], record["memory_bytes"], record["images_per_second"]) == (None, None, None)
    assert not project.artifacts.exists(), "planning makes nothing"
    project.run("ExtractFeatures")
    readers = [open_cache(path) for path in (project.artifacts / "features").glob("*.h5")]
    written = sum(reader[tap].nbytes for reader in readers for tap in reader.taps)
    assert record["features_bytes"] == written == 33 * 64 * FEATURE_DTYPE.itemsize
    assert sum(reader.run["computed"] for reader in readers) == record["rows_to_compute"]
    assert record["disk_bytes"] == record["features_bytes"] + record["heads_bytes"]


def test_heads_are_about_as_large_as_foretold(project, capsys):
    # 16,384 values a row, and 128 + 128 side by side
    project.set("Features", taps="block1_pool,block2_pool:avg,block2_pool:max")
    project.set("Heads", hidden="32", seeds="1")
    foretold = plan(project, capsys)["heads_bytes"]
    project.run()
    folders = [project.artifacts / name for name in ("heads", "predictions")]
    found = sum(path.stat().st_size for folder in folders for path in folder.rglob("*"))
    assert foretold == pytest.approx(found, rel=0.1)
    assert plan(project, capsys)["heads_bytes"] == 0
    project.set("Features", image_size="40")
    capsys.readouterr()
    assert main(["plan", *flags(project)]) == 0
    assert "unknown before the first run of this backbone and image size" in capsys.readouterr().out


def test_after_a_run_its_rate_and_memory_are_known(project, capsys):
    project.run("ExtractFeatures")
    record = plan(project, capsys)
    assert (record["rows_to_compute"], record["features_bytes"], record["hours"]) == (0, 0, 0)
    train = open_cache(next((project.artifacts / "features").glob("train-*.h5"))).run
    assert record["images_per_second"] == train["images_per_second"]
    assert record["memory_bytes"] == train["peak_bytes"] > 50e6
    project.set("Features", copies="2")
    record = plan(project, capsys)
    assert to_compute(record) == {"train0": 0, "train1": 24, "train2": 24, "test0": 0}
    assert record["hours"] == pytest.approx(48 / train["images_per_second"] / 3600, abs=1e-4)
    assert main(["plan", *flags(project)]) == 0
    assert "24 rows of photos)" in capsys.readouterr().out
    project.set("Features", image_size="40")
    assert plan(project, capsys)["hours"] is None, "another size has another rate"


def test_decoding_counts_beside_the_forward_pass_of_another_data_set(project, capsys):
    project.run("ExtractFeatures")
    for number in range(30):
        name = ("disc", "square")[number % 2]
        write_image(project.folder / f"others/train/{name}/{number}.png", (200, 60, 60), 5000 + number)
    project.set("Dataset", name="others", path=str(project.folder / "others"))
    record = plan(project, capsys)
    assert record["rows_to_compute"] == 30
    assert 1 / record["images_per_second"] == pytest.approx(
        1 / record["forward_per_second"] + 1 / record["decode_per_second"]
    )
    assert main(["plan", *flags(project)]) == 0
    assert re.search(r"\(forward [\d,]+/s by 24 rows of photos, decoding [\d,]+/s by some of", capsys.readouterr().out)


@pytest.mark.parametrize(("decoding", "expected"), [(320.0, 320.0), (9000.0, 4000.0)])
def test_a_gpu_computes_while_the_processor_decodes(monkeypatch, decoding, expected):
    monkeypatch.setattr(cost_estimate, "_decoding_rate", lambda *_: decoding)
    project = SimpleNamespace(settings=SimpleNamespace(dataset=SimpleNamespace(name="mine")))
    run = {"images_per_second": 4000.0, "shares": {"decode": 0.5}, "name": "digits", "device": "NVIDIA A100"}
    assert cost_estimate._speed(project, 224, {}, run)["images_per_second"] == expected
    assert cost_estimate._speed(project, 224, {}, {**run, "name": "mine"}) == {"images_per_second": 4000.0}


def test_rows_that_are_in_some_cache_cost_nothing(project, capsys):
    project.run("ExtractFeatures")
    write_image(project.folder / "photos/train/disc/new.png", (200, 60, 60), 7777)
    record = plan(project, capsys)
    assert to_compute(record) == {"train0": 1, "test0": 0}
    project.run("ExtractFeatures")
    assert open_cache(next((project.artifacts / "features").glob("train-*.h5"))).run["computed"] == 1


def test_a_backbone_never_run_has_an_unknown_size(project, capsys):
    project.set("Features", backbone="mobilenet", taps="conv_pw_1_relu:avg")
    record = plan(project, capsys)
    assert (record["features_bytes"], record["disk_bytes"], record["hours"]) == (None, None, None)
    assert not project.artifacts.exists()


@pytest.mark.parametrize("tap", ["block1_conv2", "block2_pool", "block5_conv3", "block3_conv1:max"])
def test_shapes_of_vgg_are_those_of_keras(project, capsys, tap):
    project.set("Features", taps=tap, image_size="45")
    before = plan(project, capsys)["features_bytes"]
    project.run("ExtractFeatures")
    readers = [open_cache(path) for path in (project.artifacts / "features").glob("*.h5")]
    assert before == sum(reader[name].nbytes for reader in readers for name in reader.taps)


def test_a_disk_that_is_too_small_is_reported(project, capsys, monkeypatch):
    from featcache.inspection import cost_estimate as planning

    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert main(["plan", *flags(project)]) == 0
    assert re.search(r"not enough disk space: .* missing", capsys.readouterr().out)


def test_it_starts_without_tensorflow(project):
    program = "import sys; from featcache.cli import main; code = main(sys.argv[1:]); sys.exit(code or 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, "plan", *flags(project)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pooled_taps_side_by_side_are_one_input(project, capsys):
    project.set("Features", taps="auto")
    record = plan(project, capsys)
    assert record["features_bytes"] == 33 * 2_560 * FEATURE_DTYPE.itemsize
    assert record["heads_bytes"] > 2 * 2_560 * 4
