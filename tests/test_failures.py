"""The fifteen ways in which feature caches of other projects failed their users, each tried on this one.

Threads are named as repository#number, in the order of the list of failure modes that featcache started from. What is
tested at length elsewhere stands here once more, short.
"""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_files import feature_bytes, features_of, make_header, make_rows, write_cache, write_rows
from head_rows import examples_of
from images import encoded, make_folder, picture
from listings import build_manifest
from PIL import Image
from test_cache_kill import COUNT, start_child

import featcache
from featcache.cache.layout import Status
from featcache.cache.row_lookup import find_rows
from featcache.cache.writer import CacheWriter
from featcache.core.progress import Silent
from featcache.dataset.decoding.decode import decode_rgb
from featcache.dataset.listing import current_key, list_files
from featcache.dataset.sources.source import open_source
from featcache.errors import CacheError, CacheLockedError, CacheMismatchError, StorageError
from featcache.features import extraction_job
from featcache.features.devices import processor
from featcache.features.extract import extract_copies
from featcache.features.extraction_job import Extraction, row_settings
from featcache.features.weights import known_digest
from featcache.project.project import Project
from featcache.settings.parsing import SECTIONS, parse_settings
from featcache.settings.specs import DatasetSpec, FeaturesSpec, HeadsSpec, Tap
from featcache.training.heads.bag import HeadId
from featcache.training.heads.batches import Batches, HeadStream
from featcache.training.heads.partition import Partition
from featcache.training.heads.presets import resolve_heads
from featcache.training.predictions import Predictions, joined_members

BATCH = 4


class MeanColours:
    """A backbone whose features are the image's mean colour, so that a row tells which image it is."""

    batch_size = BATCH
    device = processor()
    taps = {"mean": (3,)}  # noqa: RUF012  # a constant

    def forward(self, images):
        return {"mean": images.astype(np.float32).mean(axis=(1, 2))}


def photo_spec(folder):
    return DatasetSpec(name="photos", source="folder", path=folder)


def extract(path, spec, manifest, split="train"):
    features = FeaturesSpec(taps=(Tap("mean"),), image_size=8)
    settings = row_settings(features, {"backbone": "mean", "preprocessing": "none"}, "w" * 64, "float32", 0)
    job = Extraction("photos", split, 0, manifest.splits[split], manifest.class_names, features, settings)
    extract_copies({path: job}, open_source(spec).load, MeanColours, Silent())
    return featcache.open(path)


def project_of(folder, **sections):
    texts = {name: {key: setting.default for key, setting in keys.items()} for name, keys in SECTIONS.items()}
    texts["Dataset"] |= {"name": "photos", "source": "folder", "path": str(folder / "photos")}
    texts["Features"] |= {"weights": "random", "precision": "float32"}
    texts["Paths"]["artifacts"] = str(folder / "artifacts")
    for name, values in sections.items():
        texts[name] |= values
    return Project(parse_settings(texts))


def test_01_sigkill_in_the_middle_of_a_write(tmp_path):
    """hloc#40, h5py#1807, readdy#220: "truncated file", "already open for write", or all features gone."""
    whole = feature_bytes(featcache.open(write_cache(tmp_path / "whole.h5", make_rows(COUNT))))
    with start_child(tmp_path / "a.h5", pause=0.05) as child:
        assert child.stdout.readline() == "writing\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
    (partial,) = tmp_path.glob("*.partial.h5")
    with h5py.File(partial, "r") as file:
        assert file["block5_pool"].shape[0] == COUNT
    assert feature_bytes(featcache.open(write_cache(tmp_path / "a.h5", make_rows(COUNT)))) == whole


