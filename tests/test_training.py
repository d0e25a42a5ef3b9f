"""Whole bags: the epoch that is kept, groups, pseudo-labels, the same bytes whatever the machine's cores, memory."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from head_rows import examples_of

from featcache.core.progress import Silent
from featcache.errors import TrainingError
from featcache.settings.schedules import Phase
from featcache.training.heads import trainer
from featcache.training.heads.evaluation import HeadEvaluator
from featcache.training.heads.examples import PseudoLabels
from featcache.training.heads.partition import by_folds, by_groups
from featcache.training.heads.presets import HeadPlan
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import judge, log_loss

CLASSES, FEATURES = 3, 16


def accuracy(probabilities, labels):
    return judge(probabilities, labels).scores().accuracy


def plan(epochs=6, rate=1e-2, **settings):
    fixed = {"hidden": (8,), "dropouts": (0.2, 0.3), "batch_size": 16, "schedule": (Phase(rate, epochs),)}
    return HeadPlan(FEATURES, CLASSES, **{**fixed, **settings})


def rows(n=90, seed=0, noise=1.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, n)
    centres = np.random.default_rng(9).normal(size=(CLASSES, FEATURES))
    return (noise * generator.normal(size=(n, FEATURES)) + centres[labels]).astype(np.float16), labels


def folded(features, labels, folds=3, **more):
    return examples_of([features], labels, by_folds(np.arange(len(labels)) % folds, np.ones(len(labels), bool)), **more)


def train(examples, of, seeds=(0, 1)):
    return train_heads(examples, of, seeds, Silent())


def test_the_epoch_is_chosen_on_other_folds_rows_alone():
    evaluator = HeadEvaluator(folded(*rows()), 1)
    # fold 0's own losses would choose epoch 2; the other folds say 1. Fold 2's would choose 0; the others say 2.
    table = np.array([[9.0, 5.0, 1.0], [8.0, 2.0, 3.0], [1.0, 4.0, 8.0]])
    assert evaluator.best_epochs(table) == {0: 1, 1: 2, 2: 2}


def test_by_groups_the_epoch_is_chosen_on_rows_of_the_heads_own_group():
    features, labels = rows()
    groups = [f"group{row % 3}" for row in range(90)]
    evaluator = HeadEvaluator(examples_of([features], labels, by_groups(groups, np.ones(90, bool))), 1)
    assert evaluator.best_epochs(np.array([[9.0, 5.0, 1.0], [8.0, 2.0, 3.0], [1.0, 4.0, 8.0]])) == {0: 2, 1: 1, 2: 0}


def test_heads_have_the_weights_of_the_epoch_that_they_keep():
    """Too fast a rate on few rows: later epochs are worse."""
    features, labels = rows(60, noise=2.0)
    bag = train(folded(features, labels), plan(12, 0.1, keep_best=True, dropouts=(0.0, 0.0)))
    best = bag.history.best_epoch
    assert best.min() < 11, "the last epoch isn't the best here"
    assert len({int(epoch) for head, epoch in zip(bag.heads, best, strict=True) if head.fold == 1}) == 1
    said = bag.predict({"tap": features})
    for number, head in enumerate(bag.heads):
        own = np.arange(60) % 3 == head.fold
        told = -np.log(said[number, own, labels[own]]).mean()
        assert told == pytest.approx(bag.history.fold_loss[best[number], number], rel=1e-4)
        assert np.allclose(bag.out_of_fold[head.seed, own], said[number, own], atol=1e-6)
    last = train(folded(features, labels), plan(12, 0.1, dropouts=(0.0, 0.0)))
    assert (last.history.best_epoch == 11).all()
    assert np.array_equal(last.history.fold_loss, bag.history.fold_loss)
    assert log_loss(bag.out_of_fold.mean(axis=0), labels) < log_loss(last.out_of_fold.mean(axis=0), labels)


def test_recomputed_statistics_belong_to_the_kept_epoch():
    features, labels = rows(60, noise=2.0)
    of = plan(12, 0.1, keep_best=True, recompute_statistics=True)
    bag = train(folded(features, labels), of, seeds=(0,))
    for number, head in enumerate(bag.heads):
        own = features[np.arange(60) % 3 != head.fold].astype(np.float32)
        active = np.maximum(own @ bag.weights["kernel_0"][number] + bag.weights["bias_0"][number], 0)
        assert np.allclose(bag.weights["mean_0"][number], active.mean(axis=0), atol=1e-4)
        assert np.allclose(bag.weights["variance_0"][number], active.var(axis=0), atol=1e-3)


def test_training_ends_when_no_fold_has_had_a_better_epoch_for_so_long():
    features, labels = rows(60, noise=2.0)
    bag = train(folded(features, labels), plan(60, 0.1, keep_best=True, early_stop=4, dropouts=(0.0, 0.0)))
    epochs = len(bag.history.loss)
    assert epochs < 60
    assert epochs - 1 - bag.history.best_epoch.max() == 4


def test_seen_scores_are_of_training_rows_without_dropout():
    features, labels = rows()
    bag = train(folded(features, labels), plan(8), seeds=(0,))
    said = bag.predict({"tap": features})
    for number, head in enumerate(bag.heads):
        trained = np.arange(90) % 3 != head.fold
        told = -np.log(said[number, trained, labels[trained]]).mean()
        assert bag.history.seen_loss[-1, number] == pytest.approx(told, rel=1e-4)
    assert bag.history.seen_loss[-1].mean() < bag.history.loss[-1].mean(), "dropout makes training rows harder"


# ---- groups


def test_a_model_for_each_group_is_scored_on_the_other_groups():
    features, labels = rows(120)
    groups = [f"driver{row % 4}" for row in range(120)]
    usable = np.arange(120) != 5
    bag = train(examples_of([features], labels, by_groups(groups, usable)), plan(10), seeds=(0, 1))
    assert [head.fold for head in bag.heads] == [0, 1, 2, 3] * 2
    assert np.isnan(bag.out_of_fold[:, 5]).all()
    said = bag.predict({"tap": features})
    for row in (0, 17, 119):
        others = [4 + part for part in range(4) if part != row % 4]
        assert np.allclose(bag.out_of_fold[1, row], said[others, row].mean(axis=0), atol=1e-5)
    assert np.allclose(bag.member_predictions({"tap": features})[1], said[4:].mean(axis=0), atol=1e-6)
    assert accuracy(bag.out_of_fold[0, usable], labels[usable]) > 0.7


def test_a_group_without_a_class_has_no_say_in_it():
    features, labels = rows(120)
    parts = np.arange(120) % 3
    wanted = ~((parts == 0) & (labels == 2))
    features, labels, parts = features[wanted], labels[wanted], parts[wanted]
    groups = [f"driver{part}" for part in parts]
    bag = train(examples_of([features], labels, by_groups(groups, np.ones(len(labels), bool))), plan(10), seeds=(0,))
    lacking = list(dict.fromkeys(groups)).index("driver0")
    assert np.argwhere(~bag.seen_classes).tolist() == [[lacking, 2]]
    said, members = bag.predict({"tap": features}), bag.member_predictions({"tap": features})[0]
    assert np.allclose(members.sum(axis=1), 1, atol=1e-5)
    mean = said.mean(axis=0)
    mean[:, 2] = np.delete(said, lacking, axis=0)[:, :, 2].mean(axis=0)
    assert np.allclose(members, mean / mean.sum(axis=1, keepdims=True), atol=1e-5)
    third = labels == 2
    assert accuracy(bag.out_of_fold[0][third], labels[third]) > 0.7
    assert np.allclose(bag.out_of_fold[0].sum(axis=1), 1, atol=1e-5)


# ---- pseudo-labels


def test_soft_labels_of_the_whole_ensemble_would_flatter_and_those_of_the_folds_own_heads_dont():
    """Labels are noise, and the unlabelled rows are the training rows again: only a leak can tell them."""
    generator = np.random.default_rng(5)
    features = generator.normal(size=(150, FEATURES)).astype(np.float16)
    noise = generator.integers(0, CLASSES, 150)
    of = plan(25, hidden=(64,), dropouts=(0.0, 0.0))
    said = train(folded(features, noise), of, seeds=(0,)).predict({"tap": features})

    def second_round(labels):
        pseudo = PseudoLabels([features], labels.astype(np.float32), 1.0)
        return accuracy(train(folded(features, noise, pseudo=pseudo), of, seeds=(1,)).out_of_fold[0], noise)

    assert second_round(said) < 0.47
    assert second_round(np.repeat(said.mean(axis=0)[None], 3, axis=0)) > 0.6


def test_pseudo_labels_teach():
    """Twelve labelled rows and two hundred whose labels are all but known."""
    features, labels = rows(12, noise=1.5)
    more, truth = rows(200, seed=3, noise=1.5)
    fresh, hidden = rows(300, seed=4, noise=1.5)
    soft = np.repeat((0.05 + 0.85 * np.eye(CLASSES, dtype=np.float32)[truth])[None], 3, axis=0)
    alone = train(folded(features, labels), plan(20))
    taught = train(folded(features, labels, pseudo=PseudoLabels([more], soft, 1.0)), plan(20))
    scores = [accuracy(bag.member_predictions({"tap": fresh}).mean(axis=0), hidden) for bag in (alone, taught)]
    assert scores[1] > scores[0] + 0.05
    assert taught.out_of_fold.shape == (2, 12, CLASSES)


def test_pseudo_labels_that_dont_fit_say_why():
    features, labels = rows()
    for soft, weight, message in [
        (np.ones((2, 5, CLASSES)), 1.0, "don't fit 3 parts and 3 classes"),
        (np.ones((3, 5, CLASSES)), 0.0, "weight=0"),
        (np.ones((3, 6, CLASSES)), 1.0, "every copy needs 6 rows of 16 values"),
    ]:
        pseudo = PseudoLabels([features[:5]], soft.astype(np.float32), weight)
        with pytest.raises(TrainingError, match=message):
            train(folded(features, labels, pseudo=pseudo), plan())


# ---- the same bytes, and memory


def test_cores_and_grouping_change_no_bit(monkeypatch):
    examples = folded(*rows())
    of = plan(3, hidden=(8, 6), dropouts=(0.2, 0.3, 0.4), recompute_statistics=True, tempered=True)
    bags = [train(examples, of)]
    for cores, values in ((1, 1), (3, 1 << 20), (16, 1 << 20)):
        monkeypatch.setattr(trainer, "core_numbers", lambda cores=cores: list(range(cores)))
        monkeypatch.setattr(trainer, "_GROUP_VALUES", values)
        bags.append(train(examples, of))
    for bag in bags[1:]:
        assert bag.out_of_fold.tobytes() == bags[0].out_of_fold.tobytes()
        assert all(bag.weights[name].tobytes() == array.tobytes() for name, array in bags[0].weights.items())
        assert bag.history.loss.tobytes() == bags[0].history.loss.tobytes()


def test_an_overflow_is_an_error():
    features, labels = rows()
    with pytest.raises(TrainingError, match=r"NaN or infinite in training with 1e\+30x2"):
        train(folded(features, labels), replace(plan(), schedule=(Phase(1e30, 2),)))


@pytest.mark.parametrize(("kind", "features"), [("dense", 10_000), ("linear", 1_000), ("lda", 1_000)])
def test_features_stay_on_the_disk(kind, features, tmp_path):
    """A file of 200 MB is trained on in two thirds of that, SciPy's modules included."""
    program = """
import sys, threading, time
import numpy as np
sys.path[:0] = ["tests", "src"]
from pathlib import Path
from test_training import Silent, plan, by_folds, examples_of, train
from dataclasses import replace
from featcache.training.heads import lbfgs, lda, logistic_regression
file, kind, width = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = 10**8 // width
features = np.memmap(file, np.float16, "w+", shape=(rows, width))
features[::97, ::7] = 1
features.flush()
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024
before, peak, done = anonymous(), [0.0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=watch)
thread.start()
examples = examples_of([features], np.arange(rows) % 3, by_folds(np.arange(rows) // 3 % 2, np.ones(rows, bool)))
of = replace(plan(1, keep_best=True, tempered=True, recompute_statistics=True, hidden=(4,)), features=width)
lbfgs._WORK, logistic_regression.VARIANCES, lda.SHRINKAGES = 0, (1.0,), (0.5,)  # steps are alike
if kind == "dense":
    train(examples, of, (0,))
else:
    fit = logistic_regression.train_linear if kind == "linear" else lda.train_lda
    fit(examples, replace(of, hidden=()), Silent(), scratch=file.parent)
done.set()
thread.join()
print(peak[0] - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "features"), kind, str(features)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 130
