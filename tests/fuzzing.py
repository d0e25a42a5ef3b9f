"""Real small files, mutated by Hypothesis and read by what reads them; only featcache's own errors may come out.

``python fuzzing.py KIND EXAMPLES`` runs one kind in this process, under limits, so that a crash, a hang or a huge
allocation in HDF5 is the process' end and no test runner's. `KINDS` has the names.
"""

import copy
import json
import resource
import shutil
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from cache_files import make_header, make_rows, write_cache, write_rows
from hypothesis import HealthCheck, given, settings, strategies as st
from images import encoded, idx3, make_folder, picture
from listings import build_manifest

import featcache
from featcache.cache.row_lookup import find_rows
from featcache.cache.writer import CacheWriter
from featcache.core.folder_lock import LOCK_NAME, folder_lock
from featcache.core.json_records import write_json
from featcache.core.rows import Rows
from featcache.dataset.listing import current_key, list_files
from featcache.dataset.manifest import Manifest
from featcache.dataset.sources.source import open_source
from featcache.ensemble.combination import Combination
from featcache.ensemble.ensemble import Ensemble
from featcache.errors import FeatcacheError
from featcache.project.project import Project
from featcache.settings.parsing import SECTIONS, parse_settings
from featcache.settings.specs import DatasetSpec, HeadsSpec
from featcache.training.heads.bag import Bag, HeadId, History, load_bag, write_bag
from featcache.training.heads.inputs import HeadInput
from featcache.training.heads.presets import resolve_heads
from featcache.training.metrics import Interval, Scores
from featcache.training.predictions import Predictions, stored_members, stored_probabilities

MEMORY = 4 << 30
ROWS = make_rows(9)
SIX = Rows(tuple("abcdéf"), np.arange(6, dtype=np.int32) % 3, [""] * 6, ["d"] * 6, [""] * 6)


def make_cache(folder):
    write_cache(folder / "a.h5", ROWS, rejected=(3,))
    return [folder / "a.h5"]


def make_partial(folder):
    with CacheWriter(folder / "a.h5", make_header(ROWS)) as writer:
        write_rows(writer, ROWS, range(6))
    return list(folder.glob("*.partial.h5"))


def read_cache(folder):
    header = make_header(ROWS)
    finder = find_rows(folder, {tap.name: tap.key for tap in header.taps}, ROWS.digests)
    finder.copy(np.flatnonzero(finder.found))
    for path in folder.glob("*.h5"):
        reader = featcache.open(path, partial=True)
        repr(reader), reader.ids, reader.groups, reader.digests, reader.labels.sum(), reader.status, reader.run
        reader.durable, reader.journaled_rows, reader.frame(), reader.settings, reader.class_names
        for tap in reader.taps:
            reader[tap].sum(), reader.statistics(tap), reader.dask(tap).shape


def resume_cache(folder):
    read_cache(folder)
    with CacheWriter(folder / "a.h5", make_header(ROWS)) as writer:
        write_rows(writer, ROWS, np.flatnonzero(~writer.durable))
        writer.publish({})
    assert featcache.open(folder / "a.h5").ids == ROWS.ids


def make_predictions(folder):
    values = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 6)).astype(np.float32)
    names, labels = ("ant", "bée", "cat"), np.arange(6, dtype=np.int32) % 3
    predictions = Predictions(SIX.ids, labels, ("m1", "m2"), values, names, labels % 2, rows_key=SIX.key)
    (folder / "bag.json").write_text(json.dumps({"key": "k", "run": "r", "predictions": predictions.save(folder)}))
    return [folder / name for name in ("bag.json", "out_of_fold.npy", "folds.npy")]


def read_predictions(folder):
    for read in (stored_members, stored_probabilities):
        with suppress(FeatcacheError):
            read(folder / "bag.json")
    loaded = Predictions.load(folder / "bag.json", SIX)
    loaded.scored(), loaded.take(np.arange(2))


