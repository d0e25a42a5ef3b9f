"""The ensemble against what a user would pick instead: the same cached features, the same folds, out of fold and on test.

    FEATCACHE_SHARED=PATH python benchmarks/quality.py [--folder FOLDER] [digits mnist10 hymenoptera flowers5 brain-mri]

PATH holds ``data/<name>`` and ``weights/vgg16_imagenet_notop.h5``. Features, heads and what the peers said are kept in
FOLDER (a temporary one by default) and found there the next time; all but the peers is made by the pipeline's own
stages. A peer is fitted to the standardised rows of all folds but one and tells that one; of test rows its folds'
probabilities are averaged, as a member's are. Where a peer has candidates, the one of the best out-of-fold log-loss
is shown, which favours it; the ensemble's out-of-fold score is nested. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featcache import stages
from featcache.cache.reader import open_cache
from featcache.core.progress import Silent
from featcache.ensemble.combination import normalised
from featcache.ensemble.ensemble import Ensemble
from featcache.project.members import out_of_fold, split_predictions
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings
from featcache.training.metrics import bootstrap, judge, log_loss
from featcache.training.predictions import Predictions

SHARED = Path(os.environ["FEATCACHE_SHARED"])
WEIGHTS = str(SHARED / "weights/vgg16_imagenet_notop.h5")
PHOTOS = {"weights": WEIGHTS, "image_size": "96"}
SETS = {
    "digits": ("digits", {"weights": "random", "image_size": "48"}),
    "mnist10": ("idx", {"weights": WEIGHTS, "image_size": "48"}),
    "hymenoptera": ("folder", PHOTOS),
    "flowers5": ("folder", PHOTOS),
    "brain-mri": ("folder", PHOTOS),
}
TAP, FOLDS = "block5_pool", 5


def lightgbm():  # its import is slow and its package is in the bench extra only
    from lightgbm import LGBMClassifier

    return LGBMClassifier(random_state=0, n_jobs=1, verbose=-1)


PEERS: dict[str, list[Any]] = {
    "LogisticRegressionCV": [
        lambda: LogisticRegressionCV(
            Cs=np.geomspace(1e-4, 1, 5), cv=3, scoring="neg_log_loss", max_iter=300, l1_ratios=(0,),
            use_legacy_attributes=False,
        )
    ],
    "calibrated LinearSVC": [lambda c=c: CalibratedClassifierCV(LinearSVC(C=c, random_state=0), cv=3) for c in (1e-3, 1)],
    "MLPClassifier": [lambda early=early: MLPClassifier((128,), early_stopping=early, random_state=0) for early in (False, True)],
    "LightGBM": [lightgbm],
}  # fmt: skip


def project(name: str, folder: Path, image_size: str = "", tap: str = TAP, **heads: str) -> Project:
    """The settings of one set, features and heads in `folder`; of another image size than the set's where one is given."""
    source, features = SETS[name]
    features = features | ({"image_size": image_size} if image_size else {})
    path = {"digits": "", "mnist10": str(folder / "data/mnist10")}.get(name, str(SHARED / "data" / name))
    return Project(
        parse_settings(
            {
                "Dataset": {"name": name, "source": source, "path": path},
                "Features": {**features, "taps": tap},
                "Heads": {"folds": str(FOLDS), **heads},
                "Paths": {"artifacts": str(folder / "artifacts")},
            }
        )
    )


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


def extract(made: Project) -> None:
    """List and cache what isn't cached yet."""
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    for split in dict.fromkeys(split for split, _ in made.caches()):
        if not all(made.features(*each).is_complete() for each in made.caches() if each[0] == split):
            stages.extract_split(made, split, Silent())
    stages.finish_features(made, Silent())


def train(made: Project) -> tuple[Predictions, Predictions | None]:
    """Train what isn't trained yet; what members say out of fold, and of test rows."""
    for tap, shape in made.bags():
        if not made.bag(tap, shape).is_complete():
            stages.train_bag(made, tap, shape, Silent())
    if not made.scored_splits():
        return out_of_fold(made), None
    stages.predict_rows(made, Silent())
    return out_of_fold(made), split_predictions(made, ["test"])["test"]


