"""Convnets in a whole project: when they are trained, what they are part of, and what a kill leaves."""

import json
import random
import shutil

import numpy as np
import pytest
from projects import copied_project, small_project, stored_ensemble, stored_predictions, write_image
from runs import command, finish, start

from featcache.training.convnet import trainer
from featcache.training.convnet.checkpoints import PartialFolder
from featcache.training.folds import ALWAYS
from pipeline.config import current_project

SETTINGS = {"members": "1", "image_size": "16", "schedule": "3e-3x2", "batch_size": "8"}
RESULTS = ["BuildEnsemble", "PredictRows", "WriteSubmission"]


def convnets(project):
    return sorted((project.artifacts / "convnets").iterdir())


def out_of_fold(project, seed=0):
    return stored_predictions(project, f"convnets/seed{seed}-????????/convnet.json")


def said_by(project):
    """The member's out-of-fold probabilities as bytes."""
    return out_of_fold(project).probabilities.tobytes()


def sketch(project):
    """Everything below convnets/ as it stands."""
    return {path: path.stat().st_mtime_ns for path in (project.artifacts / "convnets").rglob("*") if path.is_file()}


def with_settings(project, **values):
    project.set("ConvNet", **{**SETTINGS, **values})
    return project


@pytest.fixture(scope="module")
def trained(tmp_path_factory, finished):
    """The finished project, and then a member of small convolutional networks."""
    project = with_settings(copied_project(finished, tmp_path_factory.mktemp("trained") / "project"))
    assert sorted(project.run()) == sorted(["TrainConvNets", *RESULTS])
    assert project.succeeded
    return project


@pytest.fixture
def project(trained, tmp_path):
    return with_settings(copied_project(trained, tmp_path / "fresh"))


def test_without_members_nothing_is_trained(project):
    project.set("ConvNet", members="0")
    assert "TrainConvNets" not in project.run()
    assert project.succeeded
    assert project.run("TrainConvNets") == []
    assert "convnet/seed0" not in json.loads((project.artifacts / "submission.json").read_text())["members"]


def test_the_member_stands_beside_the_heads(trained):
    (folder,) = convnets(trained)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("convnet.json", "fold0.keras", "fold1.keras", "folds.npy", "out_of_fold.npy"),
    ]
    said = out_of_fold(trained)
    heads = stored_predictions(trained, "heads/*/bag.json")
    assert said.members == ("convnet/seed0",)
    assert np.array_equal(said.folds, heads.folds)
    assert said.ids == heads.ids
    assert np.allclose(said.probabilities.sum(axis=2), 1, atol=1e-5)
    members = stored_predictions(trained).members
    assert len(members) > 1
    assert members[-1] == "convnet/seed0"
    assert set(stored_ensemble(trained).member_scores) == set(members)
    record = json.loads((folder / "convnet.json").read_text())
    assert {len(values) for fold in record["history"].values() for values in fold.values()} == {2}
    assert record["plan"]["channels"] == 3


def test_a_new_test_image_trains_nothing(project):
    before = sketch(project)
    write_image(project.folder / "photos/test/new.png", (60, 60, 200), 7777)
    worked = project.run()
    assert project.succeeded
    assert "PredictRows" in worked
    assert "TrainConvNets" not in worked
    assert sketch(project) == before
    assert "new.png" in stored_predictions(project).ids


def test_what_only_features_depend_on_trains_nothing(project):
    project.set("Features", image_size="40")
    assert "TrainConvNets" not in project.run()
    assert project.succeeded


def test_another_member_leaves_the_first_alone(project):
    before = sketch(project)
    project.set("ConvNet", members="2")
    assert sorted(project.run()) == sorted(["TrainConvNets", *RESULTS])
    assert before.items() <= sketch(project).items()
    one, other = (out_of_fold(project, seed) for seed in (0, 1))
    assert not np.allclose(one.probabilities, other.probabilities)
    project.set("ConvNet", members="1")
    assert "TrainConvNets" not in project.run()