def make_bag(folder):
    spec = HeadsSpec(hidden=(4,), folds=2, schedule=((1e-2, 1),))
    plan, heads = resolve_heads(spec, "fast", 6, 20, 3), (HeadId(0, 0), HeadId(0, 1))
    draw = np.random.default_rng(1)
    shapes = {"kernel_0": (2, 6, 4), "bias_0": (2, 4), "kernel_1": (2, 4, 3), "bias_1": (2, 3)}
    shapes |= {f"{name}_0": (2, 4) for name in ("gamma", "beta", "mean", "variance")}
    weights = {name: np.abs(draw.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    epochs = [np.zeros((1, 2), np.float32)] * 6
    history = History(*epochs, best_epoch=np.zeros(2, np.int32))
    seen_as = HeadInput({"tap": (6,)}, np.zeros(6, np.float32), np.ones(1, np.float32))
    write_bag(Bag(plan, seen_as, heads, weights, np.ones((2, 3), bool), history), folder / "bag.npz")
    return [folder / "bag.npz"]


def read_bag(folder):
    load_bag(folder).member_predictions({"tap": np.ones((3, 6), np.float16)})


def photos(folder):
    root = folder / "photos"
    return DatasetSpec(name="photos", source="folder", path=root)


def project_of(folder):
    texts = {name: {key: setting.default for key, setting in keys.items()} for name, keys in SECTIONS.items()}
    texts["Dataset"] |= {"name": "out", "source": "folder", "path": str(folder / "photos")}
    texts["Paths"]["artifacts"] = str(folder)
    return Project(parse_settings(texts))


def make_project(folder):
    make_folder(folder / "photos")
    build_manifest(photos(folder), folder / "out")
    project = project_of(folder)
    record = {"setting": "auto", "backbone": "vgg16", "kind": "random", "digest": "d" * 64, "note": "", "stat": None}
    project.backbones[0].record_resolved("weights", record)
    project.backbones[0].record_resolved("precision", {"setting": "auto", "value": "float32", "reason": "no"})
    score, whole = Scores(0.5, 0.7), Combination("greedy", (1.0, 0.0), 1.1, 0.99)
    interval, members = Interval((0.4, 0.6), (0.6, 0.8)), {"m1": score, "m2": score}
    chosen = Ensemble(
        ("m1", "m2"),
        ("ant", "bée", "cat"),
        whole,
        {0: whole, 1: whole},
        score,
        interval,
        members,
        "m1",
        {0: "m1", 1: "m2"},
        score,
        (0.25, 0.25, 0.5),
    )
    ensemble, submission = project.ensemble(), project.submission()
    chosen.save(ensemble.path, {"key": "k", "run": "r"})
    record = {"key": submission.key, "run": "r", "content_digest": "d", "files": {}}
    write_json(submission.path, record)
    write_json(folder / "out/submission.json", record)
    names = ("manifest.arrow", "manifest.json", "listing.csv", "listing.json", "resolved.json", "submission.json")
    return [*(folder / "out" / name for name in names), ensemble.path, submission.path]


def read_project(folder):
    """Whatever scheduling reads, each on its own: one damaged file must not hide another."""
    project = project_of(folder)
    for artifact in (
        project.manifest(),
        project.ensemble(),
        project.submission(),
        *(project.bag(*bag) for bag in project.bags()),
    ):
        (
            artifact.is_complete(),
            artifact.is_complete("run"),
            artifact.is_stored(),
            artifact.record(),
            artifact.shown_key(),
        )
    project.caches(), project.tap_keys(0), project.backbones[0].cache("train", 0), project.all_features().is_complete()
    project.backbones[0].resolved("weights"), project.backbones[0].precision(), project.backbones[0].weights_digest()
    current_key(photos(folder), folder / "out", list_files(photos(folder)))
    errors, ensemble = [], next((folder / "out/ensembles").glob("*/ensemble.json"))
    for step in (lambda: Manifest.load(folder / "out"), lambda: _apply(Ensemble.load(ensemble))):
        try:
            step()
        except FeatcacheError as error:
            errors.append(error)
    build_manifest(photos(folder), folder / "out")
    assert project_of(folder).manifest().key, "listing again mends what was damaged"
    if errors:
        raise errors[0]


def _apply(chosen):
    make = np.full((2, 4, 3), 1 / 3, np.float32)
    chosen.apply(Predictions(tuple("abcd"), np.zeros(4, np.int32), ("m1", "m2"), make, ("ant", "bée", "cat")))


def make_lock(folder):
    with folder_lock(folder, "TrainBag", print):
        held = (folder / LOCK_NAME).read_bytes()
    (folder / LOCK_NAME).write_bytes(held)
    return [folder / LOCK_NAME]


def read_lock(folder):
    with folder_lock(folder, "TrainBag", print):
        pass


def make_idx(folder):
    root = folder / "data"
    root.mkdir()
    images = np.stack([picture(9, 7, seed)[..., 0] for seed in range(8)])
    (root / "train-images-idx3-ubyte").write_bytes(idx3(images))
    (root / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + np.array([8], ">u4").tobytes() + bytes([0, 1] * 4))
    (root / "t10k-images-idx3-ubyte").write_bytes(idx3(images[:3]))
    return sorted(root.iterdir())


def make_csv(folder):
    root = folder / "data"
    root.mkdir()
    header = ",".join(f"pixel{i}" for i in range(16))
    lines = [f"{i % 2}," + ",".join(str((i * j) % 256) for j in range(16)) for i in range(8)]
    (root / "train.csv").write_text("\n".join([f"label,{header}", *lines]) + "\n")
    (root / "test.csv").write_text("\n".join([header, *(line.partition(",")[2] for line in lines[:3])]) + "\n")
    return sorted(root.iterdir())


def read_source(source):
    def read(folder):
        spec = DatasetSpec(name="set", source=source, path=folder / "data")
        manifest, opened = build_manifest(spec, folder / "out"), open_source(spec)
        for rows in manifest.splits.values():
            for location, digest, listed in zip(rows.locations, rows.digests, rows.listed, strict=True):
                if listed:
                    assert opened.load(location, digest, 8).shape == (8, 8, 3)

    return read


def make_images(folder):
    make_folder(folder / "data", form="JPEG")
    for form in ("PNG", "GIF", "BMP", "TIFF", "WEBP"):
        (folder / f"data/train/ants/x.{form.lower()}").write_bytes(encoded(picture(), form))
    return sorted(path for path in (folder / "data").rglob("*") if path.is_file())


KINDS = {
    "cache": (make_cache, read_cache),
    "partial": (make_partial, resume_cache),
    "predictions": (make_predictions, read_predictions),
    "bag": (make_bag, read_bag),
    "project": (make_project, read_project),
    "lock": (make_lock, read_lock),
    "idx": (make_idx, read_source("idx")),
    "csv": (make_csv, read_source("csv")),
    "images": (make_images, read_source("folder")),
}

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "zero", "cut", "insert", "drop", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.integers(1, 8), st.integers(1, 4000)),
        st.binary(min_size=1, max_size=9)
        | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b'"', b"\n", b"-1"]),
    ),
    min_size=1,
    max_size=4,
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[1]]),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "x" * 5000, 2**80, {"a": {"b": None}}, ["ants"], {"train": 3}]),
)  # fmt: skip
trees = st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=4), values), min_size=1, max_size=2)


