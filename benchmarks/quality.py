"""The defaults against what a user would pick instead: the same cached features and the same folds, out of fold, and on test.

    FEATCACHE_SHARED=PATH python benchmarks/quality.py [--folder FOLDER] [--seeds 10] [--budget 60] [--without PEER ...] [--test] [SET ...]

PATH holds ``data/<name>`` and ``weights/``. Features and what each competitor said are kept in FOLDER (a temporary one by
default) and found there the next time. For each fold seed, the members of the default settings are trained, and their
ensemble is scored nested: a fold's rows by hyper-parameters, temperatures and weights from the other folds. A peer
chooses its own hyper-parameters on the same other folds, so that groups stay together there, too. Of peers as many fold
seeds are fitted as begin within BUDGET seconds, at least one. With ``--test``, the pipeline's own stages run as well, and their ensemble is
scored on test rows: once, after the defaults are frozen. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import csv
import gzip
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featcache import stages
from featcache.core.progress import Silent
from featcache.ensemble.ensemble import Ensemble
from featcache.ensemble.selection import select_ensemble
from featcache.project.members import split_predictions
from featcache.project.project import Project
from featcache.project.split_features import split_features
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import HeadsSpec
from featcache.training.folds import assign_folds
from featcache.training.heads.examples import Examples
from featcache.training.heads.inputs import fit_input, stored_rows
from featcache.training.heads.lda import train_lda
from featcache.training.heads.logistic_regression import train_linear
from featcache.training.heads.partition import Partition, by_folds
from featcache.training.heads.presets import PATHS, resolve_heads
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import judge, log_loss
from featcache.training.predictions import Predictions

SHARED = Path(os.environ["FEATCACHE_SHARED"])
WEIGHTS = str(SHARED / "weights/vgg16_imagenet_notop.h5")
LITE = {"backbone": str(SHARED / "weights/efficientnet_lite0_imagenet.keras")}
VGG = {"weights": WEIGHTS}
JOINT = {"backbone": f"vgg16, {LITE['backbone']}", **VGG}
DRIVERS = "driver_imgs_list.csv:subject"
SETS: dict[str, tuple[str, str, dict[str, str]]] = {
    "hymenoptera": ("folder", "", VGG),
    "flowers5": ("folder", "", VGG),
    "brain-mri": ("folder", "", VGG),
    "hymenoptera-lite": ("folder", "", LITE),
    "flowers5-lite": ("folder", "", LITE),
    "brain-mri-lite": ("folder", "", LITE),
    "digits-lite": ("digits", "", {**LITE, "image_size": "224"}),
    "hymenoptera-joint": ("folder", "", JOINT),
    "flowers5-joint": ("folder", "", JOINT),
    "brain-mri-joint": ("folder", "", JOINT),
    "digits-joint": ("digits", "", {**JOINT, "backbone": f"vgg16@48, {LITE['backbone']}@224"}),
    "cactus-lite": ("folder", "", {**LITE, "image_size": "48"}),
    "cactus-joint": ("folder", "", {**JOINT, "image_size": "48"}),
    "drivers-64-lite": ("folder", DRIVERS, {**LITE, "image_size": "64"}),
    "drivers-64-joint": ("folder", DRIVERS, {**JOINT, "image_size": "64"}),
    "mnist10-lite": ("idx", "", LITE),
    "mnist10-joint": ("idx", "", JOINT),
    "digits": ("digits", "", VGG),
    "cactus": ("folder", "", {**VGG, "image_size": "48"}),
    "drivers-64": ("folder", DRIVERS, {**VGG, "image_size": "64"}),
    "drivers-224": ("folder", DRIVERS, VGG),
    "mnist10": ("idx", "", VGG),
}
"""Name -> source, groups, [Features]."""
FOLDS, ALIKE = 5, 0.8
SEARCH = {"Cs": np.geomspace(1e-4, 1, 5), "scoring": "neg_log_loss", "l1_ratios": (0,), "use_legacy_attributes": False}


@dataclass(frozen=True)
class Rows:
    """The usable training rows of a set: features by tap, class numbers, groups and digests."""

    taps: dict[str, np.ndarray]
    labels: np.ndarray
    groups: list[str]
    digests: np.ndarray
    class_names: tuple[str, ...]


def lightgbm(splits):  # its import is slow and its package is in the bench extra only
    from lightgbm import LGBMClassifier

    return LGBMClassifier(random_state=0, n_jobs=1, verbose=-1)


def regression(splits):
    """PCA keeps all there is: it only turns the rows, and spares hours where there are fewer of them than values."""
    return make_pipeline(StandardScaler(), PCA(), LogisticRegressionCV(cv=splits, max_iter=200, **SEARCH))


def machine(splits):
    return make_pipeline(StandardScaler(), PCA(), CalibratedClassifierCV(LinearSVC(C=1e-3, random_state=0), cv=splits))


def perceptron(splits):
    return make_pipeline(StandardScaler(), MLPClassifier((128,), early_stopping=True, random_state=0))


PEERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "LogisticRegressionCV, avg": ("avg", regression),
    "LogisticRegressionCV, max": ("max", regression),
    "LogisticRegressionCV, all, sqrt": ("all", regression),
    "calibrated LinearSVC, all, sqrt": ("all", machine),
    "MLPClassifier, all, sqrt": ("all", perceptron),
    "LightGBM, all, sqrt": ("all", lightgbm),
}


def project(name: str, folder: Path, **features: str) -> Project:
    """The default settings of one set; features and heads are in `folder`."""
    source, groups, own = SETS[name]
    data = name.removesuffix("-lite").removesuffix("-joint").removesuffix("-64").removesuffix("-224")
    dataset = {
        "name": data,
        "source": source,
        "path": "" if source == "digits" else str((folder if data in MADE else SHARED) / "data" / data),
    }
    sections = {
        "Dataset": dataset | ({"groups": groups} if groups else {}),
        "Features": own | features,
        "Paths": {"artifacts": str(folder / f"artifacts-{name}")},
    }
    return Project(parse_settings(sections))


def write_mnist10(folder: Path) -> None:
    """A tenth of MNIST's training images, and all of its test images, as idx files."""
    folder.mkdir(parents=True, exist_ok=True)
    keep = np.sort(np.random.default_rng(0).choice(60_000, 6_000, replace=False))
    for packed in sorted((SHARED / "data/mnist").glob("*.gz")):
        raw = gzip.decompress(packed.read_bytes())
        head = 4 + 4 * raw[3]
        count = int.from_bytes(raw[4:8], "big")
        rows = np.frombuffer(raw[head:], np.uint8).reshape(count, -1)
        rows = rows[keep] if packed.name.startswith("train") else rows
        content = raw[:4] + len(rows).to_bytes(4, "big") + raw[8:head] + rows.tobytes()
        (folder / packed.stem).write_bytes(content)


