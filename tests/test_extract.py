"""Extraction with a backbone made of NumPy, so that every row's features are known and every call is counted."""

import threading
import time
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from featcache.cache.layout import MIRROR, Status
from featcache.cache.reader import open_cache
from featcache.core import keys
from featcache.core.progress import Silent
from featcache.core.rows import Rows
from featcache.dataset import augmentation
from featcache.errors import FeatureValueError, RejectedImageError, SourceChangedError
from featcache.features.devices import processor
from featcache.features.extract import extract_copies
from featcache.features.extraction_job import Extraction, row_settings
from featcache.settings.architectures import backbone_settings
from featcache.settings.augment_policy import RECIPE
from featcache.settings.specs import FeaturesSpec, Tap

SIZE, BATCH = 4, 8
TAPS = (Tap("mean", "avg"), Tap("corner"))


class Backbone:
    """Two taps: the channel means, and the upper left corner. Counts the rows it is given."""

    batch_size = BATCH
    device = processor()
    taps = {"mean_avg": (3,), "corner": (2, 2, 3)}  # noqa: RUF012  # a constant

    def __init__(self):
        self.rows = 0
        self.fail_after = None
        self.scale = 1.0
        self.lock = threading.Lock()

    def forward(self, images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE, 3)
        assert len(images) <= BATCH
        with self.lock:  # two forward passes are under way at once
            if self.fail_after is not None and self.rows >= self.fail_after:
                raise InterruptedError("the backbone is gone")
            self.rows += len(images)
        values = images.astype(np.float32) * self.scale
        return {"mean_avg": values.mean(axis=(1, 2)), "corner": values[:, :2, :2]}


