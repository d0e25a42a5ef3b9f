"""Backbone and heads as one Keras model against the same computed step by step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from images import picture

keras = pytest.importorskip("keras")

from featcache.core.progress import Silent  # noqa: E402
from featcache.ensemble.combination import Combination  # noqa: E402
from featcache.ensemble.ensemble import Ensemble  # noqa: E402
from featcache.features.backbone import load_backbone  # noqa: E402  # after importorskip
from featcache.features.network import build_network  # noqa: E402
from featcache.features.weights import resolve_weights  # noqa: E402
from featcache.inference.keras_model import Trunk, join_model  # noqa: E402
from featcache.inference.keras_resizing import resizing_model  # noqa: E402
from featcache.inference.served_ensemble import ServedBag, ServedConvNet, ServedEnsemble  # noqa: E402
from featcache.settings.schedules import Phase  # noqa: E402
from featcache.settings.specs import FeaturesSpec, Tap  # noqa: E402
from featcache.training.convnet.model import build_convnet as build_convnet  # noqa: E402
from featcache.training.convnet.plan import ConvNetPlan  # noqa: E402
from featcache.training.heads.bag import Bag, HeadId, History  # noqa: E402
from featcache.training.heads.inputs import HeadInput  # noqa: E402
from featcache.training.heads.presets import HeadPlan  # noqa: E402
from featcache.training.metrics import Interval, Scores  # noqa: E402

SIDE = 32
SPEC = FeaturesSpec(weights="random", taps=(Tap("block1_pool", "avg"), Tap("block2_pool")), image_size=SIDE)


def random_bag(taps, hidden, *, normalise):
    """Two seeds x two folds of untrained heads whose statistics are no longer those of the beginning."""
    generator, seen_as = np.random.default_rng(len(hidden)), HeadInput(taps)
    features = sum(seen_as.widths)
    if normalise:
        mean, scale = generator.normal(0.3, 0.1, features), generator.uniform(0.3, 3, len(taps))
        seen_as = HeadInput(taps, mean.astype(np.float32), scale.astype(np.float32))
    widths, count = (features, *hidden, 3), 4
    plan = HeadPlan(features, 3, hidden, (0.2,) * len(widths[1:]), (Phase(1e-2, 1),), 16)
    weights = {}
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        weights[f"kernel_{layer}"] = generator.normal(0, 2 / np.sqrt(inputs), (count, inputs, outputs))
        names = ("bias", "gamma", "beta", "mean", "variance") if layer < len(hidden) else ("bias",)
        weights |= {f"{name}_{layer}": generator.uniform(0.5, 1.5, (count, outputs)) for name in names}
    heads = tuple(HeadId(seed, fold) for seed in (0, 1) for fold in (0, 1))
    empty = np.zeros((1, count), np.float32)
    history = History(*[empty] * 6, np.zeros(count, np.int32))
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    seen = np.ones((count, 3), bool)
    seen[1, 2] = bool(hidden)  # a head that has never seen a class, as a group may lack one
    return Bag(plan, seen_as, heads, floats, seen, history)


def ensemble(members, chosen):
    score = Scores(0.5, 1.0)
    interval = Interval((0.0, 1.0), (0.0, 1.0))
    return Ensemble(members, ("a", "b", "c"), chosen, {}, score, interval, {}, members[0], {}, score, (0.2, 0.3, 0.5))


def trunk(spec, resolved, precision, label=""):
    return Trunk(build_network(spec, resolved, precision), {tap.name: label + tap.name for tap in spec.taps})


def test_backbones_of_two_sizes_are_both_inside():
    specs = {f"{spec.label}-": spec for spec in (SPEC, replace(SPEC, image_size=48, taps=(Tap("block1_pool", "max"),)))}
    resolved, images = resolve_weights(SPEC, Silent()), np.stack([picture(48, 48, seed) for seed in range(4)])
    features, trunks = {}, []
    for label, spec in specs.items():
        seen = keras.ops.convert_to_numpy(resizing_model(spec.image_size, "stretch")(images))
        network = load_backbone(spec, resolved, "float32", batch_size=4)
        features |= {label + tap: each for tap, each in network.forward(seen.astype(np.uint8)).items()}
        trunks.append(trunk(spec, resolved, "float32", label))
    shapes = {tap: each.shape[1:] for tap, each in features.items()}
    assert list(shapes) == ["vgg16@32-block1_pool_avg", "vgg16@32-block2_pool", "vgg16@48-block1_pool_max"]
    bag = ServedBag(
        random_bag(shapes, (), normalise=True), ("vgg16@32+vgg16@48/lda/seed0", "vgg16@32+vgg16@48/lda/seed1")
    )
    served = ServedEnsemble(ensemble(bag.members, Combination("mean", (0.5, 0.5), 1.0, 1.0)), 1.0, (bag,), ())
    expected = served.probabilities([features], {})
    model = join_model(trunks, served, "photos", None)
    assert np.allclose(keras.ops.convert_to_numpy(model(images)), expected, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("method", "floor"), [("mean", 0.0), ("weighted", 0.01)])
def test_it_says_what_backbone_bags_and_ensemble_say_one_after_the_other(precision, method, floor):
    resolved = resolve_weights(SPEC, Silent())
    backbone = load_backbone(SPEC, resolved, precision, batch_size=4)
    shapes = dict(backbone.taps)
    both = {tap: shapes[tap] for tap in ("block2_pool", "block1_pool_avg")}  # not the backbone's order
    one = {"block2_pool": shapes["block2_pool"]}
    bags = (
        ServedBag(random_bag(both, (), normalise=True), ("p/linear/0", "p/linear/1")),
        ServedBag(random_bag(one, (6, 5), normalise=False), ("q/dense/0", "q/dense/1")),
    )
    members = tuple(name for bag in bags for name in bag.members)
    chosen = Combination(method, (0.125, 0.0, 0.375, 0.5), 1.7, 0.93, floor)
    served = ServedEnsemble(ensemble(members, chosen), 0.93, bags, ())
    images = np.stack([picture(SIDE, SIDE, seed) for seed in range(4)])
    expected = served.probabilities([backbone.forward(images)], {})
    model = join_model([trunk(SPEC, resolved, precision)], served, "photos", SIDE)
    said = keras.ops.convert_to_numpy(model(images))
    assert np.ptp(expected, axis=0).max() > 0.01, "images are told apart"
    assert np.allclose(said, expected, atol=3e-6)
    assert model.get_layer("member_weights").get_weights()[0].ravel().tolist() == [0.125, 0.375, 0.5]
    resizing = join_model([trunk(SPEC, resolved, precision)], served, "photos", None)
    assert np.allclose(keras.ops.convert_to_numpy(resizing(images)), expected, atol=3e-6)


def test_small_cnns_of_one_size_grey_and_in_colour_need_no_backbone():
    plans = [ConvNetPlan(SIDE, channels, 3, (Phase(1e-2, 1),), 8, "float32") for channels in (1, 3)]
    convnets = tuple(
        ServedConvNet(
            f"convnet/seed{plan.channels}",
            [build_convnet(plan, [90] * plan.channels, [4] * plan.channels, fold) for fold in (0, 1)],
        )
        for plan in plans
    )
    members = tuple(convnet.member for convnet in convnets)
    served = ServedEnsemble(ensemble(members, Combination("mean", (0.25, 0.75), 0.5, 1.0)), 1.0, (), convnets)
    images = np.stack([picture(SIDE, SIDE, seed) for seed in range(4)])
    expected = served.probabilities([], {SIDE: images})
    assert np.ptp(expected, axis=0).max() > 0.01, "images are told apart"
    for size in (SIDE, None):
        said = keras.ops.convert_to_numpy(join_model([], served, "digits", size)(images))
        assert np.allclose(said, expected, atol=2e-6)
