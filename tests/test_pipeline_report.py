"""WriteReport as a stage: beside the submission, with a key of its own, and never holding the submission back."""

import json
import re
import shutil
from datetime import UTC, datetime

import pytest
from projects import copied_project, write_image
from report_data import COPY, PLANTED

from featcache.core.formatting import plain
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.errors import SourceChangedError
from featcache.inspection import status
from featcache.inspection.run_summary import summary, summary_parts
from featcache.inspection.verify.checks import file_faults, kind_of
from featcache.report.content import report_content
from featcache.report.render import render_page
from pipeline.config import current_project

PAGE = "report/index.html"


@pytest.fixture
def project(reported, tmp_path):
    copied = copied_project(reported, tmp_path / "fresh")
    for section in ("Heads", "Report"):
        copied.set(section, **reported.settings[section])
    return copied


def stages(project):
    with project.in_force():
        return {stage["stage"]: stage for stage in status.status_record(current_project())["stages"]}


def rerun_page(project):
    assert project.run("WriteReport", rerun=True) == ["WriteReport"]
    return (project.artifacts / PAGE).read_text("utf-8")


def without_time(page):
    return re.sub(r"<time.*?</time>", "", page)


def test_a_second_run_does_nothing_and_status_knows_the_stage(project):
    assert project.run() == []
    assert stages(project)["WriteReport"]["complete"]
    assert stages(project)["WriteReport"]["paths"] == [str(project.artifacts / PAGE)]


def test_the_summary_says_where_it_is(project):
    with project.in_force():
        assert summary(current_project())["report"] == str(project.artifacts / PAGE)
    (project.artifacts / PAGE).unlink()
    with project.in_force():
        assert summary(current_project())["report"] is None


def test_the_same_inputs_give_the_same_page_but_for_its_time(project):
    before, after = (rerun_page(project) for _ in range(2))
    assert after.count("<time") == 1
    assert without_time(before) == without_time(after)


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("Submission", {"gzip": "true"}, ["WriteSubmission"]),
        ("Ensemble", {"method": "mean"}, ["BuildEnsemble", "WriteReport", "WriteSubmission"]),
        ("Report", {"enabled": "false"}, []),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_the_page_tells_decides_when_it_is_written_again(project, section, values, expected):
    project.set(section, **values)
    assert sorted(project.run()) == expected
    assert project.succeeded


def test_a_page_changed_by_hand_is_written_again(project):
    (project.artifacts / PAGE).write_text("mine")
    assert stages(project)["WriteReport"]["reason"] == "index.html was changed by hand"
    assert project.run() == ["WriteReport"]


def test_verify_knows_a_page_that_is_not_the_one_that_was_written(project):
    path = project.artifacts / "report/report.json"
    assert kind_of(path) == "report"
    assert list(file_faults(path)) == []
    (project.artifacts / PAGE).write_text("mine")
    (fault,) = file_faults(path)
    assert fault.message == "index.html was changed after it was written: SHA-256 mismatch"


def test_a_report_that_fails_leaves_the_submission_and_says_so_last(project, monkeypatch, capfd):
    def fails(*_):
        raise SourceChangedError("an image changed")

    monkeypatch.setattr("featcache.stages.report.report_content", fails)
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    assert "WriteSubmission" in project.run()
    assert not project.succeeded
    assert len((project.artifacts / "submission.csv").read_text().splitlines()) == 12
    said = capfd.readouterr()
    assert "out of fold" in said.out, "the summary is shown all the same"
    path = project.artifacts / "submission.csv"
    assert said.err.splitlines()[-1] == (
        f"featcache: the submission is written and checked ({path}); only the report failed: an image changed"
    )
    monkeypatch.undo()
    assert project.run() == ["WriteReport"], "the next run makes up for it"
    assert project.succeeded