def picture(row):
    return np.full((SIZE, SIZE, 3), (row % 250, row // 250, 7), np.uint8) + np.arange(3, dtype=np.uint8)


def make_job(n, split="train", copy=0, weights="w", reasons=None):
    reasons = reasons or {}
    rows = Rows(
        ids=[f"img_{row}" for row in range(n)],
        labels=np.arange(n, dtype=np.int32) % 2,
        groups=[""] * n,
        digests=[f"{row:064d}" for row in range(n)],
        reasons=[reasons.get(row, "") for row in range(n)],
        locations=[str(row) for row in range(n)],
    )
    spec = FeaturesSpec(taps=TAPS, image_size=SIZE)
    settings = row_settings(spec, {"backbone": "numpy", "preprocessing": "none"}, weights, "float32", copy)
    return Extraction("set", split, copy, rows, ("a", "b"), spec, settings)


def load(location, digest, size):
    assert size == SIZE
    assert digest == f"{int(location):064d}"
    return picture(int(location))


def extract(path, job, backbone=None, **options):
    backbone = backbone or Backbone()
    loader = options.pop("load", load)
    extract_copies({path: job}, loader, lambda: backbone, options.pop("progress", Silent()), **options)
    return open_cache(path), backbone


def expected(n):
    images = np.stack([picture(row) for row in range(n)]).astype(np.float32)
    return {"mean_avg": images.mean(axis=(1, 2)).astype(np.float16), "corner": images[:, :2, :2].astype(np.float16)}


@pytest.mark.parametrize("n", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH - 1, 3 * BATCH, 3 * BATCH + 1])
def test_no_row_is_lost_repeated_or_moved(tmp_path, n):
    reader, backbone = extract(tmp_path / "a.h5", make_job(n))
    assert backbone.rows == n
    assert reader.ids == [f"img_{row}" for row in range(n)]
    for tap, features in expected(n).items():
        np.testing.assert_array_equal(reader[tap], features)
    assert (reader.status == Status.OK).all()
    assert reader.run["computed"] == n


def test_decoding_runs_in_other_threads_and_progress_hears_of_every_row(tmp_path):
    threads, advanced, statuses = set(), [], []

    def slow_load(*arguments):
        threads.add(threading.get_ident())
        return load(*arguments)

    class Progress(Silent):
        def start(self, what, total, unit):
            assert (total, unit) == (20, "images")
            assert "train" in what

        def advance(self, count, status=""):
            advanced.append(count)
            statuses.append(status)

    extract(tmp_path / "a.h5", make_job(20), load=slow_load, progress=Progress())
    assert threading.get_ident() not in threads
    assert sum(advanced) == 20
    assert all("forward" in status and "decode" in status and "write" in status for status in statuses)


def test_an_unchanged_row_is_copied_not_computed(tmp_path):
    extract(tmp_path / "train.h5", make_job(20))
    reader, backbone = extract(tmp_path / "more.h5", make_job(21))
    assert backbone.rows == 1
    assert (reader.run["computed"], reader.run["copied"]) == (1, 20)
    np.testing.assert_array_equal(reader["corner"], expected(21)["corner"])


def test_when_every_row_is_known_the_backbone_is_not_even_opened(tmp_path):
    extract(tmp_path / "train.h5", make_job(20))

    def refuse():
        raise AssertionError("TensorFlow would have been imported")

    extract_copies({tmp_path / "test.h5": make_job(15, "test")}, load, refuse, Silent())
    np.testing.assert_array_equal(open_cache(tmp_path / "test.h5")["mean_avg"], expected(15)["mean_avg"])


def uneven(location, digest, size):
    return np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(SIZE, SIZE, 3) + np.uint8(int(location))


def test_a_mirrored_copy_is_decoded_with_the_plain_one_and_shares_no_row_with_it(tmp_path):
    loaded, titles = [], []

    class Progress(Silent):
        def start(self, what, total, unit):
            titles.append(what)

    def load_once(location, digest, size):
        if location == "3":
            raise RejectedImageError("damaged")
        loaded.append(location)
        return uneven(location, digest, size)

    plain, mirrored = tmp_path / "train-copy0.h5", tmp_path / "train-mirror.h5"
    jobs = {plain: make_job(20), mirrored: make_job(20, copy=MIRROR)}
    extract_copies(jobs, load_once, Backbone, Progress())
    assert sorted(loaded, key=int) == [str(row) for row in range(20) if row != 3]
    images = np.stack([uneven(row, "", SIZE) for row in range(20)])
    images[3] = 0
    reader = open_cache(mirrored)
    assert (reader.copy, reader.status[3]) == (MIRROR, Status.REJECTED)
    assert "mirror" in repr(reader)
    np.testing.assert_array_equal(open_cache(plain)["corner"], images[:, :2, :2])
    np.testing.assert_array_equal(reader["corner"], images[:, :, ::-1][:, :2, :2])
    test, backbone = extract(tmp_path / "test-mirror.h5", make_job(20, "test", copy=MIRROR), load=load_once)
    assert (test.run["copied"], backbone.rows) == (19, 1), "rows of the mirrored copy alone"
    np.testing.assert_array_equal(test["corner"], reader["corner"])
    extract_copies({tmp_path / "a.h5": make_job(9, copy=MIRROR, weights="v")}, uneven, Backbone, Progress())
    assert titles == ["train and mirror: vgg16", "train mirror: vgg16"]


def test_other_weights_copy_nothing(tmp_path):
    extract(tmp_path / "one.h5", make_job(20))
    _, backbone = extract(tmp_path / "other.h5", make_job(20, weights="others"))
    assert backbone.rows == 20


def test_fresh_computes_every_row_anew(tmp_path):
    extract(tmp_path / "a.h5", make_job(20))
    reader, backbone = extract(tmp_path / "a.h5", make_job(20), reuse=False)
    assert backbone.rows == 20
    assert reader.run["copied"] == 0


def test_rows_set_aside_by_listing_are_zero_and_never_decoded(tmp_path):
    def careful(location, digest, size):
        assert location not in ("2", "9")
        return load(location, digest, size)

    reader, backbone = extract(tmp_path / "a.h5", make_job(12, reasons={2: "zero bytes", 9: "no image"}), load=careful)
    assert backbone.rows == 10
    assert np.flatnonzero(reader.status == Status.REJECTED).tolist() == [2, 9]
    assert not np.asarray(reader["corner"])[[2, 9]].any()
    np.testing.assert_array_equal(np.asarray(reader["corner"])[3:9], expected(12)["corner"][3:9])


def test_a_row_that_cannot_be_decoded_is_zero_and_rejected(tmp_path):
    def broken(location, digest, size):
        if location == "5":
            raise RejectedImageError("truncated")
        return load(location, digest, size)

    reader, _ = extract(tmp_path / "a.h5", make_job(12), load=broken)
    assert np.flatnonzero(reader.status == Status.REJECTED).tolist() == [5]
    assert not np.asarray(reader["mean_avg"])[5].any()
    np.testing.assert_array_equal(np.asarray(reader["mean_avg"])[6:], expected(12)["mean_avg"][6:])
    _, backbone = extract(tmp_path / "b.h5", make_job(12))
    assert backbone.rows == 1, "a rejected row is no row to copy"


def test_a_changed_image_stops_the_run_by_name(tmp_path):
    def changed(location, digest, size):
        if location == "17":
            raise SourceChangedError("img_17 changed")
        return load(location, digest, size)

    with pytest.raises(SourceChangedError, match="img_17 changed"):
        extract(tmp_path / "a.h5", make_job(20), load=changed)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(("scale", "what"), [(1e6, "inf"), (np.nan, "nan")])
def test_a_value_that_float16_cannot_hold_is_an_error_that_names_the_row(tmp_path, scale, what):
    backbone = Backbone()
    backbone.scale = scale
    with pytest.raises(FeatureValueError, match="img_0") as caught, np.errstate(all="ignore"):
        extract(tmp_path / "a.h5", make_job(9), backbone)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_after_an_error_the_next_run_goes_on_from_the_last_durable_block(tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.features.extract.default_block_rows", lambda taps, batch_size: 2 * batch_size)
    first = Backbone()
    first.fail_after = 5 * BATCH
    with pytest.raises(InterruptedError):
        extract(tmp_path / "a.h5", make_job(8 * BATCH), first)
    assert [path.name.endswith(".partial.h5") for path in tmp_path.iterdir()] == [True]
    reader, second = extract(tmp_path / "a.h5", make_job(8 * BATCH))
    assert second.rows == 4 * BATCH, "two blocks of two batches were durable"
    assert reader.run["resumed"] == 4 * BATCH
    undisturbed, _ = extract(tmp_path / "else" / "a.h5", make_job(8 * BATCH))
    for tap in ("mean_avg", "corner"):
        assert np.asarray(reader[tap]).tobytes() == np.asarray(undisturbed[tap]).tobytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.h5"]


def test_a_copy_is_augmented_and_any_row_can_be_remade_alone(tmp_path):
    rng = np.random.default_rng(0)
    images = {str(row): rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for row in range(20)}

    def loaded(location, digest, size):
        return images[location]

    plain, _ = extract(tmp_path / "0.h5", make_job(20), load=loaded)
    first, _ = extract(tmp_path / "1.h5", make_job(20, copy=1), load=loaded)
    second, _ = extract(tmp_path / "2.h5", make_job(20, copy=2), load=loaded)
    assert len({np.asarray(reader["corner"]).tobytes() for reader in (plain, first, second)}) == 3
    alone = augmentation.augment(images["13"], RECIPE, 0, f"{13:064d}", 2)
    np.testing.assert_array_equal(np.asarray(second["corner"])[13], alone[:2, :2].astype(np.float16))


def test_copies_made_together_equal_those_made_alone_and_an_image_is_decoded_once(tmp_path):
    decoded = []

    def counted(location, digest, size):
        decoded.append(location)
        return load(location, digest, size)

    n = 2 * BATCH + 3
    paths = {copy: tmp_path / "together" / f"{copy}.h5" for copy in range(3)}
    backbone = Backbone()
    extract_copies({paths[copy]: make_job(n, copy=copy) for copy in range(3)}, counted, lambda: backbone, Silent())
    assert sorted(decoded) == sorted(str(row) for row in range(n))
    assert backbone.rows == 3 * n
    for copy, path in paths.items():
        alone, _ = extract(tmp_path / "alone" / f"{copy}.h5", make_job(n, copy=copy))
        for tap in ("mean_avg", "corner"):
            assert np.asarray(open_cache(path)[tap]).tobytes() == np.asarray(alone[tap]).tobytes()
    runs = [open_cache(path).run for path in paths.values()]
    assert [run["computed"] for run in runs] == [n, n, n]
    assert len({run["images_per_second"] for run in runs}) == 1


def test_copies_that_lack_different_rows_get_each_its_own(tmp_path):
    extract(tmp_path / "0.h5", make_job(BATCH + 2))
    extract(tmp_path / "1.h5", make_job(3, copy=1))
    n, backbone = 2 * BATCH, Backbone()

    def broken(location, digest, size):
        if location == str(n - 1):
            raise RejectedImageError("truncated")
        return load(location, digest, size)

    paths = [tmp_path / "all0.h5", tmp_path / "all1.h5"]
    jobs = {path: make_job(n, copy=copy) for copy, path in enumerate(paths)}
    extract_copies(jobs, broken, lambda: backbone, Silent())
    assert [open_cache(path).run["copied"] for path in paths] == [BATCH + 2, 3]
    for copy, path in enumerate(paths):
        alone, _ = extract(tmp_path / "alone" / f"{copy}.h5", make_job(n, copy=copy), load=broken)
        assert np.asarray(open_cache(path)["corner"]).tobytes() == np.asarray(alone["corner"]).tobytes()
        assert np.flatnonzero(open_cache(path).status == Status.REJECTED).tolist() == [n - 1]


def test_shares_say_what_the_pipeline_waits_for(tmp_path):
    def slow(location, digest, size):
        time.sleep(0.02)
        return load(location, digest, size)

    reader, _ = extract(tmp_path / "a.h5", make_job(4 * BATCH), load=slow)
    shares = reader.run["shares"]
    assert set(shares) == {"decode", "forward", "write"}
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert shares["decode"] > 0.5, "the disk is slow, the processor idle: everything stands still for decoding"

    class Slow(Backbone):
        def forward(self, images):
            time.sleep(0.05)
            return super().forward(images)

    reader, _ = extract(tmp_path / "b.h5", make_job(4 * BATCH, weights="others"), Slow())
    assert reader.run["shares"]["forward"] > 0.5


def test_a_forward_pass_that_asks_is_given_the_rows_to_come_and_its_choice_is_recorded(tmp_path):
    class Asking(Backbone):
        expected = None
        side_by_side = ("conv5", "conv6")

        def expect(self, rows):
            assert self.rows == 0
            self.expected = rows

    asking = Asking()
    extract(tmp_path / "a.h5", make_job(2 * BATCH + 1, reasons={0: "damaged"}), asking)
    assert asking.expected == asking.rows == 2 * BATCH
    assert open_cache(tmp_path / "a.h5").run["side_by_side"] == ["conv5", "conv6"]


@pytest.mark.parametrize("there", ["tf_nightly", None])
def test_packages_without_metadata_do_not_cost_the_work_at_publishing(tmp_path, monkeypatch, there):
    """As with tensorflow-cpu or tf-nightly, or where something was found on PYTHONPATH."""

    def version(name):
        if name in ("tensorflow", "featcache"):
            raise PackageNotFoundError(name)
        return "2.22.dev" if name == "tf_nightly" else "1.0"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"tensorflow": [there]} if there else {})
    extract(tmp_path / "c.h5", make_job(3))
    told = open_cache(tmp_path / "c.h5").run["versions"]
    assert told["numpy"] == "1.0"
    assert told.get("tensorflow") == ("2.22.dev" if there else None)
    assert "featcache" not in told


