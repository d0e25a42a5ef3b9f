"""Training images alone are a whole run: scores, report, a summary, and no submission; test images may come later."""

import shutil

import pytest
from command import luigi, photos
from projects import small_project, write_image, write_photos

from featcache.core.formatting import plain
from featcache.inspection import status
from featcache.inspection.leaderboard import ENSEMBLE, leaderboard_record
from featcache.inspection.run_summary import summary, summary_parts
from pipeline.config import current_project


def facts_and_lines(project):
    with project.in_force():
        return summary(current_project()), plain(summary_parts(current_project()))


@pytest.fixture(params=["train", "valid"])
def project(request, tmp_path):
    """A project without test images, with and without valid ones; with a report."""
    project = small_project(tmp_path)
    shutil.rmtree(tmp_path / "photos/test")
    if request.param == "valid":
        for name in ("disc", "square"):
            write_image(tmp_path / f"photos/valid/{name}/v.png", (200, 60, 60), 5000)
    project.set("Report", enabled="true")
    return project


def test_it_ends_well_and_test_images_that_come_later_train_nothing(project):
    has_valid = (project.folder / "photos/valid").is_dir()
    worked = project.run()
    assert project.succeeded
    assert "WriteReport" in worked
    assert "WriteSubmission" not in worked
    assert ("PredictRows" in worked) == has_valid
    assert not (project.artifacts / "submission.csv").exists()
    assert (project.artifacts / "report/index.html").exists()
    facts, lines = facts_and_lines(project)
    assert facts["submission"] is None
    assert list(facts["scores"]) == [*(["valid"] if has_valid else []), "out of fold"]
    text = "\n".join(lines)
    assert "out of fold  accuracy" in text
    assert f"none: no test images; put them into {project.folder / 'photos/test'}" in text
    assert "report" in text
    with project.in_force():
        board = leaderboard_record(current_project())
        assert not status.would_run(status.status_record(current_project()))
    told = next(entry for entry in board["entries"] if entry["member"] == ENSEMBLE)
    for split, score in told["splits"].items():
        assert facts["scores"][split]["accuracy"] == score["accuracy"]
        assert facts["scores"][split]["log_loss"] == pytest.approx(score["log_loss"])
    assert project.run() == []
    assert project.succeeded

    write_image(project.folder / "photos/test/new.png", (200, 60, 60), 6000)
    with project.in_force():
        stages = {s["stage"] for s in status.status_record(current_project())["stages"] if s["would_run"]}
    expected = ["IndexImages", "ExtractSplit", "ExtractFeatures", "PredictRows", "WriteSubmission", "WriteReport"]
    expected.append("FindDuplicates")
    assert stages == set(expected) - {"ExtractSplit"}
    assert sorted(project.run()) == sorted(expected)
    assert project.succeeded
    assert len((project.artifacts / "submission.csv").read_text().splitlines()) == 2

    shutil.rmtree(project.folder / "photos/test")
    assert "WriteSubmission" not in project.run()
    assert project.succeeded
    facts, _ = facts_and_lines(project)
    assert facts["submission"] is None, "the old submission is of images that are no longer there"


def test_as_people_run_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPY_BACKBONE", "1")
    write_photos(tmp_path / "photos", test=0)
    outcome = luigi(tmp_path, "Submit", **photos(tmp_path / "photos"))
    assert outcome.status == 0, outcome
    assert not outcome.err
    assert "out of fold  accuracy" in outcome.out
    assert "none: no test images; put them into" in outcome.out
    again = luigi(tmp_path, "Submit", **photos(tmp_path / "photos"))
    assert again.status == 0
    assert again.out.startswith("Submit           complete; nothing to do")
    assert "out of fold  accuracy" in again.out
    asked = luigi(tmp_path, "WriteSubmission", **photos(tmp_path / "photos"))
    assert asked.status == 30
    assert len(asked.lines) == 1
    assert "there are no test images to submit predictions for" in asked.lines[0]
