"""SIGKILL to `luigi --module pipeline Submit`: the next run ends with the same bytes, and nothing half-written looks done."""

import random

import kills
import pytest


@pytest.fixture(scope="module")
def whole(numpy_backbone, tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def with_report(numpy_backbone, tmp_path_factory):
    return kills.undisturbed(tmp_path_factory.mktemp("report"), report=True)


def test_killed_at_every_block_boundary_run_after_run(tmp_path, whole):
    project = whole.fresh(tmp_path)
    for killed in range(1, len(kills.BOUNDARIES) + 1):
        assert kills.kill_at(project, "block:1", "group", workers=1)  # each run's first block is the next one
        assert kills.check_leftovers(project, whole) == 1
        partial = next(project.artifacts.glob("features/*.partial.h5"))
        assert kills.featcache.open(partial, partial=True).durable.sum() == min(64 * killed, 3 * kills.TRAIN)
    said = kills.run_to_the_end(project, whole, workers=1)
    assert f"train: {3 * kills.TRAIN} resumed" in said


@pytest.mark.parametrize(
    ("moment", "whom", "workers"),
    [
        ("after:manifest.arrow", "group", 1),
        ("block:2", "parent", 2),
        ("before:train-*-????????.h5", "parent", 2),
        ("after:block1_pool_avg-fast-*", "group", 1),
        ("before:ensemble.json", "group", 1),
        ("before:submission.json", "group", 1),
        ("after:submission.csv", "group", 1),
    ],
)
def test_killed_between_two_writes(tmp_path, whole, moment, whom, workers):
    project = whole.fresh(tmp_path)
    assert kills.kill_at(project, moment, whom, workers)
    kills.check_leftovers(project, whole)
    kills.run_to_the_end(project, whole, workers=1)


@pytest.mark.parametrize(
    ("seed", "whom", "workers", "as_before"), [(1, "group", 1, "whole"), (3, "parent", 2, "with_report")]
)
def test_killed_at_a_random_moment(tmp_path, request, seed, whom, workers, as_before):
    whole = request.getfixturevalue(as_before)
    project = whole.fresh(tmp_path)
    assert kills.kill_after(project, random.Random(seed).uniform(0.3, 0.9) * whole.seconds, whom, workers)
    kills.check_leftovers(project, whole)
    kills.run_to_the_end(project, whole, workers)