def link_cactus(folder: Path) -> None:
    """The training images of cactus in a folder a class."""
    with open(SHARED / "data/cactus/train.csv", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            link = folder / "train" / ("cactus" if row["has_cactus"] == "1" else "none") / row["id"]
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(SHARED / "data/cactus/train" / row["id"])


MADE = {"mnist10": write_mnist10, "cactus": link_cactus}


def extract(made: Project) -> None:
    """List and cache what isn't cached yet."""
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    for backbone, split, copy in made.caches():
        if not backbone.cache(split, copy).is_complete():
            stages.extract_split(made, split, Silent(), [copy], backbone.label)
    stages.finish_features(made, Silent())


def training_rows(made: Project, view: int = 0) -> Rows:
    """Read what members are trained on; of brain-mri near duplicates are groups."""
    found = split_features(made, "train", view)
    reader, usable = found.reader, np.flatnonzero(found.usable)
    taps = {tap: np.asarray(each)[usable] for tap, each in found.features.items()}
    groups = [reader.groups[row] for row in usable.tolist()]
    if made.settings.dataset.name == "brain-mri":
        groups = near_duplicates(root_taps(taps))
    return Rows(
        taps, reader.labels[usable], groups, np.asarray(reader.digest_column)[usable], tuple(reader.class_names)
    )


def near_duplicates(values: np.ndarray) -> list[str]:
    """A name for every row; rows joined by a chain of cosines above `ALIKE` share one."""
    from scipy.sparse.csgraph import connected_components

    apart = values - values.mean(axis=0)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    return [f"g{number}" for number in connected_components(apart @ apart.T > ALIKE, directed=False)[1]]


def root_taps(taps: dict[str, np.ndarray]) -> np.ndarray:
    """(n, F) square roots of all taps side by side."""
    values = np.concatenate([each.reshape(len(each), -1) for each in taps.values()], axis=1).astype(np.float32)
    return np.sign(values) * np.sqrt(np.abs(values))


def seen_by(peer: str, rows: Rows) -> np.ndarray:
    """The values that a peer is fitted to."""
    which = PEERS[peer][0]
    if which == "all":
        return root_taps(rows.taps)
    last = list(rows.taps)[-1].rpartition("_")[0]
    return np.asarray(rows.taps.get(f"{last}_{which}", rows.taps[list(rows.taps)[-1]]), np.float32)


def ensemble_of(made: Project, views: list[Rows], seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, float], float]:
    """Train the default members by one dealing of folds.

    Returns:
        The folds, the ensemble's nested (n, C), each bag's log-loss, and the best single member's nested log-loss.
    """
    spec, rows = HeadsSpec(), views[0]
    groups = len({*rows.groups} - {""})
    folds = assign_folds(rows.labels, rows.groups, FOLDS, seed, rows.class_names, rows.digests)
    usable = np.ones(len(folds), bool)
    members: list[str] = []
    tables, scores, inputs = [], {}, {}
    for name, kind in made.bags():
        if name not in inputs:
            inputs[name] = examples_of(made, name, views, by_folds(folds, usable))
        examples = inputs[name]
        width = sum(examples.seen_as.widths)
        plan = resolve_heads(spec, kind, width, len(folds), len(rows.class_names), groups, len(views))
        if kind in PATHS:
            bag = (train_linear if kind == "linear" else train_lda)(examples, plan, Silent())
        else:
            bag = train_heads(examples, plan, range(spec.seeds), Silent())
        members += [f"{name}/{kind}/seed{number}" for number in bag.seeds]
        tables.append(bag.out_of_fold)
        title = kind if len(made.backbones) == 1 else f"{name}/{kind}"
        scores[title] = log_loss(np.asarray(bag.out_of_fold.mean(axis=0), np.float64), rows.labels)
    ids = list(map(str, range(len(folds))))
    known = Predictions(ids, rows.labels, tuple(members), np.concatenate(tables), rows.class_names, folds, rows.groups)
    built = select_ensemble(known)
    nested = np.full(tables[0].shape[1:], np.nan)
    for places, part in built.nested_parts(known):
        nested[places] = part
    return folds, nested, scores, built.single_scores.log_loss


