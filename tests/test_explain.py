"""Evidence: the places of an image and an intercept sum to the score of the linear members."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from projects import copied_project, flags, newest

import featcache
from featcache.api.fitted_project import FittedProject
from featcache.cli import main
from featcache.core.progress import Silent
from featcache.dataset import Manifest
from featcache.errors import RejectedImageError
from featcache.features.backbone import Backbone
from featcache.features.hub import pooled_tokens, token_map
from featcache.inference.evidence import Evidence, PooledMap, head_evidence, spread, summed
from featcache.inference.explainer import Explainer, Wanted
from featcache.project import BackboneFeatures, Project, image_loader, out_of_fold
from featcache.settings import parse_settings
from featcache.settings.specs import FeaturesSpec, HeadsSpec, Tap
from featcache.stages import report
from featcache.training.heads.bag import load_bag
from featcache.training.heads.examples import Examples
from featcache.training.heads.inputs import fit_input, stored_rows
from featcache.training.heads.lda import train_lda
from featcache.training.heads.logistic_regression import train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import resolve_heads

TRAINERS = {"linear": train_linear, "lda": train_lda}
# of each tap its map's shape and how it is pooled: of several backbones, one after relu and one not; and two without maps
TAPS = {
    "a_avg": ((8, 8, 5), "avg"),
    "a_max": ((8, 8, 5), "max"),
    "b_avg": ((3, 3, 6), "avg"),
    "whole": ((2, 2, 3), ""),
    "vector": ((4,), ""),
}
NEGATIVE = "b_avg"


def pooled(maps):
    """Tap -> (n, ...) float16 features of (n, h, w, c) maps."""
    pools = {"avg": np.mean, "max": np.max}
    return {
        tap: (pools[pooling](maps[tap], axis=(1, 2)) if pooling else maps[tap]).astype(np.float16)
        for tap, (_, pooling) in TAPS.items()
    }


@pytest.fixture(scope="module")
def rows():
    """(labels, tap -> (n, ...) maps): each class lights up another column, and some channels are dark throughout."""
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    maps = {}
    for tap, (shape, _) in TAPS.items():
        values = random.normal(0, 1, (60, *shape))
        if len(shape) == 3:
            for label in range(3):
                values[labels == label, :, label * shape[1] // 3, label] += 4
        values[..., -1] = 0
        maps[tap] = values if tap == NEGATIVE else np.maximum(values, 0)
    return labels.astype(np.int32), maps


@pytest.fixture(scope="module", params=["linear", "lda", "several"])
def bag(request, rows):
    labels, maps = rows
    several = request.param == "several"
    kind = "linear" if several else request.param
    features, usable = pooled(maps), np.ones(60, bool)
    seen_as = fit_input(list(TAPS), [features], usable, normalise=True)
    if several:
        labels = np.stack([labels == 0, labels > 0], axis=1).astype(np.int8)
    plan = resolve_heads(HeadsSpec(folds=3), kind, sum(seen_as.widths), 60, 2 if several else 3, several=several)
    folds = by_folds(np.arange(60) // 3 % 3, usable)
    examples = Examples(seen_as, [stored_rows(seen_as, features, None)], labels, folds)
    return TRAINERS[kind](examples, plan, Silent())


def logits(bag, heads, features, label):
    """What the heads' own matrix product says of one row's class."""
    values = bag.seen_as.rows(features)[:1].astype(np.float64)
    each = np.mean([values @ bag.weights["kernel_0"][head] + bag.weights["bias_0"][head] for head in heads], axis=0)[0]
    return each[label] - (0 if bag.plan.several else each.mean())


@pytest.mark.parametrize("heads", [[0], [0, 1, 2]])
def test_places_and_intercept_sum_to_the_score(bag, rows, heads):
    _, maps = rows
    for row in (0, 7, 31):
        features = {tap: values[row : row + 1] for tap, values in pooled(maps).items()}
        seen = {tap: PooledMap(maps[tap][row], pooling) for tap, (_, pooling) in TAPS.items() if pooling}
        for label in range(bag.plan.classes):
            evidence = head_evidence(bag, heads, features, seen, label)
            assert evidence.heat.shape == (8, 8)
            assert evidence.score == pytest.approx(logits(bag, heads, features, label), abs=1e-5)


def test_the_heat_is_where_a_class_differs(bag, rows):
    """Each class lights up another third of the map's columns."""
    labels, maps = rows
    if bag.plan.several:
        return
    features = pooled(maps)
    for row in range(6):
        seen = {tap: PooledMap(maps[tap][row], pooling) for tap, (_, pooling) in TAPS.items() if pooling}
        one = {tap: values[row : row + 1] for tap, values in features.items()}
        heat = head_evidence(bag, [0, 1, 2], one, seen, int(labels[row])).heat
        assert heat.sum(axis=0).argmax() in {int(labels[row]) * 8 // 3, int(labels[row]) * 8 // 3 + 1}


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_shares_of_a_channel_sum_to_one_whatever_its_signs(pooling):
    values = np.random.default_rng(1).normal(size=(4, 5, 7)).astype(np.float16)
    values[..., 0], values[..., 1] = 0, -1
    shares = PooledMap(values, pooling).shares
    assert np.allclose(shares.sum(axis=(0, 1)), 1)
    assert (shares >= 0).all()
    if pooling == "max":
        assert shares[..., 2].max() == shares[np.unravel_index(values[..., 2].argmax(), (4, 5))][2] == 1
    else:
        relu = np.maximum(values[..., 2:], 0)
        assert np.allclose(PooledMap(relu, "avg").shares, relu / relu.sum(axis=(0, 1), dtype=np.float64))


def test_a_grid_is_spread_over_another_of_the_same_sum():
    heat = np.random.default_rng(2).normal(size=(4, 9))
    for shape in [(9, 18), (18, 18), (5, 7), (2, 3)]:
        assert spread(heat, shape).sum() == pytest.approx(heat.sum())
    assert np.allclose(spread(spread(heat, (8, 18)), (4, 9)), heat)
    both = summed([Evidence(heat, 1.0), Evidence(np.ones((8, 3)), 2.0)], [0.25, 0.75])
    assert both.heat.shape == (8, 9)
    assert both.score == pytest.approx(0.25 * (heat.sum() + 1) + 0.75 * 26)


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return copied_project(finished, tmp_path / "project")


def test_the_command_explains_an_image_by_the_linear_members(project, capsys):
    """Features are those of the cache, so the heads' own product says the same score."""
    image, picture = project.folder / "photos/test/disc-0.png", project.folder / "heat.png"
    assert main(["explain", str(image), "--label", "disc", "--output", str(picture), "--json", *flags(project)]) == 0
    record = json.loads(capsys.readouterr().out)
    with Image.open(picture) as opened:
        assert opened.size == (32, 32)
    assert record["evidence_for"] == "disc"
    assert set(record["members"]) <= {"block1_pool_avg/linear/seed0", "block1_pool_avg/lda/seed0"}
    assert np.shape(record["heat"]) == (16, 16)
    assert np.sum(record["heat"]) + record["intercept"] == pytest.approx(record["score"], abs=1e-3)
    cache = featcache.open(newest(project, "features/test-copy0-*.h5"))
    features = {"block1_pool_avg": cache["block1_pool_avg"][list(cache.ids).index("disc-0.png")][None]}
    weights = json.loads(newest(project, "ensembles/*/ensemble.json").read_text())["ensemble"]
    weights = dict(zip(weights["candidates"], weights["whole"]["weights"], strict=True))
    scores = []
    for name in record["members"]:
        bag = load_bag(newest(project, f"heads/block1_pool_avg-{name.split('/')[1]}-*/bag.json").parent)
        scores.append(logits(bag, range(len(bag.heads)), features, 0))
    mean = np.average(scores, weights=[weights[name] for name in record["members"]])
    assert record["score"] == pytest.approx(mean, abs=1e-3)
    assert record["weight"] == pytest.approx(sum(weights[name] for name in record["members"]), abs=1e-5)
    assert main(["explain", str(image), "--label", "disk", *flags(project)]) == 1
    assert "label='disk' is none of the classes, did you mean disc?" in capsys.readouterr().err
    assert main(["explain", str(project.folder / "none.png"), *flags(project)]) == 1
    assert "none.png can't be read" in capsys.readouterr().err


def test_a_notebook_gets_a_picture(project):
    found = FittedProject(Project(parse_settings(project.settings)))
    shown = found.explain(np.full((20, 30, 3), (200, 60, 60), np.uint8))
    assert shown.heat.sum() + shown.intercept == pytest.approx(shown.score)
    assert shown.predicted == shown.label
    assert "data:image/png;base64," in shown._repr_html_()


def test_tokens_lie_where_their_patches_do():
    """Behind a class token and a register; what a tap pools of them is the mean over the map."""
    tokens = np.random.default_rng(3).normal(size=(1, 2 + 9, 4)).astype(np.float32)
    found = np.asarray(token_map(tokens, 48, 16))
    assert found.shape == (1, 3, 3, 4)
    assert np.array_equal(found[0, 1, 2], tokens[0, 2 + 3 + 2])
    assert np.allclose(np.asarray(pooled_tokens(tokens, "avg", 48, 16))[0, 4:], found[0].mean(axis=(0, 1)), atol=1e-6)


def test_the_report_explains_training_rows_by_heads_that_have_not_seen_them(project, monkeypatch):
    """Of random weights it explains nothing."""
    found, wanted = Project(parse_settings(project.settings)), {("train", 0): 1, ("test", 0): None}
    asked = found, Silent(), wanted, Manifest.load(found.folder).splits, image_loader(found)
    assert report._explained(*asked) is None
    resolved = BackboneFeatures.resolved
    monkeypatch.setattr(
        BackboneFeatures, "resolved", lambda self, what: {**(resolved(self, what) or {}), "kind": "file"}
    )
    seen, explain_all = [], Explainer.explain_all

    def noted(explainer, images):
        for image, explanation in zip(images, explain_all(explainer, images), strict=True):
            seen.append((image.fold, explanation))
            yield explanation

    monkeypatch.setattr(Explainer, "explain_all", noted)
    explained = report._explained(*asked)
    assert set(explained.images) == set(wanted)
    assert explained.labels["train", 0] == 1
    assert explained.images["test", 0].shape == (32, 32, 3)
    assert set(explained.members) <= {"block1_pool_avg/linear/seed0", "block1_pool_avg/lda/seed0"}
    assert [fold for fold, _ in seen] == [int(out_of_fold(found).folds[0]), None]
    one = seen[0][1]
    every = Explainer(found, Silent()).explain({32: one.image}, 1)
    assert one.evidence.score != pytest.approx(every.evidence.score)


def test_images_in_batches_are_explained_as_each_alone(project, monkeypatch):
    """Five, three a pass and two passes at once, the second one padded; one of them beyond float16's range."""
    found, draw = Project(parse_settings(project.settings)), np.random.default_rng(4)
    images = draw.integers(0, 256, (5, 32, 32, 3), np.uint8)
    several, alone = (Explainer(found, Silent(), count) for count in (5, 1))
    forward, passes = Backbone.forward, []

    def noted(network, batch):
        passes.append(len(batch))
        values = forward(network, batch)
        beyond = (batch == images[3]).all(axis=(1, 2, 3))
        return {tap: np.where(beyond.reshape(-1, *[1] * (each.ndim - 1)), np.inf, each) for tap, each in values.items()}

    monkeypatch.setattr(Backbone, "forward", noted)
    explained = list(several.explain_all([Wanted(lambda _, image=image: image, 1) for image in images]))
    assert sorted(passes) == [2, 3]
    assert [each is None for each in explained] == [False, False, False, True, False]
    monkeypatch.undo()
    for image, each in zip(images, explained, strict=True):
        if each is not None:
            single = alone.explain({32: image}, 1)
            assert np.array_equal(each.image, image)
            assert np.allclose(each.probabilities, single.probabilities, atol=1e-4)
            assert np.allclose(each.evidence.heat, single.evidence.heat, atol=1e-3)
    monkeypatch.setattr(Backbone, "forward", noted)
    with pytest.raises(RejectedImageError, match="beyond float16's range"):
        alone.explain({32: images[3]})


@pytest.mark.parametrize(
    ("features", "processor", "expected"),
    [("bfloat16", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32"), ("float32", "bfloat16", "float32")],
)
def test_maps_are_computed_as_features_were_where_the_processor_is_fast_in_that(
    features, processor, expected, monkeypatch, tmp_path
):
    from featcache import features as networks
    from featcache.project import backbone_with_maps, resolved

    backbone = SimpleNamespace(spec=FeaturesSpec(), folder=tmp_path, precision=lambda: features)
    asked, loaded = [], SimpleNamespace(with_maps=lambda taps, rows: (list(taps), rows))
    monkeypatch.setattr(networks, "load_backbone", lambda *wanted, **_: asked.append(wanted[2]) or loaded)
    monkeypatch.setattr(resolved, "resolved_backbone", lambda *_: asked.append(features) or loaded)
    monkeypatch.setattr(resolved, "resolved_weights", lambda *_: None)
    monkeypatch.setattr(resolved, "import_keras", lambda _: None)
    monkeypatch.setattr(resolved, "choose_precision", lambda _: SimpleNamespace(name=processor))
    assert backbone_with_maps(backbone, [Tap("a", "avg")], 5, Silent()) == (["a_avg"], 5)
    assert asked == [expected]
