"""Keras operations that resize as Pillow does."""

import numpy as np
import pytest
from images import picture

keras = pytest.importorskip("keras")

from featcache.dataset.decoding.decode import resize_rgb  # noqa: E402
from featcache.inference.keras_resizing import resizing_model  # noqa: E402  # after importorskip

SIDE = 24


@pytest.fixture(scope="module", params=["stretch", "crop", "pad"])
def fitted(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("resizing") / "resize.keras"
    resizing_model(SIDE, request.param).save(path)
    return keras.models.load_model(path, safe_mode=True), request.param


def sizes():
    around = [(h, w) for h in (1, 2, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE, 97) for w in (1, SIDE, SIDE + 3, 61, 2 * SIDE)]
    return around + np.random.default_rng(3).integers(1, 200, (30, 2)).tolist()


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_every_size_comes_to_the_same_bytes(fitted, kind):
    """Tall, wide, shrunk and enlarged: Pillow takes its two passes in an order of its own."""
    model, fit = fitted
    for seed, (height, width) in enumerate(sizes()):
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        image = noise if kind == "noise" else picture(height, width, seed)
        resized = keras.ops.convert_to_numpy(model(image[None]))[0]
        assert resized.dtype == np.uint8
        assert np.array_equal(resized, resize_rgb(image, SIDE, fit)), (height, width)


def test_a_batch_is_resized_image_by_image(fitted):
    model, fit = fitted
    batch = np.stack([picture(50, 31, seed) for seed in range(3)])
    resized = keras.ops.convert_to_numpy(model(batch))
    assert all(np.array_equal(one, resize_rgb(image, SIDE, fit)) for one, image in zip(resized, batch, strict=True))
