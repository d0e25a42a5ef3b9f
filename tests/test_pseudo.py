"""The second round on test rows, and heads by group, in whole projects; soft labels that leak nothing."""

import csv
import json

import numpy as np
import pytest
from head_rows import examples_of
from projects import copied_project, small_project, stored_predictions, write_image

from featcache.core.progress import Silent
from featcache.ensemble.selection import select_ensemble
from featcache.settings.schedules import Phase
from featcache.stages.pseudo_labels import by_fold, soft_labels
from featcache.training.heads.bag import load_bag
from featcache.training.heads.examples import PseudoLabels
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import HeadPlan
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import judge
from featcache.training.predictions import Predictions

CLASSES, ROWS = 3, 150
PLAN = HeadPlan(16, CLASSES, (64,), (0.0, 0.0), (Phase(1e-2, 25),), 16)


def accuracy(probabilities, labels):
    return judge(probabilities, labels).scores().accuracy


@pytest.fixture(scope="module")
def first_round():
    """Labels that are noise, and the unlabelled rows are the training rows again: only a leak can tell them."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(ROWS, 16)).astype(np.float16)
    noise, folds = generator.integers(0, CLASSES, ROWS), (np.arange(ROWS) % 3).astype(np.int32)
    parts = by_folds(folds, np.ones(ROWS, bool))
    bag = train_heads(examples_of([features], noise, parts), PLAN, (0, 1), Silent())
    ids = tuple(map(str, range(ROWS)))
    known = Predictions(ids, noise.astype(np.int32), ("a", "b"), bag.out_of_fold, ("x", "y", "z"), folds)
    return features, noise, parts, bag, select_ensemble(known, "greedy")


def second_round(features, noise, parts, labels):
    pseudo = PseudoLabels([features], labels.astype(np.float32), 1.0)
    return accuracy(
        train_heads(examples_of([features], noise, parts, pseudo), PLAN, (2,), Silent()).out_of_fold[0], noise
    )


def test_each_fold_is_labelled_by_heads_and_weights_that_have_not_seen_it(first_round):
    features, _, parts, bag, built = first_round
    said = by_fold(bag, {"tap": features}, parts)
    labels = soft_labels(said, built, parts)
    assert labels.shape == (3, ROWS, CLASSES)
    heads = bag.predict({"tap": features})
    for fold in range(3):
        own = np.stack([heads[number] for number, head in enumerate(bag.heads) if head.fold == fold])
        assert np.array_equal(said[fold], own)
        assert np.allclose(labels[fold], built.folds[fold].apply(own, clip=1.0), atol=1e-6)


def test_scores_stay_honest_and_would_not_with_labels_of_the_whole_ensemble(first_round):
    features, noise, parts, bag, built = first_round
    honest = soft_labels(by_fold(bag, {"tap": features}, parts), built, parts)
    whole = built.whole.apply(bag.member_predictions({"tap": features}), clip=1.0)
    told, leaked = (second_round(features, noise, parts, labels) for labels in (honest, np.stack([whole] * 3)))
    assert told < 0.42, "chance is a third"
    assert leaked > told + 0.12


def bags(project):
    """Folder name -> record, of all bags that were ever trained."""
    return {p.parent.name: json.loads(p.read_text()) for p in (project.artifacts / "heads").glob("*/bag.json")}


def members(project):
    return stored_predictions(project).members


def test_a_second_round_joins_the_ensemble_and_runs_alone_when_a_test_image_is_added(finished, tmp_path, monkeypatch):
    project = copied_project(finished, tmp_path / "project")
    before = bags(project)
    project.set("Heads", pseudo_weight="0.5")
    assert sorted(project.run()) == ["BuildEnsemble", "PredictRows", "TrainBag", "WriteSubmission"]
    first = [name for name in members(project) if "pseudo" not in name]
    second = ("block1_pool_avg/fast-pseudo/seed0", "block1_pool_avg/fast-pseudo/seed1")
    assert members(project) == (*first, *second)
    now = bags(project)
    assert {name: now[name] for name in before} == before, "the first round stays"
    assert project.run() == []
    write_image(project.folder / "photos/test/another.png", (200, 60, 60), 7000)
    worked = project.run()
    assert worked.count("TrainBag") == 1
    assert {"IndexImages", "ExtractSplit", "PredictRows", "WriteSubmission"} <= set(worked)
    later = bags(project)
    assert {name: later[name] for name in before} == before
    assert len(later) == len(now) + 1, "the second round of the new test rows"
    project.set("Heads", pseudo_weight="0.25")
    assert sorted(project.run()) == ["BuildEnsemble", "PredictRows", "TrainBag", "WriteSubmission"]
    monkeypatch.setattr("featcache.project.project.ENSEMBLE_VERSION", 99)  # other weights, other soft labels
    assert sorted(project.run()) == ["BuildEnsemble", "PredictRows", "TrainBag", "WriteSubmission"]


def test_test_images_that_cannot_be_used_are_not_learned_from(finished, tmp_path):
    project = copied_project(finished, tmp_path / "project")
    (project.folder / "photos/test/broken.png").write_bytes(b"no image")
    project.set("Heads", pseudo_weight="1")
    project.run()
    assert project.succeeded
    assert "block1_pool_avg/fast-pseudo/seed0" in members(project)


@pytest.fixture
def grouped(tmp_path):
    """Each image by one of two drivers, both of whom show every class."""
    project = small_project(tmp_path)
    photos = project.folder / "photos"
    with open(photos / "drivers.csv", "w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(("driver", "img"))
        for path in sorted((photos / "train").rglob("*.png")):
            named = path.rename(path.with_name(f"{path.parent.name}-{path.name}"))
            lines.writerow((f"driver{int(path.stem) % 4}", named.name))
    project.set("Dataset", groups="drivers.csv:driver")
    return project


def test_heads_of_each_group_are_further_members(grouped):
    grouped.run()
    plain, before = members(grouped), bags(grouped)
    grouped.set("Heads", per_group="true")
    assert sorted(grouped.run()) == ["BuildEnsemble", "PredictRows", "TrainBag", "WriteSubmission"]
    added = tuple(name for name in members(grouped) if name not in plain)
    assert added == ("block1_pool_avg/fast-by-group/seed0", "block1_pool_avg/fast-by-group/seed1")
    now = bags(grouped)
    assert {name: now[name] for name in before} == before
    folder = next(p for p in (grouped.artifacts / "heads").iterdir() if "by-group" in p.name)
    heads = load_bag(folder).heads
    assert len(heads) == 8, "four drivers, two seeds"
    told = stored_predictions(grouped, "heads/*by-group*/bag.json")
    assert np.isfinite(told.probabilities).all()


def test_both_need_what_they_need_and_say_so_before_the_work(tmp_path, capsys):
    project = small_project(tmp_path)
    project.set("Heads", per_group="true")
    assert project.run() == ["IndexImages"]
    assert not project.succeeded
    project.set("Heads", per_group="false", pseudo_weight="0.5")
    for path in (project.folder / "photos/test").iterdir():
        path.unlink()
    assert project.run("BuildEnsemble") == ["IndexImages"]
    assert not project.succeeded
    said = capsys.readouterr()
    text = said.out + said.err
    assert "[Heads] per_group: the training rows have no groups: set [Dataset] groups" in text
    assert "[Heads] pseudo_weight: there are no test images to label" in text
