"""The whole flow on worker processes of this machine, with Keras in them: the same bytes as without."""

import json
import os
import shutil

import numpy as np
import psutil
import pytest
import runs
from projects import copied_project, stored_predictions

from featcache.cli import main
from featcache.stages.workers import client

CONVNETS = {"members": "1", "image_size": "16", "schedule": "3e-3x2", "batch_size": "8"}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """The finished project once more from its images, with a small CNN beside the heads, by two workers."""
    project = copied_project(finished, tmp_path_factory.mktemp("workers") / "project")
    shutil.rmtree(project.artifacts)
    # as many cores a worker as this process has: TensorFlow adds up gradients in as many parts as it has threads
    cores = str(len(os.sched_getaffinity(0)))
    project.set("Cluster", scheduler="local", workers="2", threads=cores)
    project.set("ConvNet", **CONVNETS)
    worked = project.run()
    yield project, worked
    for kept in client._KEPT.values():
        kept.close()
    client._KEPT.clear()


def convnet_of(project):
    return next((project.artifacts / "convnets").glob("seed0-????????"))


def test_features_and_heads_are_those_of_one_process(project, finished):
    project, worked = project
    assert project.succeeded
    assert "TrainHeads" in worked
    assert "TrainBag" not in worked, "the workers train all bags at once"
    here, there = (runs.contents(each.artifacts) for each in (finished, project))
    same = [name for name in here if name.startswith(("features/", "heads/", "manifest"))]
    assert len(same) > 10
    assert [name for name in same if here[name] != there.get(name)] == []


def test_small_networks_are_those_of_one_process(project, tmp_path):
    project, _ = project
    alone = copied_project(project, tmp_path / "alone")
    shutil.rmtree(alone.artifacts / "convnets")
    alone.set("ConvNet", **CONVNETS)
    assert alone.run("TrainConvNets") == ["TrainConvNets"]
    said = [stored_predictions(each, "convnets/*/convnet.json") for each in (project, alone)]
    np.testing.assert_array_equal(said[0].probabilities, said[1].probabilities)
    assert said[0].ids == said[1].ids


def test_commands_look_into_the_features_on_the_workers(project, capsys, monkeypatch, tmp_path):
    project, _ = project
    monkeypatch.chdir(tmp_path)
    (path,) = (project.artifacts / "features").glob("train-*.h5")
    answers = []
    for workers in ([], ["--set", "Cluster.scheduler=local", "--set", "Cluster.workers=1"]):
        for command in (["stats"], ["pca", "--components", "3"]):
            assert main([*command, str(path), "--json", *workers]) == 0
            answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[2]
    shares = [[component["share"] for component in answer["components"]] for answer in (answers[1], answers[3])]
    np.testing.assert_allclose(*shares, rtol=1e-4)
    ours = [kept for kept in client._KEPT.values() if kept.is_open]
    assert len(ours) == 1
    assert len(ours[0].workers) == 1


def test_who_computes_is_in_no_key(project):
    project, _ = project
    project.set("Cluster", scheduler="none", workers="0", threads="0")
    assert project.run() == []
    assert project.succeeded
    project.set("Cluster", scheduler="local", workers="2")


def test_nothing_listens_but_on_the_loopback(project):
    project, _ = project
    ours = psutil.Process()
    listening = [
        (connection.laddr.ip, process.name())
        for process in (ours, *ours.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert [(ip, name) for ip, name in listening if ip != "127.0.0.1"] == []
