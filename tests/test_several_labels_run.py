"""Rows with several labels from feature caches to submission, report and predictions; a backbone of NumPy, no TensorFlow."""

import csv
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from means_backbone import Means
from projects import write_image

from featcache import stages
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset.corrections import read_corrections
from featcache.ensemble.ensemble import Ensemble
from featcache.inference.predictor import Predictor, find_images
from featcache.inspection.leaderboard import leaderboard_lines, leaderboard_record
from featcache.project.project import Project
from featcache.report.content import report_content
from featcache.report.render import render_page
from featcache.report.suspects import suspects_record
from featcache.settings.parsing import parse_settings
from featcache.stages.comparison import some_rows

ROWS, NAMES = 60, ("blue", "green", "red")
PLANTED = 7  # the row of the table that has a wrong label
COLOURS = np.array([(0, 0, 200), (0, 200, 0), (200, 0, 0)])


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.stages.features.resolved_backbone", lambda backbone, _: Means(backbone))
        patch.setattr("featcache.inference.predictor.resolved_backbone", lambda backbone, _: Means(backbone))
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, patched):
    folder, generator = tmp_path_factory.mktemp("tags"), np.random.default_rng(0)
    labels = generator.integers(0, 2, (ROWS + 4, 3))
    labels[ROWS - 1] = 0
    for row, own in enumerate(labels):
        noise = generator.integers(0, 40, 3)
        write_image(folder / f"images/{row}.png", tuple((own @ COLOURS + noise).tolist()), row)
    listed = labels[:ROWS].copy()
    listed[PLANTED] ^= (1, 0, 0)
    lines = [",".join(map(str, [row, *own])) for row, own in enumerate(listed.tolist())]
    (folder / "train.csv").write_text("\n".join(["id,blue,green,red", *lines, ""]))
    (folder / "sample_submission.csv").write_text(
        "\n".join(["id,tags", *(f"{ROWS + k},red blue" for k in range(4)), ""])
    )
    own = {"name": "tags", "source": "table", "path": str(folder), "table": "train.csv", "id": "id"}
    own |= {"label": "blue,green,red", "images": "images", "test": "sample_submission.csv"}
    features = {"weights": "random", "taps": "block1_pool:avg", "image_size": "32", "precision": "float32"}
    heads = {"folds": "3", "seeds": "2", "preset": "fast", "pseudo_weight": "0.3", "class_weight": "balanced"}
    sections = {"Dataset": own, "Features": features, "Heads": heads, "Ensemble": {"metric": "f1_samples"}}
    sections |= {"Submission": {"format": "auto"}, "Paths": {"artifacts": str(folder / "artifacts")}}
    made = Project(parse_settings(sections))
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    for split in ("train", "test"):
        stages.extract_split(made, split, Silent())
    stages.finish_features(made, Silent())
    stages.find_duplicates(made, Silent())
    stages.train_bags(made, Silent())
    stages.build_ensemble(made, Silent())
    stages.predict_rows(made, Silent())
    stages.write_submission(made, Silent())
    return made, labels, sections


def flags(sections):
    return [
        word
        for name, own in sections.items()
        for key, value in own.items()
        for word in ("--set", f"{name}.{key}={value}")
    ]