def test_killed_between_folds_it_goes_on_with_the_next(project, monkeypatch):
    expected = said_by(project)
    shutil.rmtree(project.artifacts / "convnets")
    finish_fold, trained = PartialFolder.finish, []

    def killed_after(self, fold, model, history):
        finish_fold(self, fold, model, history)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialFolder, "finish", killed_after)
        with pytest.raises(KeyboardInterrupt):
            project.run("TrainConvNets")
    (partial,) = convnets(project)
    assert partial.name.endswith(".partial"), "nothing half-made looks done"
    train = trainer.train_network

    def note(plan, data, seed, fold, *rest):
        trained.append(fold)
        return train(plan, data, seed, fold, *rest)

    monkeypatch.setattr("featcache.training.train_network", note)
    assert project.run("TrainConvNets") == ["TrainConvNets"]
    assert trained == [1]
    assert said_by(project) == expected
    assert [path.name.endswith(".partial") for path in convnets(project)] == [False]


@pytest.mark.parametrize("history", [{"loss": [1.0], "accuracy": [0.5]}, {}])
def test_a_checkpoint_of_another_network_is_dropped_with_a_word(project, capsys, history):
    """As after an upgrade of Keras, whose optimizer has other variables."""
    expected = said_by(project)
    shutil.rmtree(project.artifacts / "convnets")
    with project.in_force():
        artifact = current_project().convnet(0)
    partial = PartialFolder(artifact.path.parent, artifact.key)
    partial.begin(fresh=False)
    partial.checkpoint(1).save([np.zeros((3, 3))], history)
    assert project.run("TrainConvNets") == ["TrainConvNets"]
    assert project.succeeded
    assert (
        "NOTICE: fold 1 of convnet/seed0 starts again: its checkpoint is of another network" in capsys.readouterr().out
    )
    assert said_by(project) == expected


def test_a_rerun_trains_all_of_it_again_with_the_same_result(project, monkeypatch):
    expected, folds = said_by(project), []
    finish_fold = PartialFolder.finish
    monkeypatch.setattr(
        PartialFolder, "finish", lambda self, fold, *rest: folds.append(fold) or finish_fold(self, fold, *rest)
    )
    random.seed(99)
    assert project.run("TrainConvNets", rerun=True) == ["TrainConvNets"]
    assert folds == [0, 1]
    assert said_by(project) == expected
    assert project.run() == []


def test_forked_workers_train_the_same(project):
    expected = said_by(project)
    shutil.rmtree(project.artifacts / "convnets")
    status, said = finish(start(command(project, workers=2, stage="TrainConvNets")))
    assert status == 0, said
    assert said_by(project) == expected


def test_images_that_cannot_be_used_are_left_out(tmp_path):
    project = with_settings(small_project(tmp_path), schedule="3e-3x1")
    for damaged in ("train/disc/2.png", "test/disc-1.png"):
        path = project.folder / "photos" / damaged
        path.write_bytes(path.read_bytes()[:-900])
    assert "TrainConvNets" in project.run()
    assert project.succeeded
    said = out_of_fold(project)
    row = said.ids.index("disc/2.png")
    assert said.folds[row] == -1
    assert np.isnan(said.probabilities[0, row]).all()
    test = stored_predictions(project)
    assert np.isnan(test.probabilities[:, test.ids.index("disc-1.png")]).all()
    assert np.allclose(stored_ensemble(project).class_shares, np.array([7, 8, 8]) / 23)
    assert len((project.artifacts / "submission.csv").read_text().splitlines()) == 10


def test_it_needs_no_features_and_a_class_of_one_image_is_trained_on_and_not_scored(tmp_path):
    project = with_settings(small_project(tmp_path), schedule="3e-3x1")
    project.set("Heads", class_weight="balanced")
    write_image(project.folder / "photos/train/lone/0.png", (230, 230, 40), 900)
    assert project.run("TrainConvNets") == ["IndexImages", "TrainConvNets"]
    assert project.succeeded
    said = out_of_fold(project)
    row = said.ids.index("lone/0.png")
    assert said.folds[row] == ALWAYS
    assert np.isnan(said.probabilities[0]).any(axis=1).tolist() == [place == row for place in range(25)]
    (record,) = [json.loads((folder / "convnet.json").read_text()) for folder in convnets(project)]
    assert record["plan"]["balanced"]
    assert record["notices"][0].startswith("not scored: class 'lone' (1 row), trained on in every fold")
    assert not (project.artifacts / "features").exists()