def test_a_report_that_fails_leaves_the_scores_where_there_is_nothing_to_submit(project, monkeypatch, capfd):
    def fails(*_):
        raise SourceChangedError("an image changed")

    monkeypatch.setattr("featcache.stages.report.report_content", fails)
    shutil.rmtree(project.folder / "photos/test")
    project.run()
    assert not project.succeeded
    said = capfd.readouterr()
    assert "out of fold" in said.out
    assert (
        said.err.splitlines()[-1] == "featcache: everything else is complete; only the report failed: an image changed"
    )


def test_without_test_images_the_page_tells_of_training_rows_alone(project):
    for split in ("valid", "test"):
        shutil.rmtree(project.folder / "photos" / split)
    assert project.run("WriteReport")[-1] == "WriteReport"
    assert project.succeeded
    with project.in_force():
        content = report_content(current_project(), Silent())
    assert list(content["classes"]) == ["train"]
    assert content["overview"]["splits"] == {}


def test_its_content_is_json(project):
    with project.in_force():
        content = report_content(current_project(), Silent())
    assert json.loads(json.dumps(content, allow_nan=False))["overview"]["scored"] == 34


def test_the_page_compares_the_ensemble_with_what_anybody_would_try_first(project):
    with project.in_force():
        content = report_content(current_project(), Silent())
    baselines, board = content["overview"]["baselines"], content["leaderboard"]
    assert [each["name"] for each in baselines] == [entry["member"] for entry in board["entries"][2:4]]
    assert baselines[-1]["name"] == "majority class"
    assert board["entries"][3]["interval"]["accuracy"][0] < board["span"][0], "its whisker is left out"
    page = (project.artifacts / "report/index.html").read_text()
    assert "Majority class</strong>: " in page
    assert all(f"The ensemble: {each['gained']}." in page for each in baselines)


def test_it_reads_the_manifest_once(project, monkeypatch):
    load, loaded = Manifest.load, []
    monkeypatch.setattr(Manifest, "load", lambda folder: loaded.append(folder) or load(folder))
    with project.in_force():
        report_content(current_project(), Silent())
    assert len(loaded) == 1


def test_images_unlike_anything_seen_are_shown_and_counted_in_the_summary(project):
    path = project.artifacts / "features/duplicates.json"
    record = json.loads(path.read_text())
    assert record["unlike"]["of"] == {"valid": 3, "test": 10}
    record["unlike"]["rows"] = [["test", 2, 1.0], ["valid", 0, 0.9961], ["test", 1, 0.9955]]
    path.write_text(json.dumps(record))
    with project.in_force():
        content = report_content(current_project(), Silent())
        lines = "\n".join(plain(summary_parts(current_project())))
    groups = {each["split"]: each for each in content["pictures"]["unlike"]["groups"]}
    assert [each["id"] for each in groups["test"]["images"]] == ["disc-1.png", "disc-0.png"]
    assert all(each["image"] for each in groups["test"]["images"])
    assert "<strong>test</strong>: 2 of 10" in render_page(content, datetime.now(UTC))
    assert "2 of 10 test images and 1 of 3 valid images: far from every training image" in lines


def test_it_finds_what_was_planted(project):
    with project.in_force():
        content = report_content(current_project(), Silent())
    found = content["pictures"]
    first = found["cards"]["errors"][0]
    assert (first["id"], first["label"], first["predicted"]) == (PLANTED, "square", "disc")
    assert [near["label"] for near in first["neighbours"]] == ["disc"] * 5
    assert found["totals"]["errors"] == 1
    (group,) = found["duplicates"]["groups"]
    assert [(each["split"], each["id"]) for each in group["images"]] == [("train", "disc/0.png"), ("test", COPY)]
    assert (group["across"], group["labels"]) == (True, False)
    assert content["rejected"]["total"] == 1
    assert content["rejected"]["rows"][0][:2] == ["train", "disc/broken.png"]
    assert [found["map"]["ids"][i] for i, suspected in enumerate(found["map"]["suspected"]) if suspected] == [PLANTED]
    assert len(found["map"]["ids"]) == found["map"]["of"] == 34