def test_the_submission_has_the_tags_of_each_image(project):
    made, labels, _ = project
    with open(made.folder / "submission.csv", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["id", "tags"]
    for row, (name, tags) in enumerate(lines[1:]):
        assert name == str(ROWS + row)
        wanted = [label for label, there in zip(NAMES, labels[ROWS + row], strict=True) if there]
        assert tags.split() == wanted or not wanted
    assert {kind for _, kind in made.bags()} == {"fast", "linear", "fast-pseudo"}


def test_the_leaderboard_is_headed_by_the_metric(project):
    record = leaderboard_record(project[0])
    assert record["metric"] == "f1_samples"
    assert record["entries"][0]["f1_samples"] > 0.8  # an eighth has no labels, which scores 0
    assert "f1_samples" in str(leaderboard_lines(record)[1])


def test_the_report_has_scores_a_label_and_no_confusions(project):
    content = report_content(project[0], Silent())
    table = content["classes"]["train"]
    assert table["matrix"] is None
    assert [row["name"] for row in table["table"]] == list(NAMES)
    assert [(row["auc"] > 0.7, 0 < row["threshold"] < 1) for row in table["table"]] == [(True, True)] * 3
    assert content["pictures"]["map"]["labels"][ROWS - 1] == 3  # of none
    assert content["names"][3] == "no label"
    assert "Labels that are most often together" in render_page(content, datetime.now(UTC))


def named(labels):
    return "|".join(name for name, there in zip(NAMES, labels, strict=True) if there)


def test_a_suspected_label_is_corrected_in_its_set(project):
    made, labels, _ = project
    found = {each["id"]: each for each in suspects_record(made)["suspects"]}[str(PLANTED)]
    assert found["label"] == named(labels[PLANTED])
    assert found["given"] == named(labels[PLANTED] ^ (1, 0, 0))
    assert found["probability"] > found["given_probability"]


def test_sets_are_marked_on_the_page(project, browser, tmp_path):
    made, labels, _ = project
    (tmp_path / "report.html").write_text(render_page(report_content(made, Silent()), datetime.now(UTC)))
    page = browser.new_page(accept_downloads=True)
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("[data-tab=gallery-errors]").click()
    planted = page.locator("#gallery-errors .shot", has=page.locator(f'.marks[data-id="{PLANTED}"]')).first
    planted.locator("[data-mark=wrong]").click()
    assert planted.locator("select").evaluate("each => each.multiple")
    with page.expect_download() as download:
        page.locator("#save-marks").click()
    download.value.save_as(tmp_path / "one.csv")
    assert [*map(tuple, read_corrections(tmp_path / "one.csv"))] == [(str(PLANTED), named(labels[PLANTED]), "train")]
    planted.locator("select").select_option(["green", "red"])
    with page.expect_download() as download:
        page.locator("#save-marks").click()
    download.value.save_as(tmp_path / "two.csv")
    assert read_corrections(tmp_path / "two.csv")[0].label == "green|red"
    page.context.close()


def test_each_member_is_a_table_of_predictions(project, tmp_path):
    made, labels, _ = project
    assert main(["export", str(made.bag(*made.bags()[0]).path), str(tmp_path / "p.csv")]) == 0
    with open(tmp_path / "p.csv", newline="") as stream:
        row = next(each for each in csv.DictReader(stream) if each["id"] == "0.png" or each["id"] == "0")
    assert row["label"] == named(labels[0])


def test_new_images_get_labels(project, capsys, tmp_path):
    made, labels, sections = project
    photos = made.settings.dataset.path / "images"
    predictor = Predictor(made, Silent())
    found = list(predictor.predict(find_images([photos / "61.png", photos / "62.png"]), 2))
    test = Ensemble.load(made.ensemble().path)
    assert test.several
    assert [each.labels for each in found] == [tuple(np.flatnonzero(labels[row]).tolist()) for row in (61, 62)]
    assert main(["predict", str(photos / "61.png"), "--json", "--csv", str(tmp_path / "c.csv"), *flags(sections)]) == 0
    record = json.loads(capsys.readouterr().out)[0]
    assert record["labels"] == [NAMES[label] for label in found[0].labels]
    assert "class" not in record
    assert (tmp_path / "c.csv").read_text().startswith("file,labels,blue,green,red,farther_than\n")
    assert main(["predict", str(photos / "61.png"), *flags(sections)]) == 0
    assert "labels" in capsys.readouterr().out.splitlines()[0]


def test_some_rows_keep_rare_labels(project):
    from featcache.dataset import Manifest

    rows = Manifest.load(project[0].folder).splits["train"]
    some = some_rows(rows, 20)
    assert 15 <= len(some) <= 25
    assert some.labels.any(axis=0).all()
