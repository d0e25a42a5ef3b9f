"""Decoded images of a split: grey or colour, in memory or in a scratch file, and what can't be decoded."""

import os

import numpy as np
import pytest

from featcache.core.progress import Silent
from featcache.core.rows import Rows
from featcache.dataset import pixel_array
from featcache.dataset.pixel_array import load_pixels
from featcache.errors import RejectedImageError, SourceChangedError, StorageError

N, SIDE = 600, 4


def rows(reasons=None):
    names = [f"{i}" for i in range(N)]
    return Rows(names, np.zeros(N, np.int32), [""] * N, ["d" + name for name in names], reasons or [""] * N, names)


def grey(location, digest, size):
    assert digest == f"d{location}"
    return np.full((size, size, 3), int(location) % 256, np.uint8)


def with_colour(location, digest, size):
    return np.full((size, size, 3), (200, 100, 50), np.uint8) if location == "301" else grey(location, digest, size)


def load(loader, folder, reasons=None, channels=None):
    return load_pixels(rows(reasons), loader, SIDE, folder, Silent(), "test", channels)


@pytest.fixture(params=[1 << 30, 0], ids=["memory", "scratch"])
def place(request, monkeypatch):
    monkeypatch.setattr(pixel_array, "MEMORY_BYTES", request.param)
    return request.param


def test_grey_images_take_one_channel(tmp_path, place):
    loaded = load(grey, tmp_path)
    assert loaded.images.shape == (N, SIDE, SIDE, 1)
    assert np.array_equal(loaded.images[:, 0, 0, 0], np.arange(N) % 256)
    assert loaded.usable.all()
    assert isinstance(loaded.images, np.memmap) == (place == 0)
    assert list(tmp_path.iterdir()) == [], "the scratch file has no name"


def test_one_image_in_colour_makes_all_of_them_rgb(tmp_path, place):
    loaded = load(with_colour, tmp_path)
    assert loaded.images.shape == (N, SIDE, SIDE, 3)
    assert loaded.images[301, 1, 2].tolist() == [200, 100, 50]
    assert loaded.images[300, 1, 2].tolist() == [44, 44, 44]


def test_colour_for_a_network_of_grey_images_becomes_its_luminance(tmp_path, place):
    loaded = load(with_colour, tmp_path, channels=1)
    assert loaded.images[301, 0, 0].tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]
    assert np.array_equal(loaded.images[302:, 0, 0, 0], np.arange(302, N) % 256), "grey keeps its value"
    assert load(grey, tmp_path, channels=3).images.shape == (N, SIDE, SIDE, 3)


def test_what_listing_or_decoding_rejects_is_black_and_not_usable(tmp_path):
    def loader(location, digest, size):
        assert location != "7", "listing set it aside"
        if location == "500":
            raise RejectedImageError("damaged")
        return grey(location, digest, size)

    loaded = load(loader, tmp_path, ["too large" if i == 7 else "" for i in range(N)])
    assert np.flatnonzero(~loaded.usable).tolist() == [7, 500]
    assert not loaded.images[[7, 500]].any()


def test_an_image_that_changed_ends_it(tmp_path):
    def loader(location, digest, size):
        if location == "40":
            raise SourceChangedError("40 changed")
        return grey(location, digest, size)

    with pytest.raises(SourceChangedError, match="40 changed"):
        load(loader, tmp_path)


def test_no_room_for_the_scratch_file_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixel_array, "MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no space left"):
        load(grey, tmp_path)


def test_no_rows_are_no_images(tmp_path):
    empty = Rows([], np.zeros(0, np.int32), [], [], [], [])
    assert load_pixels(empty, grey, SIDE, tmp_path, Silent(), "test").images.shape == (0, SIDE, SIDE, 1)