def edited(content, changes):
    for how, where, length, some in changes:
        at = int(where * len(content))
        content = {
            "set": content[:at] + some + content[at + len(some) :],
            "zero": content[:at] + bytes(length) + content[at + length :],
            "cut": content[:at],
            "insert": content[:at] + some + content[at:],
            "drop": content[:at] + content[at + length :],
            "copy": content[:at] + content[at : at + length] + content[at:],
        }[how]
    return content


def replanted(content, changes):
    """The JSON with some of its nodes replaced."""
    tree = json.loads(content)
    for path, value in changes:
        node = tree
        for depth, step in enumerate(path):
            names = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
            if not names:
                break
            name = names[step % len(names)]
            if depth == len(path) - 1 or not isinstance(node[name], dict | list):
                node[name] = copy.deepcopy(value)  # a later change may be inside it
                break
            node = node[name]
    return json.dumps(tree).encode()


class Victim:
    """A folder of real files of one kind, restored before each mutation."""

    def __init__(self, kind, folder):
        make, self.read = KINDS[kind]
        self.folder, self.whole = folder / "victim", folder / "whole"
        self.whole.mkdir()
        self.names = [path.relative_to(self.whole) for path in make(self.whole)]
        self.refused = self.tried = 0

    def attack(self, number, changes, nodes):
        """Restore everything, damage one file, and read; only a FeatcacheError may come out."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.whole, self.folder)
        path = self.folder / self.names[number % len(self.names)]
        content = path.read_bytes()
        path.write_bytes(replanted(content, nodes) if nodes and path.suffix == ".json" else edited(content, changes))
        self.tried += 1
        try:
            self.read(self.folder)
        except FeatcacheError as error:
            assert "\n" not in str(error), f"more than one line: {error}"  # noqa: PT017
            self.refused += 1


def fuzz(kind, examples):
    """Attack one kind of file; return how many were tried and refused."""
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(kind, Path(folder))
        victim.attack(0, [], [])
        assert victim.refused == 0, "the whole files must be read"

        @settings(max_examples=examples, deadline=None, database=None, derandomize=examples <= 1000, print_blob=True,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(st.integers(0, 60), edits, st.just([]) | trees)
        def attack(number, changes, nodes):
            victim.attack(number, changes, nodes)

        attack()
        return victim.tried, victim.refused


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for kind in sys.argv[1].split(","):
        tried, refused = fuzz(kind, int(sys.argv[2]))
        sys.stdout.write(f"{kind}: {tried} files, {refused} refused\n")
        sys.stdout.flush()