def examples_of(made: Project, name: str, views: list[Rows], parts: Partition) -> Examples:
    """The training rows as one input of heads has them."""
    taps, usable = made.inputs()[name], np.ones(len(parts.units), bool)
    owners = [backbone.label for tap in taps for backbone in made.backbones if backbone.owns(tap)]
    seen_as = fit_input(taps, [view.taps for view in views], usable, normalise=True, backbones=owners)
    copies = [stored_rows(seen_as, view.taps, None) for view in views]
    return Examples(seen_as, copies, views[0].labels, parts, views=len(views))


def peer_table(peer: str, rows: Rows, folds: np.ndarray) -> np.ndarray:
    """(n, C): each fold by the peer fitted to the others."""
    values, told = seen_by(peer, rows), np.zeros((len(folds), len(rows.class_names)))
    for fold in range(FOLDS):
        own = np.flatnonzero(folds != fold)
        inner = [
            (np.flatnonzero(folds[own] != each), np.flatnonzero(folds[own] == each))
            for each in range(FOLDS)
            if each != fold
        ]
        model = PEERS[peer][1](inner)
        model.fit(values[own], rows.labels[own])
        told[np.ix_(folds == fold, model.classes_)] = model.predict_proba(values[folds == fold])
    told = np.maximum(told, 1e-6)
    shares: np.ndarray = told / told.sum(axis=1, keepdims=True)
    return shares


def kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` gives, found at `path` or put there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())  # type: ignore[arg-type]  # numpy's stubs take the names for its options
    with np.load(path) as stored:
        return dict(stored)


def compare(
    name: str, folder: Path, seeds: int, budget: float, mirror: bool, without: list[str], first: int = 0
) -> Iterator[str]:
    """Yield the set's table rows, out of fold, by fold seeds from the `first` on."""
    made = project(name, folder, **({"mirror": "true"} if mirror else {}))
    if made.settings.dataset.name in MADE:
        MADE[made.settings.dataset.name](folder / "data" / made.settings.dataset.name)
    extract(made)
    views = [training_rows(made, view) for view in made.views]
    rows, room = views[0], folder / "said" / (name + "-mirror" * mirror)
    singles, kinds, ours = [], [], []
    for seed in range(first, first + seeds):

        def own(seed: int = seed) -> dict[str, np.ndarray]:
            folds, nested, scores, single = ensemble_of(made, views, seed)
            return {
                "folds": folds,
                "nested": nested,
                "single": np.array(single),
                "kinds": np.array([*scores]),
                "scores": np.array([*scores.values()]),
            }

        told = kept(room / f"ours-{seed}.npz", own)
        ours.append(told)
        singles.append(float(told["single"]))
        kinds.append(told["scores"])
    mean = np.mean(kinds, axis=0)
    losses = [judge(told["nested"], rows.labels) for told in ours]
    label = f"the defaults ({', '.join(f'{k} {v:.3f}' for k, v in zip(ours[0]['kinds'], mean, strict=True))})"
    yield line(name, label, [told["nested"] for told in ours], rows, None)
    gap = np.mean([each.losses.mean() for each in losses]) - np.mean(singles)
    yield f"| {name} | best single member, selected on the other folds | {seeds} | | {np.mean(singles):.4f} | {gap:+.4f} | |"
    for peer in fitting(rows, without):
        begun, tables = time.perf_counter(), []
        for seed in range(seeds):
            if seed and time.perf_counter() - begun > budget:
                break

            def fitted(seed: int = seed, peer: str = peer) -> dict[str, np.ndarray]:
                return {"told": peer_table(peer, rows, ours[seed]["folds"])}

            tables.append(kept(folder / "said" / name / f"{peer}-{seed}.npz", fitted)["told"])
        yield line(name, peer, tables, rows, [each.losses.mean() for each in losses[: len(tables)]])


def fitting(rows: Rows, without: list[str]) -> list[str]:
    """The peers that are wanted and whose values a set has."""
    maximum = any(tap.endswith("_max") for tap in rows.taps)
    return [p for p, (which, _) in PEERS.items() if p.partition(",")[0] not in without and (which != "max" or maximum)]


def line(name: str, who: str, tables: list[np.ndarray], rows: Rows, ours: list[float] | None) -> str:
    """Accuracy, log-loss, ours minus theirs on the same folds, and AUC of two classes."""
    judged = [judge(table / table.sum(axis=1, keepdims=True), rows.labels) for table in tables]
    scores = [each.scores() for each in judged]
    accuracy, loss = np.mean([each.accuracy for each in scores]), np.mean([each.log_loss for each in scores])
    ahead = f"{np.mean(np.array(ours) - [each.log_loss for each in scores]):+.4f}" if ours else ""
    auc = (
        f"{np.mean([roc_auc_score(rows.labels, table[:, 1]) for table in tables]):.4f}"
        if len(rows.class_names) == 2
        else ""
    )
    return f"| {name} | {who} | {len(tables)} | {accuracy:.4f} | {loss:.4f} | {ahead} | {auc} |"


def on_test(name: str, folder: Path, mirror: bool) -> str:
    """Run the pipeline's stages on the default settings, and score its ensemble on the test rows."""
    made = project(name, folder, **({"mirror": "true"} if mirror else {}))
    begun = time.perf_counter()
    for bag in made.bags():
        if not made.bag(*bag).is_complete():
            stages.train_bag(made, *bag, Silent())
    stages.build_ensemble(made, Silent())
    seconds = time.perf_counter() - begun
    stages.predict_rows(made, Silent())
    predictions = split_predictions(made, ["test"])["test"]
    score = judge(Ensemble.load(made.ensemble().path).apply(predictions), predictions.labels).scores()
    return f"| {name} | {score.accuracy:.4f} | {score.log_loss:.4f} | {seconds:.1f} s |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(SETS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--without", nargs="*", default=[], choices=[peer.partition(",")[0] for peer in PEERS])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="fold seed; from 100 on to choose, below to report")
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--test", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = arguments.folder or Path(temporary)
        print("| set | who | fold seeds | accuracy | log-loss | the defaults minus this | AUC |")
        print(f"|{' --- |' * 7}")
        for each in arguments.names:
            options = arguments.seeds, arguments.budget, arguments.mirror, arguments.without, arguments.first
            for text in compare(each, where, *options):
                print(text, flush=True)
        if arguments.test:
            print("\n| set | test accuracy | test log-loss | heads and ensemble |\n| --- | --- | --- | --- |")
            for each in arguments.names:
                if "test" in project(each, where).scored_splits():
                    print(on_test(each, where, arguments.mirror), flush=True)