def peer(make, made: Project, known: Predictions):
    """A peer's (n, C) out of fold and (t, C) on test rows."""
    rows = open_cache(made.features("train", 0).path)[TAP]
    rows = rows.reshape(len(rows), -1).astype(np.float32)
    labels, folds = known.labels, known.folds
    assert folds is not None, "predictions out of fold"
    test = None
    if "test" in made.scored_splits():
        test = open_cache(made.features("test", 0).path)[TAP]
        test = test.reshape(len(test), -1).astype(np.float32)
    told, on_test = np.full((len(rows), len(known.class_names)), np.nan, np.float32), []
    for fold in range(FOLDS):
        model = make_pipeline(StandardScaler(), make())
        others = (folds >= 0) & (folds != fold)
        model.fit(rows[others], labels[others])
        assert len(model.classes_) == told.shape[1], "every class is in every fold of these sets"
        told[folds == fold] = model.predict_proba(rows[folds == fold])
        on_test += [model.predict_proba(test)] if test is not None else []
    return told, np.mean(on_test, axis=0) if on_test else np.empty((0, told.shape[1]))


def kept(folder: Path, name: str, which: str, made: Project, known: Predictions):
    """What `peer` gives, each candidate's, found in the folder or made and put there."""
    found = []
    for number, make in enumerate(PEERS[which]):
        path = folder / "peers" / f"{name}-{which}-{number}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            told, on_test = peer(make, made, known)
            np.savez(path, told=told, on_test=on_test)
        with np.load(path) as stored:
            found.append((stored["told"], stored["on_test"]))
    scored = np.asarray(known.folds) >= 0
    return min(found, key=lambda each: log_loss(each[0][scored], known.labels[scored]))


def compare(name: str, folder: Path) -> list[str]:
    """Return the set's table rows: each competitor out of fold and on test."""
    made = project(name, folder)
    if name == "mnist10":
        write_mnist10(folder / "data/mnist10")
    extract(made)
    known, on_test = train(made)
    stages.build_ensemble(made, Silent())
    built = Ensemble.load(made.ensemble().path)
    nested = np.full((len(known.ids), len(built.class_names)), np.nan)
    for rows, part in built.nested_parts(known):
        nested[rows] = part
    entries: dict[str, tuple[Any, Any]] = {"ensemble": (nested, built.apply(on_test) if on_test else None)}
    best = known.members.index(built.best_single)
    entries[f"best member, {built.best_single}"] = (
        known.probabilities[best], on_test.probabilities[best] if on_test else None,
    )  # fmt: skip
    recipe, recipe_test = train(project(name, folder, preset="recipe", seeds="1"))
    entries["one recipe head"] = (recipe.probabilities[0], recipe_test.probabilities[0] if recipe_test else None)
    for which in PEERS:
        told, tested = kept(folder, name, which, made, known)
        entries[which] = (told, tested if len(tested) else None)
    return [row(name, who, known, on_test, *entry) for who, entry in entries.items()]


def row(name: str, who: str, known: Predictions, on_test: Predictions | None, told, tested) -> str:
    """One competitor's line."""
    scored = np.asarray(known.folds) >= 0
    cells = [name, who, *score_cells(told[scored], known.labels[scored])]
    cells += score_cells(tested, on_test.labels) if on_test and tested is not None else ["", "", "", ""]
    return f"| {' | '.join(cells)} |"


def score_cells(told, labels) -> list[str]:
    """Log-loss and its interval, accuracy and its interval."""
    told = normalised(np.asarray(told, np.float64))
    judged = judge(told, labels)
    score, (span,) = judged.scores(), bootstrap([judged])
    spans = ["{:.3f} to {:.3f}".format(*ends) for ends in (span.log_loss, span.accuracy)]
    return [f"{score.log_loss:.4f}", spans[0], f"{score.accuracy:.4f}", spans[1]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(SETS))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print("| set | who | oof log-loss | 95 % | oof accuracy | 95 % | test log-loss | 95 % | test accuracy | 95 % |")
        print(f"|{' --- |' * 10}")
        for each in arguments.names:
            print("\n".join(compare(each, arguments.folder or Path(temporary))), flush=True)
