import math

import numpy as np
import pytest
from images import picture

from featcache.core import keys
from featcache.dataset.augmentation import augment
from featcache.errors import SettingsError
from featcache.settings.augment_policy import CONVNET_RECIPE, RECIPE, AugmentPolicy

DIGEST = "ab" * 32
GOLDEN_RECIPE = [
    17,
    8,
    4,
    18,
    9,
    5,
    28,
    19,
    15,
    113,
    104,
    100,
    111,
    102,
    98,
    107,
    98,
    94,
    190,
    181,
    177,
    202,
    193,
    189,
    205,
    196,
    192,
]
GOLDEN_CONVNET = [15, 17, 26, 109, 106, 104, 186, 195, 199]


def changed(policy, image=None, seed=0, digest=DIGEST, copy=1):
    return augment(picture() if image is None else image, policy, seed, digest, copy)


def test_recipes():
    assert RECIPE.settings()["rotation"] == 15
    assert RECIPE.settings()["shear"] == 0.1
    assert CONVNET_RECIPE.settings()["zoom"] == 0.08
    assert keys.digest(RECIPE.settings()) != keys.digest(CONVNET_RECIPE.settings())


def test_same_arguments_same_pixels_and_anything_else_differs():
    first = changed(RECIPE)
    np.testing.assert_array_equal(first, changed(RECIPE))
    for other in ({"seed": 1}, {"digest": "cd" * 32}, {"copy": 2}):
        assert not np.array_equal(first, changed(RECIPE, **other))


def test_no_policy_no_change_and_the_image_is_left_alone():
    image = picture()
    before = image.copy()
    result = changed(AugmentPolicy(), image)
    np.testing.assert_array_equal(result, image)
    assert result is not image
    changed(RECIPE, image)
    np.testing.assert_array_equal(image, before)


def test_golden_values():
    # Whatever changes these must raise AUGMENT_VERSION.
    image = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3) * 3
    assert changed(RECIPE, image, seed=3)[::2, ::2].ravel().tolist() == GOLDEN_RECIPE
    assert changed(CONVNET_RECIPE, image, seed=3)[::2, ::2, 0].ravel().tolist() == GOLDEN_CONVNET


def test_edge_pixels_are_repeated():
    flat = np.full((20, 30, 3), (50, 100, 150), np.uint8)
    for copy in range(20):
        policy = AugmentPolicy(rotation=180, height_shift=0.5, width_shift=0.5, shear=0.5, zoom=0.5)
        np.testing.assert_array_equal(changed(policy, flat, copy=copy), flat)


def test_shifts_move_by_at_most_their_part_and_both_ways():
    image = np.zeros((40, 80, 3), np.uint8)
    image[20, 40] = 255
    places = []
    for copy in range(60):
        weights = changed(AugmentPolicy(width_shift=0.1), image, copy=copy)[..., 0].astype(float)
        assert weights[:18].sum() == weights[23:].sum() == 0  # not up or down
        places.append((weights.sum(axis=0) * np.arange(80)).sum() / weights.sum() - 40)
    assert -8.2 <= min(places) < -5
    assert 5 < max(places) <= 8.2


def test_rotation_turns_around_the_centre():
    image = np.zeros((41, 41, 3), np.uint8)
    image[19:22, 19:22] = 250
    image[19:22, 35:38] = 250
    angles = []
    for copy in range(40):
        turned = changed(AugmentPolicy(rotation=15), image, copy=copy)[..., 0].astype(float)
        assert turned[20, 20] > 200
        turned[15:26, 15:26] = 0
        y, x = (np.indices(turned.shape) * turned).sum(axis=(1, 2)) / turned.sum() - 20
        assert math.hypot(x, y) == pytest.approx(16, abs=0.5)
        angles.append(math.degrees(math.atan2(y, x)))
    assert -15.5 < min(angles) < -10
    assert 10 < max(angles) < 15.5


def test_channels_shift_by_themselves_and_are_clipped():
    grey = np.full((4, 4, 3), 128, np.uint8)
    shifts = np.array(
        [changed(AugmentPolicy(channel_shift=20), grey, copy=c)[0, 0].astype(int) - 128 for c in range(60)]
    )
    assert -20 <= shifts.min() < -15
    assert 15 < shifts.max() <= 20
    assert (shifts[:, 0] != shifts[:, 1]).any()
    extremes = np.array([[[0, 255, 0]]], np.uint8).repeat(2, 0)
    for copy in range(10):
        result = changed(AugmentPolicy(channel_shift=20), extremes, copy=copy).astype(int)
        assert abs(result - extremes).max() <= 20


def test_flips_every_other_time_and_leaves_the_other_draws_alone():
    image = picture()
    flipped = [not np.array_equal(changed(AugmentPolicy(flip=True), image, copy=c), image) for c in range(200)]
    assert 70 < sum(flipped) < 130
    turned = changed(AugmentPolicy(rotation=15), image, copy=flipped.index(True))
    both = changed(AugmentPolicy(rotation=15, flip=True), image, copy=flipped.index(True))
    np.testing.assert_array_equal(both, turned[:, ::-1])


def test_shear_and_zoom_change_the_image():
    for policy in (AugmentPolicy(shear=0.3), AugmentPolicy(zoom=0.3)):
        assert abs(changed(policy).astype(int) - picture()).mean() > 1


@pytest.mark.parametrize(
    ("name", "value"), [("zoom", 1), ("rotation", -1), ("shear", math.nan), ("channel_shift", 300)]
)
def test_impossible_amounts(name, value):
    with pytest.raises(SettingsError, match=f"{name}={value!r}"):
        AugmentPolicy(**{name: value})
