"""`featcache leaderboard`: every member beside the ensemble, told honestly, without TensorFlow."""

import json
import subprocess
import sys

import pytest
from projects import small_project, write_image

from featcache.cli import main
from featcache.core.formatting import plain
from featcache.core.progress import Silent
from featcache.errors import CacheMismatchError, FeatcacheError
from featcache.inspection.leaderboard import leaderboard_lines, leaderboard_record
from featcache.stages import predictions
from pipeline.config import current_project

MEMBERS = {f"block1_pool_avg/{member}" for member in ("fast/seed0", "fast/seed1", "linear/seed0")}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = small_project(tmp_path_factory.mktemp("leaderboard"))
    for number, (name, colour) in enumerate({"disc": (200, 60, 60), "square": (60, 200, 60)}.items()):
        write_image(project.folder / f"photos/valid/{name}/v.png", colour, 5000 + number)
    project.run()
    assert project.succeeded
    return project


@pytest.fixture(scope="module")
def record(project):
    with project.in_force():
        return leaderboard_record(current_project())


def flags(project):
    pairs = [(section, key, value) for section, keys in project.settings.items() for key, value in keys.items()]
    return [text for section, key, value in pairs for text in ("--set", f"{section}.{key}={value}")]


def test_ensemble_and_best_single_come_first_and_then_every_member_by_log_loss(record):
    names = [entry["member"] for entry in record["entries"]]
    assert names[:2] == ["ensemble", "best single"]
    assert set(names[2:]) == MEMBERS
    losses = [entry["log_loss"] for entry in record["entries"][2:]]
    assert losses == sorted(losses)
    assert record["best_single"] == names[2]
    assert record["rows"] == 24


def test_scores_are_those_of_the_summary(project, record):
    stored = json.loads((project.artifacts / "submission.json").read_text())
    ensemble, single = record["entries"][:2]
    for entry, known in ((ensemble, stored["scores"]["out of fold"]), (single, stored["best_single"])):
        assert (entry["accuracy"], entry["log_loss"]) == pytest.approx((known["accuracy"], known["log_loss"]), abs=1e-6)
    assert ensemble["interval"]["log_loss"] == pytest.approx(stored["scores"]["out of fold"]["interval"]["log_loss"])
    low, high = ensemble["interval"]["log_loss"]
    assert low <= ensemble["log_loss"] <= high
    assert ensemble["splits"]["valid"]["accuracy"] == stored["scores"]["valid"]["accuracy"]


def test_an_entry_says_tap_weight_and_time(record):
    predictions = record["entries"][2:]
    assert {entry["tap"] for entry in predictions} == {"block1_pool_avg"}
    assert sum(entry["weight"] for entry in predictions) == pytest.approx(1)
    assert all(entry["seconds"] > 0 for entry in predictions)
    assert all(set(entry["splits"]) == {"valid"} for entry in record["entries"]), "test has no labels"


def test_its_lines_are_a_table(record):
    lines = plain(leaderboard_lines(record))
    assert lines[0].startswith("24 rows")
    assert lines[1].split()[:3] == ["member", "tap", "accuracy"]
    assert "valid log-loss" in lines[1]
    assert len(lines) == 1 + 1 + 2 + 3 + 1
    assert record["method"] in lines[-1]


def test_without_an_ensemble_there_are_members_and_without_members_a_line_that_helps(project, tmp_path):
    project.set("Ensemble", method="geometric")
    try:
        with project.in_force():
            record = leaderboard_record(current_project())
    finally:
        del project.settings["Ensemble"]
    assert {entry["member"] for entry in record["entries"]} == MEMBERS
    assert "no ensemble of these settings" in leaderboard_lines(record)[-1]
    untrained = small_project(tmp_path / "other")
    with untrained.in_force(), pytest.raises(FeatcacheError, match=r"no trained members.*Submit"):
        leaderboard_record(current_project())


def test_it_is_a_command_that_starts_without_tensorflow(project, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", "--json", *flags(project)]) == 0
    assert len(json.loads(capsys.readouterr().out)["entries"]) == 5
    program = (
        "import sys; from featcache.cli import main; main(sys.argv[1:]);"
        "print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'luigi', 'pandas', 'dask', 'sklearn', 'scipy'}))"
    )
    run = [sys.executable, "-c", program, "leaderboard", *flags(project)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_predictions_by_other_members_than_those_trained_are_never_published(project, monkeypatch):
    """A bag whose out-of-fold file names more members than it has heads for would leave rows of zeros."""
    (path,) = project.artifacts.glob("predictions/valid-*/probabilities.npy")
    before = path.read_bytes()
    named = predictions.stored_members
    monkeypatch.setattr(
        predictions, "stored_members", lambda record: (*named(record), f"{record.parent.name}/one more")
    )
    with (
        project.in_force(),
        pytest.raises(CacheMismatchError, match=r"2 members .* where 3 are recorded, .*: run TrainHeads"),
    ):
        predictions.predict_rows(current_project(), Silent())
    assert path.read_bytes() == before
    assert not list(path.parent.parent.glob(".tmp-*"))