def test_02_a_preallocated_file_opens_but_unwritten_rows_are_zeros(tmp_path):
    """openmc_data#35, luigi#1183: the file is there and opens, 21 of 50 blocks are silently zero."""
    rows = make_rows(10)
    with CacheWriter(tmp_path / "a.h5", make_header(rows, block_rows=4)) as writer:
        write_rows(writer, rows, range(6))
        partial = writer.partial
    partial.rename(tmp_path / "a.h5")  # what a system does that takes existence for completeness
    with pytest.raises(CacheError, match="4 of 10 rows are durable"):
        featcache.open(tmp_path / "a.h5")
    assert featcache.open(tmp_path / "a.h5", partial=True).status.tolist() == [Status.OK] * 4 + [Status.NOT_WRITTEN] * 6
    header = make_header(rows)
    found = find_rows(tmp_path, {tap.name: tap.key for tap in header.taps}, rows.digests).found
    assert not found.any(), "nothing is taken from a finished name without its complete flag"


def test_03_features_labels_and_ids_in_another_order(tmp_path):
    """keras#7520, #6234, #5048, #3296, #11841, tensorflow#57636, ypwhs#1, #5, mmf#586, MLWave/Kaggle-Ensemble-Guide#5."""
    colours = {f"{number}.png": (20 * number, 7, 250 - 20 * number) for number in (1, 2, 3, 10, 11, 12)}
    make_folder(tmp_path)
    (tmp_path / "test").mkdir()
    for name, colour in colours.items():
        Image.new("RGB", (9, 9), colour).save(tmp_path / "test" / name)
    spec = photo_spec(tmp_path)
    manifest = build_manifest(spec, tmp_path / "out")
    reader = extract(tmp_path / "out/test.h5", spec, manifest, "test")
    assert reader.ids == ["1.png", "2.png", "3.png", "10.png", "11.png", "12.png"]
    assert {row: tuple(value) for row, value in zip(reader.ids, reader["mean"].tolist(), strict=True)} == colours
    sorted_elsewhere = tuple(sorted(reader.ids))
    labels, values = np.full(6, -1, np.int32), np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    first = Predictions(tuple(reader.ids), labels, ("a",), values, ("x", "y"))
    second = Predictions(sorted_elsewhere, labels, ("b",), values, ("x", "y"))
    with pytest.raises(CacheMismatchError, match="predicted different rows"):
        joined_members([first, second])


@pytest.mark.parametrize("n", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH - 1, 2 * BATCH, 2 * BATCH + 1])
def test_04_the_last_batch_is_lost_or_repeated(tmp_path, n):
    """keras#10208, #7261, #11902, fastai/courses#111."""
    make_folder(tmp_path, {"ants": 2, "bees": 2})
    make_folder(tmp_path, {"ants": n}, "valid")
    spec = photo_spec(tmp_path)
    reader = extract(tmp_path / "out/valid.h5", spec, build_manifest(spec, tmp_path / "out"), "valid")
    assert reader.ids == [f"ants/img_{number}.png" for number in range(1, n + 1)]
    load = open_source(spec).load
    for row, (row_id, digest) in enumerate(zip(reader.ids, reader.digests, strict=True)):
        image = load(f"valid/{row_id}", digest, 8)
        np.testing.assert_array_equal(
            reader["mean"][row], image.astype(np.float32).mean(axis=(0, 1)).astype(np.float16)
        )


def test_04_no_rows_at_all(tmp_path):
    """keras#10208 and its kin, for N = 0."""
    reader = featcache.open(write_cache(tmp_path / "a.h5", make_rows(0)))
    assert (len(reader), reader["block5_pool"].shape, reader.complete) == (0, (0, 2, 3, 5), True)


