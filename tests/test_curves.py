"""The diagnosis of curves of known kinds, and in the summary of a real run."""

import json
import math

import numpy as np
import pytest

from featcache.core.formatting import plain
from featcache.errors import TrainingError
from featcache.settings.specs import FeaturesSpec, Tap
from featcache.training.heads.overfitting import (
    DIVERGES,
    OVERFITS,
    SOUND,
    UNDERFITS,
    curves_lines,
    diagnose,
    suggestions,
)

EPOCHS = np.arange(1, 41)
GUESS = math.log(10)


def falling(start, end, speed=6.0):
    return end + (start - end) * np.exp(-(EPOCHS - 1) / speed)


DIVERGING = (falling(GUESS, 0.02), falling(GUESS, 0.5) + 0.012 * np.maximum(EPOCHS - 15, 0))
TOGETHER = (falling(GUESS, 0.30), falling(GUESS, 0.34))
SLOW = (falling(GUESS, 1.9), falling(GUESS, 1.92))


def test_curves_that_diverge_have_an_epoch_and_a_rise():
    train, fold = DIVERGING
    verdict = diagnose(train, fold, 10)
    assert verdict.kind == OVERFITS
    margin = 0.05 * GUESS
    assert fold[verdict.parted - 1] - train[verdict.parted - 1] > margin
    assert fold[verdict.parted - 2] - train[verdict.parted - 2] <= margin
    assert verdict.fold_loss - verdict.train_loss == pytest.approx(fold[-1] - train[-1])
    assert verdict.rise == pytest.approx(fold[-1] - fold.min())
    assert verdict.rise > 0.1


def test_only_a_kept_epoch_past_the_best_and_worse_overfits():
    """However far apart the curves are: with the best epoch kept, or an earlier one, nothing was lost."""
    train, fold = DIVERGING
    best = 1 + int(fold.argmin())
    assert diagnose(train, fold, 10, kept=best).kind == DIVERGES
    assert diagnose(train, fold, 10, kept=best).rise == 0
    assert "overfits" not in diagnose(train, fold, 10, kept=best).summary
    assert diagnose(train, fold, 10, kept=len(fold)).kind == OVERFITS
    late = np.full(EPOCHS.shape, 0.9)
    late[-1] = 0.5
    assert diagnose(np.full(EPOCHS.shape, 0.1), late, 2, kept=3).kind == DIVERGES, "before the best"


def test_what_counts_is_the_epoch_that_was_kept():
    train, fold = DIVERGING
    early = diagnose(train, fold, 10, kept=2)
    assert (early.kind, early.kept) == (UNDERFITS, 2)
    assert diagnose(train, fold, 10, kept=30).fold_loss == pytest.approx(fold[29])


def test_curves_that_stay_together_are_sound_or_underfit():
    sound = diagnose(*TOGETHER, 10)
    assert (sound.kind, sound.parted) == (SOUND, None)
    slow = diagnose(*SLOW, 10)
    assert (slow.kind, slow.parted) == (UNDERFITS, None)


def test_a_training_loss_above_the_other_one_is_dropouts_and_no_overfitting():
    assert diagnose(TOGETHER[1] + 0.5, TOGETHER[1], 10).kind == SOUND


def test_curves_apart_from_the_first_epoch():
    assert diagnose([0.1, 0.05], [0.9, 0.9], 2).parted == 1


def test_impossible_curves_are_refused():
    with pytest.raises(TrainingError, match="same epochs"):
        diagnose([1.0], [1.0, 2.0], 2)
    with pytest.raises(TrainingError, match="same epochs"):
        diagnose([], [], 2)


def test_what_to_try_are_settings_that_change_something():
    plain = FeaturesSpec(taps=(Tap("block4_pool"), Tap("block5_pool")))
    assert suggestions(OVERFITS, plain, "block5_pool", (128,), 0.5) == [
        ("augmentation", "--Features-copies 5"),
        ("generalising features", "--Features-taps block4_pool,block5_pool:avg"),
        ("regularisation", "--Heads-dropout 0.65"),
        ("smaller heads", "--Heads-hidden 64"),
    ]
    assert suggestions(OVERFITS, FeaturesSpec(), "pooled", (64,), 0.5) == [
        ("regularisation", "--Heads-dropout 0.65"),
        ("smaller heads", "--Heads-hidden 32"),
    ], "nothing that costs another pass"
    done = FeaturesSpec(taps=(Tap("block5_pool", "avg"),), copies=5)
    assert suggestions(OVERFITS, done, "block5_pool_avg", (16,), 0.9) == []
    assert suggestions(UNDERFITS, plain, "block5_pool", (32,), 0.5) == [
        ("less dropout", "--Heads-dropout 0.35"),
        ("wider heads", "--Heads-hidden 64"),
    ]
    assert suggestions(SOUND, plain, "block5_pool", (32,), 0.5) == []


def bag(tap, curves):
    train, fold = curves
    record = {"classes": 10, "hidden": [128], "dropout": 0.5, "kept": len(train)}
    record |= {"seen_loss": train.tolist(), "fold_loss": fold.tolist()}
    return {"tap": tap, "shape": "dense", "curves": record}


def test_the_worst_bag_has_two_lines():
    features = FeaturesSpec(taps=(Tap("a"), Tap("b")), copies=5)
    lines = curves_lines([bag("a", TOGETHER), bag("b", DIVERGING)], features)
    assert len(lines) == 2
    assert lines[0].startswith("b/dense: overfits from epoch ")
    assert "loss 0.023 in training" in lines[0]
    assert " above its best; loss " in lines[0]
    assert lines[1].startswith("to try: more images · generalising features --Features-taps a,b:avg · ")
    sound = curves_lines([bag("a", TOGETHER)], features)
    assert len(sound) == 1
    assert sound[0].startswith("a/dense: no overfitting; loss ")
    assert curves_lines([], features) == []


def test_a_run_keeps_its_curves_and_shows_them(finished):
    from featcache.inspection.run_summary import summary_parts
    from pipeline.config import current_project

    records = [json.loads(path.read_text()) for path in (finished.artifacts / "heads").glob("*/bag.json")]
    kept = [record["curves"] for record in records if "curves" in record]
    assert len(kept) == 1
    assert len(kept[0]["fold_loss"]) == len(kept[0]["seen_loss"]) == 2, "epochs"
    with finished.in_force():
        lines = plain(summary_parts(current_project()))
    assert any(line.startswith("curves       block1_pool_avg/fast: ") for line in lines)