def test_row_settings_hold_what_decides_values_and_nothing_else():
    spec = FeaturesSpec(taps=TAPS, image_size=SIZE)
    backbone = {"backbone": "vgg16", "preprocessing": "caffe", "taps": ["x"], "image_size": 4}
    base = row_settings(spec, backbone, "w", "float32", 0)
    assert base == row_settings(spec, {**backbone, "taps": ["x", "y"]}, "w", "float32", 0), "other taps don't count"
    others = [
        row_settings(spec, backbone, "w2", "float32", 0),
        row_settings(spec, backbone, "w", "bfloat16", 0),
        row_settings(spec, backbone, "w", "float32", 1),
        row_settings(spec, backbone, "w", "float32", 2),
        row_settings(spec, backbone, "w", "float32", MIRROR),
        row_settings(spec, {**backbone, "backbone": "vgg19"}, "w", "float32", 0),
        row_settings(spec, {**backbone, "preprocessing": "tf"}, "w", "float32", 0),
        row_settings(FeaturesSpec(taps=TAPS, image_size=5), backbone, "w", "float32", 0),
        row_settings(FeaturesSpec(taps=TAPS, image_size=SIZE, image_fit="crop"), backbone, "w", "float32", 0),
        row_settings(FeaturesSpec(taps=TAPS, image_size=SIZE, image_fit="pad"), backbone, "w", "float32", 0),
    ]
    assert len({str(settings["corner"]) for settings in [base, *others]}) == 11
    assert base["corner"] != base["mean_avg"]


@pytest.mark.parametrize(
    ("copy", "key"),
    [
        (0, "8ae7502894933458065d78bc014807b4b825f9f9e78b3e171cdf28d9901333a3"),
        (2, "bb59b44f098dd2753e6398f3998cb445b3373e8a5e3862657de3513702d66f68"),
    ],
)
def test_keys_of_rows_are_those_of_version_0_1(copy, key):
    """People's caches stay valid: what was added since leaves keys of earlier settings alone."""
    spec = FeaturesSpec(taps=(Tap("block5_pool"),), image_size=224)
    settings = row_settings(spec, backbone_settings(spec), "a" * 64, "bfloat16", copy)
    assert keys.digest(settings["block5_pool"]) == key
