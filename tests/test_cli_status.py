"""`featcache status` names what Luigi then runs, exactly, and why."""

import json
import os
import subprocess
import sys

import pytest
from projects import copied_project, flags, small_project, write_image

from featcache.cli import main
from featcache.core import keys
from featcache.errors import SettingsError
from featcache.project import config_file
from featcache.project.artifact import Artifact
from featcache.project.flow import NEEDS

FAMILIES = {"ExtractSplit": "ExtractFeatures", "TrainBag": "TrainHeads"}
ALL = ["IndexImages", "ExtractFeatures", "TrainHeads", "PredictRows", "BuildEnsemble", "WriteSubmission"]


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    copied = copied_project(finished, tmp_path / "other")
    monkeypatch.chdir(tmp_path)  # where there is no luigi.cfg
    return copied


def states(project, capsys):
    """Stage -> reason of the stages that `featcache status --check` says would run; its exit status must agree."""
    capsys.readouterr()
    code = main(["status", "--check", "--json", *flags(project)])
    record = json.loads(capsys.readouterr().out)
    running = {stage["stage"]: stage["reason"] for stage in record["stages"] if stage["would_run"]}
    assert code == bool(running)
    return running


def ran(project):
    return {FAMILIES.get(family, family) for family in project.run()}


def test_a_finished_project_would_run_nothing(project, capsys):
    assert states(project, capsys) == {}
    assert main(["status", *flags(project)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(project.artifacts)
    assert [line.split()[:2] for line in lines[2:]] == [[stage, "complete"] for stage in ALL]
    assert all(" kB " in line or " B " in line or " MB " in line for line in lines[2:])


def test_every_record_keeps_exactly_what_its_key_was_made_of(finished):
    """What explains and what decides are the same mapping, so they can't diverge."""
    folder = finished.artifacts
    patterns = ("ensembles/*/ensemble.json", "submissions/*/submission.json", "predictions/*/predictions.json")
    paths = [path for pattern in ("features/features.json", "submission.json", "heads/*/bag.json", *patterns)
             for path in folder.glob(pattern)]  # fmt: skip
    for path in paths:
        record = Artifact(path, None).record()
        assert keys.digest(record["inputs"]) == record["key"], path
    assert len(paths) == 8


def test_nothing_there_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project = small_project(tmp_path / "new")
    assert states(project, capsys) == dict.fromkeys(ALL, "nothing there yet")
    assert not project.artifacts.exists(), "asking makes no folder"


FEATURES = {"TrainHeads": "upstream: ExtractFeatures", "PredictRows": "upstream: ExtractFeatures"}
RESULTS = {"BuildEnsemble": "upstream: TrainHeads", "WriteSubmission": "upstream: BuildEnsemble"}


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("Features", {"image_size": "40"}, {"ExtractFeatures": "Features: image_size 32 -> 40", **FEATURES, **RESULTS}),
        (
            "Features",
            {"taps": "block1_pool:max"},
            {
                "ExtractFeatures": "Features: taps block1_pool:avg -> block1_pool:max",
                **FEATURES,
                "TrainHeads": "nothing there yet",
                **RESULTS,
            },
        ),
        (
            "Features",
            {"image_fit": "crop"},
            {"ExtractFeatures": "Features: image_fit stretch -> crop", **FEATURES, **RESULTS},
        ),
        (
            "Heads",
            {"dropout": "0.3", "seeds": "1"},
            {
                "TrainHeads": "Heads: dropout unset -> 0.3, seeds 2 -> 1",
                "PredictRows": "upstream: TrainHeads",
                **RESULTS,
            },
        ),
        (
            "Features",
            {"copies": "1"},
            {
                "ExtractFeatures": "Features: copies 0 -> 1",
                **FEATURES,
                "PredictRows": "upstream: TrainHeads",
                **RESULTS,
            },
        ),
        ("Ensemble", {"method": "mean"}, {**RESULTS, "BuildEnsemble": "Ensemble: method auto -> mean"}),
        ("Submission", {"gzip": "true"}, {"WriteSubmission": "Submission: gzip false -> true"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_changed_setting_is_named_and_exactly_what_is_named_runs(project, capsys, section, values, expected):
    project.set(section, **values)
    assert states(project, capsys) == expected
    assert ran(project) == set(expected)
    assert states(project, capsys) == {}


def test_many_taps_that_are_auto_are_called_so(project, capsys):
    project.set("Features", taps="auto")
    assert states(project, capsys)["ExtractFeatures"] == "Features: taps block1_pool:avg -> auto"


def test_changed_images_are_counted_before_anything_runs(project, capsys):
    photos = project.folder / "photos"
    for number in range(3):
        write_image(photos / f"train/disc/new{number}.png", (200, 60, 60), 7000 + number)
    write_image(photos / "train/square/3.png", (60, 200, 60), 4242)
    (photos / "test/disc-1.png").rename(photos / "test/disc-one.png")
    (photos / "test/disc-2.png").unlink()
    before = sorted(path for path in project.artifacts.rglob("*") if path.name != "listing.csv")
    running = states(project, capsys)
    assert running["IndexImages"] == "Manifest: 3 added, 1 removed, 1 renamed, 1 changed"
    assert running["ExtractFeatures"] == "upstream: IndexImages"
    assert before == sorted(path for path in project.artifacts.rglob("*") if path.name != "listing.csv")
    assert states(project, capsys) == running, "asking changed nothing"
    assert ran(project) == set(running)


def test_an_image_added_to_test_would_train_nothing(project, capsys):
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    running = states(project, capsys)
    assert set(running) == {"IndexImages", "ExtractFeatures", "PredictRows", "WriteSubmission"}
    project.run("IndexImages")
    assert states(project, capsys)["ExtractFeatures"] == "Manifest: 1 added"
    assert ran(project) == set(running) - {"IndexImages"}


def test_what_a_second_round_waits_for_is_a_stage(project, capsys):
    project.set("Heads", pseudo_weight="0.5")
    project.run()
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    project.run("ExtractFeatures")
    assert states(project, capsys)["TrainHeads"] == "upstream: ExtractFeatures"
    (bag,) = project.artifacts.glob("heads/*-pseudo-*/bag.json")
    inputs = json.loads(bag.read_text())["inputs"]
    assert set(inputs["upstream"]) == {"ExtractFeatures", "TrainHeads"}
    write_image(project.folder / "photos/train/disc/0.png", (60, 60, 200), 7778)
    project.run("ExtractFeatures")
    assert states(project, capsys)["TrainHeads"] == "upstream: ExtractFeatures", "not the stage itself"
    assert ran(project) == {"TrainHeads", "PredictRows", "BuildEnsemble", "WriteSubmission"}


def test_a_file_moved_to_another_class_and_a_new_class(project, capsys):
    photos = project.folder / "photos"
    (photos / "train/disc/1.png").rename(photos / "train/square/99.png")
    assert states(project, capsys)["IndexImages"] == "Manifest: 1 renamed"
    for number in range(2):
        write_image(photos / f"train/star/{number}.png", (9, 9, 9), number)
    assert states(project, capsys)["IndexImages"] == "Manifest: class 'star' added; Manifest: 2 added, 1 renamed"


def test_a_weights_file_replaced_under_the_same_name(project, capsys):
    import keras

    def save(seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=4, name="conv")]
        keras.Sequential(layers).save(project.folder / "own.keras")

    save(1)
    project.set("Features", backbone=str(project.folder / "own.keras"), weights="auto", taps="conv")
    project.run("ExtractFeatures")
    save(2)
    assert states(project, capsys)["ExtractFeatures"] == "weights file changed"
    (project.folder / "own.keras").unlink()


def test_what_is_not_there_but_not_needed_does_not_run(project, capsys):
    """Luigi looks upstream of what is incomplete only: caches may be removed once the submission stands."""
    for path in (project.artifacts / "features").iterdir():
        path.unlink()
    assert states(project, capsys) == {}
    assert main(["status", *flags(project)]) == 0
    assert "not needed" in capsys.readouterr().out
    assert ran(project) == set()


def test_a_submission_changed_by_hand_runs_again(project, capsys):
    (project.artifacts / "submission.csv").write_text("id,label\n")
    assert states(project, capsys) == {"WriteSubmission": "submission.csv was changed by hand"}
    assert ran(project) == {"WriteSubmission"}


@pytest.mark.parametrize(
    ("record", "stage"),
    [
        ("ensembles/*/ensemble.json", "BuildEnsemble"),
        ("heads/*/bag.json", "TrainHeads"),
        ("predictions/*/predictions.json", "PredictRows"),
    ],
)
def test_a_damaged_record_runs_again_once_it_is_needed(project, capsys, record, stage):
    path = next(project.artifacts.glob(record))
    path.write_bytes(path.read_bytes()[:5])
    assert states(project, capsys) == {}, "the submission stands"
    if stage == "TrainHeads":
        project.set("Ensemble", method="mean")
    project.set("Submission", gzip="true")
    running = states(project, capsys)
    assert running[stage] == f"{path.name} is damaged"
    assert ran(project) == set(running)


def test_a_stage_does_not_wait_for_one_that_is_complete(project, capsys):
    def told():
        capsys.readouterr()
        main(["status", "--json", *flags(project)])
        return {stage["stage"]: stage["reason"] for stage in json.loads(capsys.readouterr().out)["stages"]}

    (project.artifacts / "features/features.json").unlink()
    assert told()["ExtractFeatures"] == "its record is missing or of other features"
    project.set("Heads", hidden="9")
    project.run("TrainHeads")
    reasons = told()
    assert reasons["TrainHeads"] == ""
    assert reasons["BuildEnsemble"] == "upstream: TrainHeads", "which made something else since"
    assert reasons["WriteSubmission"] == "upstream: BuildEnsemble"


def test_the_same_luigi_cfg_as_luigi(project, tmp_path, monkeypatch):
    other = tmp_path / "extra.cfg"
    (tmp_path / "luigi.cfg").write_text(
        "[Dataset]\nname = ${FC_NAME}\n[Heads]\nbatch-size = 32\nseeds = 7\n[worker]\nx=1\n[TrainBag]\nrerun=1\n"
    )
    other.write_text("[Heads]\nseeds = 9\n")
    monkeypatch.setenv("FC_NAME", "bees")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(other))
    found = config_file.configured_project(["Features.image-size=64"]).settings
    assert (found.dataset.name, found.heads.batch_size, found.heads.seeds) == ("bees", 32, 9)
    assert found.features.image_size == 64
    program = (
        "import pipeline.config as c; s = c.current_project().settings;"
        "print(s.dataset.name, s.heads.batch_size, s.heads.seeds)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["bees", "32", "9"], done.stderr


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[Heads]\nsedes = 3\n", "did you mean seeds"),
        ("[Heads]\nseeds = three\n", "is not a whole number"),
        ("no section\n", "luigi.cfg"),
        ("[Heads]\nseeds = ${FC_UNSET}\n", "environment variable FC_UNSET"),
        ("[Heads]\nseeds = %(nothing)s\n", "luigi.cfg"),
    ],
)
def test_a_wrong_luigi_cfg_is_one_line(tmp_path, monkeypatch, capsys, content, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "luigi.cfg").write_text(content)
    assert main(["status"]) == 1
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("override", ["image_size=3", "Features=3", "Features.image_size", ".x=1"])
def test_an_override_needs_section_key_and_value(override):
    with pytest.raises(SettingsError, match=r"is not Section\.key=value"):
        config_file.configured_project([override])


def test_the_stages_are_those_of_the_pipeline():
    from luigi import Task

    import pipeline.tasks as tasks

    stages = {name for name, value in vars(tasks).items() if isinstance(value, type) and issubclass(value, Task)}
    assert set(NEEDS) == stages - {"Stage"}


def test_what_a_stage_needs_is_what_luigi_asks_for(finished, monkeypatch):
    import pipeline.tasks as tasks

    monkeypatch.setattr(tasks.Stage, "is_stored", lambda stage: False)  # what is stored needs nothing
    with finished.in_force():
        for stage in set(NEEDS) - {"ExtractSplit", "TrainBag", "Submit"}:
            asked = {
                task.task_family for task in getattr(tasks, stage)(rerun=True).deps()
            }  # results that are stored need nothing
            if stage == "TrainHeads":
                assert asked == {"TrainBag"}
                asked = {task.task_family for task in tasks.TrainBag(tap="block1_pool_avg", shape="fast").deps()}
            assert asked == set(NEEDS[stage]), stage
        assert [stage.task_family for stage in tasks.Submit().results()] == ["WriteSubmission"], "without a report"


def test_it_starts_without_slow_packages(project):
    program = (
        "import sys; from featcache.cli import main; main(sys.argv[1:]);"
        "print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'luigi', 'pandas', 'dask', 'sklearn'}))"
    )
    done = subprocess.run([sys.executable, "-c", program, "status", *flags(project)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
