"""`featcache leaderboard`: every member beside the ensemble, told honestly, without TensorFlow."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from projects import small_project, write_image

from featcache.cli import main
from featcache.core.formatting import plain
from featcache.core.progress import Silent
from featcache.errors import CacheMismatchError, FeatcacheError, SubmissionError
from featcache.inspection.leaderboard import compared, leaderboard_lines, leaderboard_record
from featcache.inspection.run_summary import summary_parts
from featcache.report import render_page, report_content
from featcache.stages import find_duplicates, predictions
from featcache.stages.preflight import check_submission
from pipeline.config import current_project

BASELINES = ("regression on block1_pool_avg features", "majority class")
MEMBERS = {f"block1_pool_avg/{member}" for member in ("fast/seed0", "fast/seed1", "linear/seed0", "lda/seed0")}


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
    assert names[:4] == ["ensemble", "best single", *BASELINES]
    assert set(names[4:]) == MEMBERS
    losses = [entry["log_loss"] for entry in record["entries"][4:]]
    assert losses == sorted(losses)
    assert record["best_single"] == names[4]
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


def test_baselines_are_scored_as_members_are_and_compared_with_the_ensemble(project, record):
    by_name = {entry["member"]: entry for entry in record["entries"]}
    regression, majority = (by_name[name] for name in BASELINES)
    member = by_name["block1_pool_avg/linear/seed0"]
    for what in ("accuracy", "log_loss", "interval", "splits"):
        assert regression[what] == member[what]
    # 25 rows of three classes, one of them rejected, and two in `valid`
    assert majority["log_loss"] == pytest.approx(np.log(3), abs=0.05)
    assert majority["splits"]["valid"]["accuracy"] == 0.5
    stored = json.loads((project.artifacts / "submission.json").read_text())
    assert [each["name"] for each in stored["baselines"]] == list(BASELINES)
    assert json.loads(json.dumps(record["baselines"])) == stored["baselines"]
    lines = plain(leaderboard_lines(record))[-3:-1]
    assert [line.partition(": ")[0] for line in lines] == [f"ensemble and {name}" for name in BASELINES]


def test_a_difference_is_told_apart_from_chance():
    baseline = {
        "scores": {"accuracy": 0.9, "log_loss": 0.25},
        "difference": {"accuracy": [-0.01, 0.03], "log_loss": [-0.06, -0.04]},
    }
    ours = {"accuracy": 0.91, "log_loss": 0.2}
    assert compared(baseline, ours) == (
        "no clear difference in accuracy (0.0100 worse to 0.0300 better), log-loss better by 0.0500 (0.0400 to 0.0600)"
    )
    worse = {"accuracy": [-0.03, -0.01], "log_loss": [0.0, 0.0]}
    assert compared(baseline | {"difference": worse}, {"accuracy": 0.88, "log_loss": 0.25}) == (
        "accuracy worse by 0.0200 (0.0100 to 0.0300), no clear difference in log-loss (0.0000 worse to 0.0000 better)"
    )


def test_an_entry_says_tap_weight_and_time(record):
    predictions = record["entries"][4:]
    assert {entry["tap"] for entry in predictions} == {"block1_pool_avg"}
    assert sum(entry["weight"] for entry in predictions) == pytest.approx(1)
    assert all(entry["seconds"] > 0 for entry in predictions)
    assert all(set(entry["splits"]) == {"valid"} for entry in record["entries"]), "test has no labels"


def test_its_lines_are_a_table(record):
    lines = plain(leaderboard_lines(record))
    assert lines[0].startswith("24 rows")
    assert lines[1].split()[:3] == ["member", "tap", "accuracy"]
    assert "valid log-loss" in lines[1]
    assert len(lines) == 1 + 1 + 4 + len(MEMBERS) + 2 + 1
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
    assert len(json.loads(capsys.readouterr().out)["entries"]) == 4 + len(MEMBERS)
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


def test_another_metric_comes_first_and_decides_what_is_written(project, record):
    """By key: the ensemble of log-loss has the key that it had before there were metrics, and stays."""
    with project.in_force():
        before = current_project().ensemble()
    assert "metric" not in before.inputs["settings"]["Ensemble"]
    project.set("Ensemble", metric="qwk")
    project.set("Submission", format="auto")
    assert project.run() == ["BuildEnsemble", "WriteSubmission"]
    with project.in_force():
        current = current_project()
        find_duplicates(current, Silent())  # which only the report needs
        board, text = leaderboard_record(current), "\n".join(plain(summary_parts(current)))
        content = report_content(current, Silent())
        page = render_page(content, datetime.now(UTC))
    assert before.is_complete()
    ensemble = board["entries"][0]
    assert list(board["entries"][0]["interval"]) == ["accuracy", "log_loss", "qwk"]
    header = plain(leaderboard_lines(board))[1]
    assert header.split()[:5] == ["member", "tap", "qwk", "95", "%"]
    members = [entry["qwk"] for entry in board["entries"][4:]]
    assert members == sorted(members, reverse=True)
    assert f"out of fold  qwk {ensemble['qwk']:.4f} (" in text
    assert "; the ensemble: qwk better by" in text
    assert "qwk, the metric that decides" in page
    written = (project.artifacts / "submission.csv").read_text().split()
    assert written[0] == "id,label"
    assert len(written) == 1 + 9


def test_a_metric_that_contradicts_the_format_is_told_before_features_are_computed(project):
    project.set("Ensemble", metric="map@3")
    project.set("Submission", format="labels")
    with project.in_force(), pytest.raises(SubmissionError, match="format = top3"):
        check_submission(current_project())
