"""Changing one thing reruns exactly the stages that depend on it; what does not count reruns nothing."""

import os
import shutil

import numpy as np
import pytest
from projects import copied_project, small_project, write_image

from featcache.cache.reader import open_cache

EXTRACT = ["ExtractSplit", "ExtractFeatures"]
HEADS = ["TrainBag"] * 3  # of the types fast, linear and lda
RESULTS = ["PredictRows", "BuildEnsemble", "WriteSubmission"]
EVERYTHING = ["IndexImages", "ExtractSplit", *EXTRACT, *HEADS, *RESULTS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project that has run once; tests change copies of it."""
    project = small_project(tmp_path_factory.mktemp("finished"))
    assert sorted(project.run()) == sorted(EVERYTHING)
    assert project.succeeded
    return project


@pytest.fixture
def project(finished, tmp_path):
    return copied_project(finished, tmp_path / "fresh")


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def run_record(project, split):
    return next(open_cache(path).run for path in sorted((project.artifacts / "features").glob(f"{split}-*.h5")))


def test_a_second_run_does_nothing_wherever_the_folders_were_moved(project):
    assert project.run() == []
    assert project.succeeded


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("Features", {"image_size": "40"}, [*EXTRACT, "ExtractSplit", *HEADS, *RESULTS]),
        ("Features", {"taps": "block1_pool:max"}, [*EXTRACT, "ExtractSplit", *HEADS, *RESULTS]),
        ("Heads", {"dropout": "0.3"}, ["TrainBag", *RESULTS]),
        ("Heads", {"seeds": "1"}, ["TrainBag", *RESULTS]),
        ("Heads", {"preset": "default"}, ["TrainBag", *RESULTS]),
        ("Heads", {"folds": "3"}, [*HEADS, *RESULTS]),
        ("Ensemble", {"method": "mean"}, ["BuildEnsemble", "WriteSubmission"]),
        ("Submission", {"format": "probabilities"}, ["WriteSubmission"]),
        ("Submission", {"gzip": "true"}, ["WriteSubmission"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_setting_reruns_what_depends_on_it_and_coming_back_is_free(project, section, values, expected):
    before, submission = project.settings.get(section, {}).copy(), project.artifacts / "submission.csv"
    results, written = snapshot(project.artifacts), submission.read_bytes()
    project.set(section, **values)
    assert sorted(project.run()) == sorted(expected)
    assert project.succeeded
    assert project.run() == []
    project.settings[section] = before
    assert project.run() == ["WriteSubmission"], "it is only shown again"
    assert submission.read_bytes() == written
    assert not submission.with_name("submission.csv.gz").exists()
    kept = {
        path: stat
        for path, stat in results.items()
        if path.parent not in (project.artifacts, project.artifacts / "features")
    }
    assert kept.items() <= snapshot(project.artifacts).items(), "an experiment destroys nothing"
    assert project.run() == []


def test_another_tap_leaves_the_first_taps_heads_alone(project):
    heads = snapshot(project.artifacts / "heads")
    project.set("Features", taps="block1_pool:avg, block2_pool")
    assert sorted(project.run()) == sorted([*EXTRACT, "ExtractSplit", *HEADS, *RESULTS])
    assert heads.items() <= snapshot(project.artifacts / "heads").items()


def test_copies_are_added_beside_the_plain_pass(project):
    plain = snapshot(project.artifacts / "features")
    project.set("Features", copies="2")
    assert sorted(project.run()) == sorted([*EXTRACT, *HEADS, *RESULTS]), "both copies in one task"
    assert [run_record(project, f"train-copy{copy}")["computed"] for copy in (0, 1, 2)] == [24, 24, 24]
    unchanged = {path for path in plain if path.suffix == ".h5"}
    assert all(snapshot(project.artifacts / "features")[path] == plain[path] for path in unchanged)


def test_an_image_added_to_train_costs_one_forward_pass(project):
    write_image(project.folder / "photos/train/disc/new.png", (200, 60, 60), 7777)
    assert sorted(project.run()) == sorted(["IndexImages", *EXTRACT, *HEADS, *RESULTS])
    assert (run_record(project, "train")["computed"], run_record(project, "train")["copied"]) == (1, 24)


def test_an_image_added_to_test_leaves_train_and_every_head_alone(project):
    before = snapshot(project.artifacts)
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    assert sorted(project.run()) == sorted(["IndexImages", *EXTRACT, "PredictRows", "WriteSubmission"])
    after = snapshot(project.artifacts)
    kept = [path for path in before if "heads" in path.parts or path.name.startswith("train-")]
    assert kept
    assert all(after[path] == before[path] for path in kept)
    assert (run_record(project, "test")["computed"], run_record(project, "test")["copied"]) == (1, 9)
    assert len((project.artifacts / "submission.csv").read_text().splitlines()) == 11


def test_an_image_changed_in_place_is_noticed_even_with_its_old_time_and_size(project):
    path = project.folder / "photos/train/square/3.png"
    times = path.stat()
    content = bytearray(path.read_bytes())
    write_image(path, (60, 200, 60), 4242)
    changed = path.read_bytes()
    path.write_bytes(changed[: len(content)].ljust(len(content), b"\0") if len(changed) < len(content) else changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "IndexImages" in project.run()
    assert run_record(project, "train")["computed"] == 1


def test_touch_reruns_nothing(project):
    for path in (project.folder / "photos").rglob("*.png"):
        path.touch()
    assert project.run() == []
    assert project.succeeded


def test_a_removed_image_costs_no_forward_pass(project):
    (project.folder / "photos/train/disc/1.png").unlink()
    assert "IndexImages" in project.run()
    assert project.succeeded
    assert (run_record(project, "train")["computed"], run_record(project, "train")["copied"]) == (0, 23)


def test_a_renamed_image_costs_no_forward_pass(project):
    (project.folder / "photos/train/disc/1.png").rename(project.folder / "photos/train/disc/one.png")
    assert "IndexImages" in project.run()
    assert (run_record(project, "train")["computed"], run_record(project, "train")["copied"]) == (0, 24)


def test_an_image_that_changes_while_the_run_goes_on_stops_it_and_the_next_run_goes_on(project, monkeypatch):
    from featcache.features import extract

    path = project.folder / "photos/test/disc-1.png"
    compute = extract.compute

    def change(*arguments):
        write_image(path, (1, 2, 3), 99)
        monkeypatch.setattr(extract, "compute", compute)
        return compute(*arguments)

    monkeypatch.setattr(extract, "compute", change)
    project.set("Features", image_size="40")
    project.run()
    assert not project.succeeded
    worked = project.run()
    assert project.succeeded
    assert worked[0] == "IndexImages"


def test_a_weights_file_replaced_under_the_same_name_is_noticed(project):
    import keras

    def save(seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=4, name="conv")]
        keras.Sequential(layers).save(project.folder / "own.keras")

    save(1)
    project.set("Features", backbone=str(project.folder / "own.keras"), weights="auto", taps="conv")
    assert "ExtractSplit" in project.run()
    assert project.run() == []
    (project.folder / "own.keras").touch()
    assert project.run() == []
    save(2)
    assert sorted(project.run()) == sorted([*EXTRACT, "ExtractSplit", *HEADS, *RESULTS])


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("IndexImages", ["IndexImages"]),
        ("ExtractFeatures", [*EXTRACT, "ExtractSplit"]),
        ("TrainHeads", HEADS),
        ("PredictRows", ["PredictRows"]),
        ("BuildEnsemble", ["BuildEnsemble"]),
        ("WriteSubmission", ["WriteSubmission"]),
        ("Submit", []),
    ],
)
def test_rerun_makes_exactly_that_stage_run_again_with_the_same_result(project, stage, expected):
    submission = (project.artifacts / "submission.csv").read_bytes()
    features = np.array(open_cache(next((project.artifacts / "features").glob("train-*.h5")))["block1_pool_avg"])
    assert sorted(project.run(stage, rerun=True)) == sorted(expected)
    assert project.succeeded
    assert project.run() == []
    assert (project.artifacts / "submission.csv").read_bytes() == submission
    reader = open_cache(next((project.artifacts / "features").glob("train-*.h5")))
    np.testing.assert_array_equal(reader["block1_pool_avg"], features)
    if stage == "ExtractFeatures":
        assert reader.run["computed"] == 24


@pytest.mark.parametrize("stage", ["IndexImages", "ExtractFeatures", "TrainHeads", "BuildEnsemble", "WriteSubmission"])
def test_each_stage_runs_alone(finished, tmp_path, stage):
    project = small_project(tmp_path / "alone")
    shutil.copytree(finished.folder / "photos", tmp_path / "alone/photos", dirs_exist_ok=True)
    worked = project.run(stage)
    assert project.succeeded
    names = {"IndexImages", "ExtractFeatures", "TrainBag", "BuildEnsemble", "WriteSubmission"}
    assert ("TrainBag" if stage == "TrainHeads" else stage) in worked
    if stage != "WriteSubmission":
        assert names - set(worked), "what comes after it does not run"


def test_predictions_never_come_from_features_of_other_rows(project):
    """IndexImages alone, then Submit: the heads are complete, but the test rows' features aren't."""
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    assert project.run("IndexImages") == ["IndexImages"]
    assert sorted(project.run()) == sorted([*EXTRACT, "PredictRows", "WriteSubmission"])
    assert len((project.artifacts / "submission.csv").read_text().splitlines()) == 11


def test_a_removed_cache_is_made_again_when_predictions_need_it(project):
    next((project.artifacts / "features").glob("test-*.h5")).unlink()
    assert project.run() == []
    project.set("Submission", gzip="true")
    assert project.run() == ["WriteSubmission"], "it is made of predictions"
    assert project.succeeded
    project.set("Heads", seeds="1")
    assert "ExtractSplit" in project.run()
    assert project.succeeded
