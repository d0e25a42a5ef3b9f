"""What presets resolve to, and what of it enters keys."""

import pytest

from featcache.core import keys
from featcache.errors import TrainingError
from featcache.settings.schedules import Phase, rates
from featcache.settings.specs import HeadsSpec
from featcache.training.heads.presets import LDA, LINEAR, head_type_settings, head_types, normalizes, resolve_heads


def test_recipe_is_the_recipe():
    plan = resolve_heads(HeadsSpec(preset="recipe"), "recipe", features=25088, rows=18946, classes=10)
    assert plan.hidden == (128, 128)
    assert plan.dropouts == (0.4, 0.4, 0.8)
    assert plan.schedule == (Phase(1e-3, 1), Phase(1e-2, 2))
    assert [rates(plan.schedule, epoch, 1) for epoch in range(3)] == [[1e-3], [1e-2], [1e-2]]
    assert (plan.keep_best, plan.label_smoothing) == (False, 0)
    assert (plan.batch_size, plan.momentum, plan.weight_decay) == (64, 0.99, 0.0)
    assert not plan.recompute_statistics
    assert not plan.tempered
    assert not normalizes(HeadsSpec(preset="recipe"))


def test_wide_is_the_recipe_for_augmented_copies():
    plan = resolve_heads(HeadsSpec(preset="wide"), "wide", features=25088, rows=18946, classes=10)
    assert (plan.hidden, plan.dropouts) == ((256, 256), (0.8, 0.8, 0.8))
    assert plan.schedule == (Phase(1e-3, 1), Phase(1e-2, 4), Phase(1e-4, 4))


@pytest.mark.parametrize("shape", ["dense", "recipe", "wide", "fast"])
def test_what_the_user_sets_wins(shape):
    spec = HeadsSpec(hidden=(7, 5, 3), dropout=0.5, schedule=((0.1, 2),), batch_size=9)
    plan = resolve_heads(spec, shape, features=20, rows=100, classes=3)
    assert (plan.hidden, plan.schedule, plan.batch_size, plan.epochs) == ((7, 5, 3), (Phase(0.1, 2),), 9, 2)
    assert plan.dropouts[-1] == 0.5
    assert len(plan.dropouts) == 4


def test_no_hidden_layer_is_a_softmax_regression():
    plan = resolve_heads(HeadsSpec(hidden=(), dropout=0.0), "dense", features=20, rows=100, classes=3)
    assert plan.dropouts == (0.0,)


def test_dense_scales_with_the_rows_at_hand():
    few = resolve_heads(HeadsSpec(), "dense", features=4608, rows=200, classes=2)
    many = resolve_heads(HeadsSpec(), "dense", features=4608, rows=20_000, classes=2)
    assert few.epochs > many.epochs
    assert few.weight_decay > many.weight_decay
    assert few.recompute_statistics
    assert few.tempered
    assert few.keep_best


def test_fast_takes_fewer_steps_than_dense():
    fast, dense = (resolve_heads(HeadsSpec(), shape, 512, 1437, 10) for shape in ("fast", "dense"))
    assert fast.epochs < dense.epochs
    assert fast.hidden < dense.hidden


def test_settings_make_keys_that_tell_plans_apart():
    plans = [resolve_heads(HeadsSpec(dropout=dropout), "dense", 512, 1437, 10) for dropout in (0.5, 0.5, 0.6)]
    digests = [keys.digest(plan.settings()) for plan in plans]
    assert digests[0] == digests[1] != digests[2]


def test_one_class_is_refused():
    with pytest.raises(TrainingError, match="classes=1"):
        resolve_heads(HeadsSpec(), "dense", 512, 100, 1)


@pytest.mark.parametrize("shape", ["dense", "recipe", "wide", "fast"])
def test_decay_smoothing_and_early_stop_are_the_users_to_set(shape):
    spec = HeadsSpec(weight_decay=0.5, label_smoothing=0.1, early_stop=3)
    plan = resolve_heads(spec, shape, features=20, rows=100, classes=3)
    assert (plan.weight_decay, plan.label_smoothing, plan.early_stop, plan.keep_best) == (0.5, 0.1, 3, True)
    off = resolve_heads(HeadsSpec(weight_decay=0.0, early_stop=0), shape, features=20, rows=100, classes=3)
    assert (off.weight_decay, off.early_stop) == (0, 0)


def test_the_default_is_dense_heads_and_two_kinds_of_linear_ones():
    assert head_types(HeadsSpec()) == ("dense", LINEAR, LDA)
    assert head_types(HeadsSpec(preset="fast")) == ("fast", LINEAR, LDA)
    assert head_types(HeadsSpec(preset="recipe")) == ("recipe",)
    everything = head_types(HeadsSpec(per_group=True, pseudo_weight=0.5))
    assert everything == ("dense", LINEAR, LDA, "dense-by-group", "dense-pseudo")


@pytest.mark.parametrize("shape", [LINEAR, LDA])
def test_settings_of_trained_heads_are_none_of_a_paths(shape):
    plain, spec = HeadsSpec(), HeadsSpec(hidden=(7,), dropout=0.1, weight_decay=0.5, label_smoothing=0.1, early_stop=3)
    assert head_type_settings(spec, shape) == head_type_settings(plain, shape)
    assert resolve_heads(spec, shape, 20, 100, 3) == resolve_heads(plain, shape, 20, 100, 3)


def test_heads_of_one_group_are_not_tempered():
    """They are scored on all other groups, so no rows are left for it."""
    assert not resolve_heads(HeadsSpec(), "dense-by-group", 20, 100, 3, groups=4).tempered
    assert resolve_heads(HeadsSpec(), "dense-pseudo", 20, 100, 3).tempered
