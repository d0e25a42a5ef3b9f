"""What every source promises, whatever it reads: the contract of `Source`, run over each of them."""

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, greys, make_idx, table
from listings import build_manifest

from featcache.core.progress import Silent
from featcache.dataset import digest_cache, file_checks
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.listing import current_key, list_files, list_images
from featcache.dataset.manifest import Manifest
from featcache.dataset.sources.source import open_source
from featcache.errors import SourceChangedError, SourceError
from featcache.settings.specs import DatasetSpec

IMAGES, LABELS = greys(), [7, 3, 7, 3, 9, 9]


def write_images(root, places, images):
    for place, image in zip(places, [*images, *images], strict=False):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(encoded(image))


class SourceContract:
    """Subclasses say what a data set is; every test then holds for it."""

    source = ""
    options: ClassVar[dict[str, object]] = {}
    images = 0  # where they are what is counted, and not files

    def make(self, root, images=IMAGES):
        """Write a data set of six training images and some for test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def old_files(self, monkeypatch):
        """Files just written count as settled."""
        monkeypatch.setattr(file_checks, "SETTLE_NS", 0)

    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / "data"
        root.mkdir()
        self.make(root)
        return root

    def spec_of(self, root):
        return DatasetSpec("x", self.source, root, **self.options)

    @pytest.fixture
    def spec(self, root):
        return self.spec_of(root)

    @pytest.fixture
    def out(self, tmp_path):
        return tmp_path / "artifacts"

    def test_rows_have_what_a_manifest_needs(self, spec, out):
        manifest = build_manifest(spec, out)
        assert list(manifest.splits) == ["train", "test"]
        assert manifest.settings == {"source": self.source}
        for rows in manifest.splits.values():
            assert len({*rows.ids}) == len(rows)
            assert all(len(digest) == 64 for digest in rows.digests)
            assert rows.labels.dtype == np.int32
            assert rows.labels.max() < len(manifest.class_names)
        assert np.bincount(manifest.splits["train"].labels).min() >= 2

    def test_listing_again_and_from_the_disk_is_the_same(self, spec, out):
        first, again = build_manifest(spec, out), list_images(spec, out)
        for manifest in (again, Manifest.load(out)):
            assert manifest.key == first.key
            for split, rows in manifest.splits.items():
                assert rows.ids == first.splits[split].ids
                assert rows.locations == first.splits[split].locations

    def test_every_image_loads_at_any_size(self, spec, out):
        source = open_source(spec)
        for rows in build_manifest(spec, out).splits.values():
            for size in (1, 8):
                image = source.load(rows.locations[0], rows.digests[0], size)
                assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)

    def test_many_threads_load_the_same(self, spec, out):
        source, rows = open_source(spec), build_manifest(spec, out).splits["train"]

        def load(row):
            return source.load(rows.locations[row], rows.digests[row], 8)

        with ThreadPoolExecutor(8) as pool:
            loaded = list(pool.map(load, [0, 1, 2, 3] * 8))
        for row, image in enumerate(loaded):
            np.testing.assert_array_equal(image, loaded[row % 4])

    def test_another_digest_is_a_changed_image(self, spec, out):
        rows = build_manifest(spec, out).splits["train"]
        with pytest.raises(SourceChangedError, match="changed after indexing: run again"):
            open_source(spec).load(rows.locations[0], "0" * 64, 8)

    def test_files_are_known_by_their_stats_without_being_read(self, spec, out, monkeypatch):
        key = build_manifest(spec, out).key
        monkeypatch.setattr(digest_cache, "_examined", lambda *_: pytest.fail("a file was read"))
        files = list_files(spec)
        assert len(files) == len({*files.locations}) > 0
        assert current_key(spec, out, files) == key

    def test_only_new_files_are_digested(self, spec, out):
        source, digests, counted = open_source(spec), DigestCache(), []

        class Counter(Silent):
            def start(self, what, total, unit):
                counted.append((what, total, unit))

        found = source.examine(source.files(), digests, Counter())
        assert counted == [("listing", self.images or len(source.files()), "files")]
        for row, digest in enumerate(file_checks.Digests(found, np.arange(len(found.files)))):
            assert len(digest) == 64 or found.reasons[row]
        assert found.examined().all()

    def test_keys_do_not_depend_on_where_it_lies(self, spec, root, out, tmp_path):
        key = build_manifest(spec, out).key
        moved = root.rename(tmp_path / "elsewhere")
        assert build_manifest(self.spec_of(moved), tmp_path / "other").key == key

    def test_a_path_without_images(self, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        for name, message in (
            ("nowhere", "folder of images but nothing"),
            ("file", "but a file"),
            ("empty", "has no|nothing there"),
        ):
            path = tmp_path / name
            spec = self.spec_of(path)
            with pytest.raises(SourceError, match=message) as caught:
                build_manifest(spec, tmp_path / "artifacts")
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
            assert list_files(spec) is None

    def test_changed_images_are_listed_under_another_key(self, spec, root, out):
        key = build_manifest(spec, out).key
        self.make(root, 255 - IMAGES)
        assert current_key(spec, out, list_files(spec)) is None
        assert build_manifest(spec, out).key != key


class TestFolder(SourceContract):
    source = "folder"

    def make(self, root, images=IMAGES):
        places = [f"train/{label}/{row}.png" for row, label in enumerate(LABELS)] + ["test/1.png", "test/2.png"]
        write_images(root, places, images)


class TestTable(SourceContract):
    source = "table"
    options: ClassVar = {"table": "train.csv", "label": ("label",), "images": ("photos",), "test": "sample.csv"}

    def make(self, root, images=IMAGES):
        (root / "photos").mkdir(exist_ok=True)
        for row, image in enumerate([*images, *images[:2]]):
            (root / f"photos/{row}.png").write_bytes(encoded(image))
        lines = [f"{row},{label}" for row, label in enumerate(LABELS)]
        (root / "train.csv").write_text("\n".join(["id,label", *lines]) + "\n")
        (root / "sample.csv").write_text("id,label\n6,0\n7,0\n")


class TestFilename(SourceContract):
    source = "filename"
    options: ClassVar = {"pattern": r"(?P<label>\d)_", "images": ("train",), "test": "test"}

    def make(self, root, images=IMAGES):
        places = [f"train/{label}_{row}.png" for row, label in enumerate(LABELS)] + ["test/1.png", "test/2.png"]
        write_images(root, places, images)


class TestParquet(SourceContract):
    source = "parquet"
    options: ClassVar = {"label": ("label",), "images": ("image",)}
    images = 8

    def make(self, root, images=IMAGES):
        for name, rows in (("train-0", slice(0, 3)), ("train-1", slice(3, 6)), ("test-0", slice(0, 2))):
            content = [{"bytes": encoded(image), "path": None} for image in images[rows]]
            columns = {"image": content, "label": LABELS[rows]}
            pq.write_table(pa.table(columns), root / f"{name}.parquet", row_group_size=2)


class TestIdx(SourceContract):
    source = "idx"

    def make(self, root, images=IMAGES):
        make_idx(root, images, LABELS)


class TestCsv(SourceContract):
    source = "csv"

    def make(self, root, images=IMAGES):
        (root / "train.csv").write_text(table(images, LABELS))
        (root / "test.csv").write_text(table(images[:2]))


class TestDigits(SourceContract):
    """Its files are scikit-learn's: they are always there, and nobody changes or moves them."""

    source = "digits"
    test_keys_do_not_depend_on_where_it_lies = None
    test_a_path_without_images = None
    test_changed_images_are_listed_under_another_key = None

    def make(self, root, images=IMAGES):
        pass
