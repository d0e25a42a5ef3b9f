"""Weights of bags: their gradient, their prior, and what they are worth on few rows."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from test_ensemble import noisy, predictions

from featcache.ensemble.bag_weights import PRIOR, bags_of, find_grouped_weights, find_weights, groups_of, objective
from featcache.ensemble.combination import ONE_MORE, combine, normalised
from featcache.ensemble.selection import select_ensemble
from featcache.training.metrics import log_loss


def logs(*seeds, n, strength=2.0):
    return np.log(np.stack([noisy(seed, n=n, strength=strength)[0] for seed in seeds])), noisy(0, n=n)[1]


@pytest.mark.parametrize("prior", [0, 0.05, 1])
def test_the_gradient_is_that_of_the_objective(prior):
    tables, labels = logs(1, 2, 3, n=50)
    margins = tables - tables[:, np.arange(50), labels, None]
    at = np.array([0.3, -1.2, 0.8])
    slopes = objective(at, margins, prior)[1]
    assert np.allclose(slopes, approx_fprime(at, lambda x: objective(x, margins, prior)[0], 1e-7), atol=1e-6)
    weights = np.exp(at) / np.exp(at).sum()
    mixed = normalised(np.exp(np.tensordot(weights, tables, 1)))
    assert objective(at, margins, prior)[0] == pytest.approx(log_loss(mixed, labels) - prior * np.log(weights).mean())


def test_weights_found_are_the_lowest_there_are_and_the_same_again():
    tables, labels = logs(1, 2, n=200)
    margins = tables - tables[:, np.arange(200), labels, None]
    found = find_weights(tables, labels, len(labels))
    every = np.linspace(0.01, 0.99, 99)
    best = min(every, key=lambda w: objective(np.log([w, 1 - w]), margins, PRIOR / 200)[0])
    assert found[0] == pytest.approx(best, abs=0.006)
    assert (found > 0).all()
    assert found.sum() == pytest.approx(1)
    assert np.array_equal(found, find_weights(tables, labels, len(labels)))
    assert find_weights(tables[:1], labels, 200).tolist() == [1]


def test_a_backbone_far_behind_counts_nothing_and_one_near_the_others_does():
    names = ["a@1+b@1/dense/seed0", "a@1/lda/seed0", "a@1/linear/seed0", "b@1/lda/seed0", "convnet/seed0"]
    groups = groups_of(names)
    assert groups.tolist() == [0, 1, 1, 2, 0]
    tables, labels = logs(1, 2, 3, 4, 5, n=60)
    shares = np.bincount(groups, find_grouped_weights(tables, labels, len(labels), groups))
    assert shares.min() > 0.05
    tables[3] *= -1  # says the contrary
    weights = find_grouped_weights(tables, labels, len(labels), groups)
    assert weights[3] == 0
    assert (weights[groups < 2] > 0).all()
    assert weights.sum() == pytest.approx(1)
    own = groups == 1
    assert weights[own] / weights[own].sum() == pytest.approx(find_weights(tables[own], labels, len(labels)))


@pytest.mark.parametrize(
    "names", [["pooled/dense/seed0", "pooled/lda/seed0"], ["a@1-x/wide/seed0", "b@1-x/wide/seed0"]]
)
def test_where_no_input_has_all_backbones_bags_are_one_group(names):
    tables, labels = logs(1, 2, n=100)
    groups = groups_of(names)
    assert groups.tolist() == [0, 0]
    assert np.array_equal(
        find_grouped_weights(tables, labels, len(labels), groups), find_weights(tables, labels, len(labels))
    )


def test_the_prior_holds_weights_near_equal_where_few_rows_say_otherwise_by_chance():
    tables, labels = logs(*range(1, 9), n=30)  # eight bags, one as good as another
    free, held = (find_weights(tables, labels, len(labels), prior) for prior in (0, PRIOR))
    assert free.min() < 0.01
    assert held.min() > 0.05
    assert held.max() < free.max() < 0.5


def test_it_is_hardly_worse_than_its_best_member_among_twenty_that_know_nothing():
    """Of 100 rows; a nested choice of the best member is as good as knowing it here, so that is the bar."""
    for draw in range(5):
        generator = np.random.default_rng(draw)
        good, labels = noisy(draw + 1, n=100, strength=3, labels_seed=draw)
        junk = generator.dirichlet([2, 2, 2], (20, 100))
        built = select_ensemble(predictions(good, *junk, labels=labels))
        assert built.whole.weights[0] > 0.8
        assert built.scores.log_loss < built.single_scores.log_loss + 0.06


def test_the_prior_counts_as_rows_so_many_rows_have_their_way():
    tables, labels = logs(*range(1, 9), n=30)
    few, many = (find_weights(tables, labels, known) for known in (30, 3000))
    free = find_weights(tables, labels, 30, 0)
    assert np.abs(many - free).max() < 0.03 < np.abs(few - free).max()


def test_a_member_that_rules_classes_out_does_not_rule_them_out_for_all():
    """Nearest neighbours give classes nothing at all; by that alone they would make every fifth row impossible."""
    good, labels = noisy(1, n=200, strength=3)
    sure = np.eye(3)[np.where(np.arange(200) % 5, labels, (labels + 1) % 3)]
    built = select_ensemble(predictions(good, sure, labels=labels))
    assert built.scores.log_loss < built.single_scores.log_loss


def test_many_members_of_one_bag_weigh_no_more_than_one_of_another():
    good, labels = noisy(1, strength=2)
    other = noisy(2, strength=2)[0]
    known = predictions(good, *[other] * 9, labels=labels)
    names = ("a/linear/seed0", *(f"a/dense/seed{seed}" for seed in range(9)))
    assert bags_of(names).tolist() == [1, *[0] * 9]
    shared = select_ensemble(dataclasses.replace(known, members=names)).whole.weights
    two = select_ensemble(predictions(good, other, labels=labels)).whole.weights
    assert np.allclose([shared[0], sum(shared[1:])], two, atol=1e-4)


def test_the_floor_is_under_what_is_written_and_rows_without_predictions_stay_so():
    sure, labels = np.tile([1.0, 0.0], (40, 1)), np.zeros(40, int)
    sure[3] = np.nan
    found = combine(np.stack([sure, sure]).astype(np.float32), labels, "weighted", np.arange(4, 40))
    applied = found.apply(np.stack([sure, sure]).astype(np.float32))
    assert applied[0, 1] == pytest.approx(ONE_MORE / 36 / 2, rel=0.02)
    assert np.isnan(applied[3]).all()
