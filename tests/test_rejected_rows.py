"""What images that can't be used leave of a class, split or tap: refused, or text; never passed over."""

import numpy as np
import pytest
from cache_files import TAPS, features_of, make_header, make_rows
from hypothesis import given, settings, strategies as st

import featcache
from featcache.cache.layout import Status
from featcache.cache.writer import CacheWriter
from featcache.errors import SubmissionError, TrainingError
from featcache.project.rejected_rows import SplitRows, alike, check_usable, losses
from featcache.training.folds import ALWAYS, NO_FOLD, assign_folds

NAMES = ("ant", "bee", "cat")


@st.composite
def splits(draw):
    """Rows of three classes (or of no known one) in one split, any of them rejected."""
    rows = draw(st.lists(st.tuples(st.integers(-1, 2), st.booleans()), min_size=1, max_size=40))
    labels, usable = np.array(rows).T
    return SplitRows(draw(st.sampled_from(["train", "valid", "test"])), labels, usable.astype(bool))


@given(splits())
@settings(max_examples=300, deadline=None)
def test_what_lost_its_rows_is_refused_or_named(found):
    try:
        check_usable(found, NAMES, lambda row: f"row {row}")
    except (TrainingError, SubmissionError) as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    text = " ".join(losses([found], NAMES))
    for label, name in enumerate(NAMES):
        own = found.labels == label
        left, listed = int((own & found.usable).sum()), int(own.sum())
        if found.split == "train":
            assert (f"0 of {listed} for class {name!r}" in refused) == (left == 0)
        if 2 * left < listed and found.usable.any():
            assert f"{listed - left} of {listed} images of class {name!r}" in text
    if not found.usable.any():
        assert refused or found.split == "valid"
        assert f"{len(found.usable)} of {len(found.usable)} images could not be used" in text
    if found.usable.all():
        assert not text


def test_a_refusal_names_class_counts_reason_and_file():
    labels = np.repeat(np.arange(5), 4)
    usable = labels == 0
    with pytest.raises(TrainingError) as caught:
        check_usable(
            SplitRows("train", labels, usable), ("a", "b", "c", "d", "e"), lambda row: f"{row}: torn", " (see f)"
        )
    text = str(caught.value)
    assert "images: 0 of 4 for class 'b', 0 of 4 for class 'c', 0 of 4 for class 'd' and 1 more; the" in text
    assert "the first: 4: torn (see f): repair" in text


@pytest.mark.parametrize("say", [np.zeros_like, lambda stored: np.full_like(stored, 3.5)])
def test_a_tap_that_says_the_same_of_every_image_is_named(tmp_path, say):
    rows, taps = make_rows(200), TAPS
    with CacheWriter(tmp_path / "c.h5", make_header(rows, taps)) as writer:
        features = features_of(rows, range(200))
        features["block5_pool"] = say(features["block5_pool"])
        status = np.full(200, Status.OK, np.uint8)
        writer.write(np.arange(200), features, status)
        writer.publish({})
    (line,) = alike(featcache.open(tmp_path / "c.h5"))
    assert line.startswith("tap block5_pool: the features of 64 images, evenly spaced, are all the same")


@st.composite
def dealt(draw):
    """Rows with classes, and with groups or copies of one image that hang them together."""
    count = draw(st.integers(4, 40))
    labels = draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count))
    digests = draw(st.lists(st.sampled_from([f"{n:064}" for n in range(12)]), min_size=count, max_size=count))
    groups = draw(st.lists(st.sampled_from(["", "x", "y", "z", "u", "v"]), min_size=count, max_size=count))
    return np.array(labels), groups if draw(st.booleans()) else [""] * count, digests


@given(dealt(), st.integers(2, 5))
@settings(max_examples=300, deadline=None)
def test_every_class_is_trained_on_wherever_it_is_scored(rows, folds):
    labels, groups, digests = rows
    joined = [group or digest for group, digest in zip(groups, digests, strict=True)]
    several = any(
        len({unit for unit, own in zip(joined, labels, strict=True) if own == label}) > 1 for label in range(3)
    )
    try:
        assigned = assign_folds(labels, groups, folds, 0, (), digests)
    except TrainingError:
        assert any(groups) or not several, "duplicates join groups"
        return
    assert (assigned[labels < 0] == NO_FOLD).all()
    used = set(assigned[assigned >= 0])
    assert used == set(range(len(used)))
    assert 2 <= len(used) <= folds
    for label in range(3):
        own = set(assigned[labels == label])
        assert own <= {ALWAYS} or (own <= used and len(own) > 1)
    for same in (digests, groups if any(groups) else digests):
        for unit in set(same) - {""}:
            assert len({fold for fold, each in zip(assigned, same, strict=True) if each == unit and fold >= 0}) <= 1


def test_a_class_that_one_deal_puts_into_one_fold_is_dealt_again():
    labels = np.array([0, 0, 0, 0, 1, 1])
    digests = ["a", "b", "c", "d", "a", "c"]  # both images of class 1 stand in class 0, too
    for seed in range(20):
        assert len(set(assign_folds(labels, [""] * 6, 2, seed, NAMES[:2], digests)[4:])) == 2


def test_a_class_that_every_deal_puts_into_one_fold_is_always_trained_on():
    labels = np.array([0, 1, 2, 0, 1, 2, 3, 3, 3])
    # the only images of classes 0 and 2 and the first ones of other classes are dealt out in this order: none can move
    digests = ["x", "y", "z", "z", "x", "y", "p", "q", "r"]
    for seed in range(5):
        assigned = assign_folds(labels, [""] * 9, 2, seed, (), digests)
        assert [set(assigned[labels == label]) for label in range(3)] == [{ALWAYS}, {0, 1}, {0, 1}]
        assert set(assigned[labels == 3]) == {0, 1}