def test_05_images_that_are_damaged_or_something_else(tmp_path):
    """tensorflow#7434, #38901, tensorflow/models#2194, tensorflow/datasets#2188, clip-retrieval#257."""
    whole = encoded(picture(), "JPEG")
    usable = {
        "bmp.jpg": encoded(picture(), "BMP"), "gif.jpg": encoded(picture(), "GIF"), "png.jpg": encoded(picture()),
        "grey.jpg": encoded(Image.fromarray(picture()).convert("L"), "JPEG"), "alpha.png": encoded(Image.fromarray(picture()).convert("RGBA")),
        "cmyk.jpg": encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    }  # fmt: skip
    broken = {"empty.jpg": b"", "text.jpg": b"<html>404</html>", "cut.jpg": whole[: len(whole) // 2]}
    make_folder(tmp_path)
    (tmp_path / "test").mkdir()
    for name, content in (usable | broken).items():
        (tmp_path / "test" / name).write_bytes(content)
    spec = photo_spec(tmp_path)
    reader = extract(tmp_path / "out/test.h5", spec, build_manifest(spec, tmp_path / "out"), "test")
    status = dict(zip(reader.ids, reader.status.tolist(), strict=True))
    assert status == dict.fromkeys(usable, Status.OK) | dict.fromkeys(broken, Status.REJECTED)
    assert not reader["mean"][reader.status == Status.REJECTED].any()
    assert reader["mean"][reader.status == Status.OK].any(axis=1).all()


def test_06_a_changed_parameter_is_noticed_and_an_equal_one_costs_nothing(tmp_path):
    """luigi#595, DVC#9913, COVIDNPIs#60; needless: datasets#2496, #8439, gokart#207, luigi#3243, #3448."""
    make_folder(tmp_path / "photos")
    build_manifest(photo_spec(tmp_path / "photos"), tmp_path / "artifacts/photos")

    def keys(folder=tmp_path, **sections):
        project = project_of(folder, **sections)
        return project.backbones[0].cache("train", 0).key, project.bag(*project.bags()[0]).key

    features, bag = keys()
    assert None not in (features, bag)
    for section, values in [("Features", {"image_size": "96"}), ("Features", {"taps": "block4_pool"}),
                            ("Features", {"precision": "bfloat16"}), ("Features", {"backbone": "vgg19"})]:  # fmt: skip
        assert keys(**{section: values})[0] != features
    assert keys(Heads={"dropout": "0.4"}) == (features, keys(Heads={"dropout": "0.40"})[1])
    assert keys(Heads={"dropout": "0.4"})[1] != bag
    assert keys(Heads={"schedule": "1e-2x5"}) == keys(Heads={"schedule": "0.01x5"})
    assert keys(Features={"backbone": "VGG16"}) == (features, bag)
    (tmp_path / "moved").mkdir()
    for part in ("photos", "artifacts"):
        (tmp_path / part).rename(tmp_path / "moved" / part)
    assert keys(tmp_path / "moved") == (features, bag)


def test_07_code_weights_or_images_change_under_equal_parameters(tmp_path, monkeypatch):
    """gokart#227, #205, #207, #252; TensorFlow's retrain.py and hloc, whose keys are names."""
    weights = tmp_path / "own.weights.h5"
    weights.write_bytes(b"one")
    spec = FeaturesSpec(weights=str(weights))
    before = known_digest(spec, None)
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    assert known_digest(spec, None) != before
    make_folder(tmp_path / "photos")
    dataset = photo_spec(tmp_path / "photos")
    manifest = build_manifest(dataset, tmp_path / "artifacts/photos")
    features = project_of(tmp_path).backbones[0].cache("train", 0).key
    assert features is not None
    monkeypatch.setattr(extraction_job, "EXTRACT_VERSION", extraction_job.EXTRACT_VERSION + 1)
    assert project_of(tmp_path).backbones[0].cache("train", 0).key not in (None, features)
    (tmp_path / "photos/train/ants/img_1.png").write_bytes(encoded(picture(seed=99)))
    assert current_key(dataset, tmp_path / "artifacts/photos", list_files(dataset)) is None
    assert project_of(tmp_path).backbones[0].cache("train", 0).key is None
    assert build_manifest(dataset, tmp_path / "artifacts/photos").key != manifest.key


def test_08_wrong_preprocessing_baked_into_the_cache():
    """keras#5492, #3350, deep-learning-models#102, tensorflow#50150: golden vector of VGG16's first convolution."""
    backbone = pytest.importorskip("featcache.features.backbone")
    from featcache.features.weights import resolve_weights

    spec = FeaturesSpec(weights="random", taps=(Tap("block1_conv1"),), image_size=32, precision="float32")
    loaded = backbone.load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size=2)
    image = np.broadcast_to(np.array([200, 30, 90], np.uint8), (1, 32, 32, 3))
    said = loaded.forward(np.ascontiguousarray(image))["block1_conv1"][0, 16, 16].astype(np.float32)
    kernel, bias = (np.asarray(value) for value in loaded._network.layers[-1].get_layer("block1_conv1").get_weights())
    blue_green_red = np.array([90, 30, 200], np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    expected = np.maximum(blue_green_red @ kernel.sum(axis=(0, 1)) + bias, 0)
    np.testing.assert_allclose(said, expected, rtol=2e-3, atol=0.05)
    assert expected.max() > 1


def test_09_the_camera_was_held_sideways():
    """tensorflow#8430, #33932, #49834: `tf.image.decode_jpeg` ignores the EXIF orientation."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to look at it
    turned = decode_rgb(encoded(upright, "JPEG", quality=100, exif=exif), None)
    assert turned.shape == (32, 16, 3)
    assert turned[:14].mean() > 250
    assert turned[18:].mean() < 5


def test_10_rows_sorted_by_class_and_shuffled_only_within_a_window():
    """keras#5307 (VGG features in HDF5: 0.30 instead of 0.997), #15846."""
    labels = np.repeat(np.arange(10), 60)
    features = labels[:, None].astype(np.float16)
    plan = resolve_heads(HeadsSpec(batch_size=50, folds=2), "fast", 1, 600, 10)
    parts = Partition(np.ones(600, np.int32), (0,), by_group=False)
    batches = Batches(examples_of([features], labels, parts), [HeadId(0, 0)], [HeadStream(HeadId(0, 0), 600)], plan)
    seen = np.empty(0)
    for batch in batches.epoch():
        assert len(set(batch.truth[0].tolist())) >= 8, "every batch is drawn from all of the file"
        np.testing.assert_array_equal(batch.values[0, :, 0], batch.truth[0])
        seen = np.append(seen, batch.truth[0])
    assert np.bincount(seen.astype(int)).tolist() == [60] * 10


def test_11_memory_grows_with_rows_or_with_heads(tmp_path):
    """show-attend-and-tell#19 (48 GB), flower-recognition#17, tensorflow#61791, #62854, keras#17458."""
    program = """
import resource, sys
import numpy as np
sys.path[:0] = sys.argv[2:]
from cache_files import make_header, make_rows
from featcache.cache.layout import TapLayout
from featcache.cache.writer import CacheWriter
import featcache
tap = (TapLayout("wide", (4096,), "a" * 64, {}),)
rows = make_rows(12000)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
with CacheWriter(sys.argv[1], make_header(rows, tap, block_rows=1024)) as writer:
    for start in range(0, 12000, 64):
        some = np.arange(start, min(start + 64, 12000))
        writer.write(some, {"wide": np.ones((len(some), 4096), np.float16)}, np.ones(len(some), np.uint8))
    writer.publish({})
reader = featcache.open(sys.argv[1])
assert reader.durable.all()
print(peak() - before)
""".replace("CacheWriter(sys.argv[1]", "CacheWriter(__import__('pathlib').Path(sys.argv[1])")
    words = [sys.executable, "-c", program, str(tmp_path / "a.h5"), *sys.path]
    grown = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (tmp_path / "a.h5").stat().st_size > 98e6
    assert grown < 40, f"98 MB of features took {grown:.0f} MB of memory"


def test_11_fifty_heads_cost_the_memory_of_one_graph():
    """tensorflow#61791, #62854, keras#17458: a graph, and its memory, stays behind for each head trained in a loop."""
    pytest.importorskip("keras")
    from test_heads import rows, train

    features, labels = rows()
    train(features, labels, seeds=range(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(train(features, labels, seeds=range(17)).heads) == 51
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 50, f"51 heads took {grown:.0f} MB"


def test_12_values_depend_on_the_batch_or_the_place_in_it():
    """mmf#720, tensorflow#8670, #25625, timm#2107, keras#12800, #22621."""
    backbone = pytest.importorskip("featcache.features.backbone")
    from featcache.features.weights import resolve_weights

    spec = FeaturesSpec(weights="random", taps=(Tap("block1_pool"),), image_size=32, precision="float32")
    loaded = backbone.load_backbone(spec, resolve_weights(spec, Silent()), "float32", batch_size=8)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    together = loaded.forward(images)["block1_pool"]
    for row in range(8):
        np.testing.assert_array_equal(loaded.forward(images[row : row + 1])["block1_pool"][0], together[row])
    np.testing.assert_array_equal(loaded.forward(images[::-1].copy())["block1_pool"][::-1], together)


def test_13_two_processes_write_one_file(tmp_path):
    """PathML#258, luigi#2040, lhotse#112, h5py#1082, #1101, distributed#8452."""
    rows = make_rows(COUNT)
    with start_child(tmp_path / "a.h5", pause=5) as child:
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(CacheLockedError, match=f"is being written by process {child.pid} on"):
            CacheWriter(tmp_path / "a.h5", make_header(rows)).__enter__()
        child.kill()
    path = write_cache(tmp_path / "a.h5", rows)
    held = featcache.open(path)
    path.unlink()
    write_cache(path, make_rows(3))  # who reads holds nobody up, and goes on seeing the file that was opened
    assert (len(held), len(featcache.open(path))) == (COUNT, 3)


def _read_in_child(reader, answers):
    answers.put(hash(reader["block5_pool"].tobytes()))


def test_14_a_handle_crosses_a_fork(tmp_path):
    """h5py#2584 (hang), pytorch#11887, #11929 (garbage), tensorflow#57877 (CUDA_ERROR_NOT_INITIALIZED)."""
    rows = make_rows(40)
    reader = featcache.open(write_cache(tmp_path / "a.h5", rows))
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    children = [fork.Process(target=_read_in_child, args=(reader, answers)) for _ in range(4)]
    for child in children:
        child.start()
    said = [answers.get(timeout=30) for _ in children]
    for child in children:
        child.join(30)
    expected = features_of(rows, range(40))["block5_pool"].tobytes()
    assert set(said) == {hash(reader["block5_pool"].tobytes())} == {hash(expected)}
    program = "import sys, pipeline; print(sorted({'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


def _write_within(limit, path, rows, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_cache(path, rows)
    except StorageError as error:
        answers.put(str(error))


def test_15_the_disk_is_full(tmp_path):
    """PyTables#695, hloc's ENOSPC branch, BUTD#2, h5py#1555, #1100, HDFGroup/hdf5#1707."""
    fork, rows = multiprocessing.get_context("fork"), make_rows(200)
    answers = fork.Queue()
    child = fork.Process(target=_write_within, args=(20_000, tmp_path / "a.h5", rows, answers))
    child.start()
    said = answers.get(timeout=30)
    child.join(30)
    assert "the file would exceed the allowed file size" in said or "could not create" in said
    assert "\n" not in said
    assert not (tmp_path / "a.h5").exists()
    assert featcache.open(write_cache(tmp_path / "a.h5", rows)).complete


@pytest.mark.parametrize("name", ["manifest.json", "manifest.arrow", "listing.json", "listing.csv", "resolved.json"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_15_bookkeeping_is_cut_short(tmp_path, name, left):
    """litData#403: a truncated config file, and nothing could be resumed."""
    make_folder(tmp_path / "photos")
    dataset, folder = photo_spec(tmp_path / "photos"), tmp_path / "artifacts/photos"
    key = build_manifest(dataset, folder).key
    project_of(tmp_path).backbones[0].record_resolved("weights", {"setting": "random", "digest": "d" * 64})
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(left * len(whole))])
    project = project_of(tmp_path)
    assert project.manifest().key in (None, key)
    assert (
        project.backbones[0].resolved("weights") is None
        if name == "resolved.json"
        else project.backbones[0].resolved("weights")
    )
    assert build_manifest(dataset, folder).key == key
    assert project_of(tmp_path).manifest().key == key
