"""Several labels a row, `posters`: the default ensemble against scikit-learn's regressions on the same features and folds.

    FEATCACHE_SHARED=PATH python benchmarks/several_labels.py [--folder FOLDER] [--seeds 5] [--first 0] [--test]

PATH holds ``data/posters`` and ``weights/``. Features are kept in FOLDER (a temporary one by default). For each fold seed the
ensemble is scored nested. The peer, ``OneVsRestClassifier(LogisticRegression)``, sees the values that our heads see, or the
same standardised, and has its best C of a grid, chosen by the very rows that it is scored on. Its labels are those above
0.5, above a threshold that is found on the other folds, or decided as ours are. With ``--test``, the peer of the best AUC is
fitted to all rows, and both are scored on the test images. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from quality import FOLDS, SHARED, WEIGHTS, Rows, examples_of, extract, training_rows
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache import stages
from featcache.core.progress import Silent
from featcache.ensemble.decisions import decided, find_decision
from featcache.ensemble.ensemble import Ensemble
from featcache.ensemble.selection import select_ensemble
from featcache.project.members import split_predictions
from featcache.project.project import Project
from featcache.project.split_features import split_features
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import HeadsSpec
from featcache.training.folds import assign_folds
from featcache.training.heads.logistic_regression import train_linear
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import resolve_heads
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import log_loss
from featcache.training.predictions import Predictions

DATA = SHARED / "data/posters"
STRENGTHS = (3e-4, 1e-3, 3e-3)
TRIED = np.linspace(0.1, 0.5, 21)
Labels = np.ndarray
Fit = Callable[[np.ndarray, Labels], OneVsRestClassifier]


def project(folder: Path) -> Project:
    """The default settings for posters; features are in `folder`."""
    with open(DATA / "train-columns.csv", encoding="utf-8", newline="") as stream:
        labels = next(csv.reader(stream))[1:]
    dataset = {"name": "posters", "source": "table", "path": str(DATA), "table": "train-columns.csv", "id": "id"}
    dataset |= {"label": ",".join(labels), "images": "images", "test": "sample_submission.csv"}
    paths = {"artifacts": str(folder / "artifacts-posters")}
    return Project(
        parse_settings(
            {"Dataset": dataset, "Features": {"weights": WEIGHTS}, "Paths": paths, "Ensemble": {"metric": "f1_samples"}}
        )
    )


def ours(made: Project, rows: Rows, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Train the default members; return the ensemble's nested (n, L), and the values that its heads see."""
    spec, members, tables = HeadsSpec(), [], []
    examples = examples_of(made, "pooled", [rows], by_folds(folds, np.ones(len(folds), bool)))
    for name, kind in made.bags():
        width = sum(examples.seen_as.widths)
        plan = resolve_heads(spec, kind, width, len(folds), len(rows.class_names), several=True)
        linear = kind == "linear"
        bag = train_linear(examples, plan, Silent()) if linear else train_heads(examples, plan, range(3), Silent())
        members += [f"{name}/{kind}/seed{seed}" for seed in bag.seeds]
        tables.append(bag.out_of_fold)
    ids = [*map(str, range(len(folds)))]
    known = Predictions(ids, rows.labels, tuple(members), np.concatenate(tables), rows.class_names, folds)
    nested = np.full(rows.labels.shape, np.nan)
    for places, part in select_ensemble(known).nested_parts(known):
        nested[places] = part
    return nested, np.asarray(examples.copies[0], np.float32)


def peers() -> Iterator[tuple[str, Fit]]:
    """Yield what a user would try, by name."""
    for strength in STRENGTHS:
        for scaled in (False, True):

            def fit(
                values: np.ndarray, labels: Labels, c: float = strength, scaled: bool = scaled
            ) -> OneVsRestClassifier:
                one = LogisticRegression(C=c, max_iter=300)
                return OneVsRestClassifier(make_pipeline(StandardScaler(), one) if scaled else one).fit(values, labels)

            yield f"OneVsRest, C = {strength:g}{', standardised' * scaled}", fit


def scores(table: np.ndarray, labels: Labels, folds: np.ndarray) -> list[float]:
    """Macro AUC, log-loss, and sample F1: above 0.5, above a threshold from the other folds, and as featcache decides."""
    threshold = np.empty((len(labels), 1))
    for fold in np.unique(folds):
        rest = folds != fold
        gains = [sample_f1(labels[rest], table[rest] > each) for each in TRIED]
        threshold[folds == fold] = TRIED[int(np.argmax(gains))]
    chosen = decided("f1_samples", table.astype(np.float64), labels, folds).predicted
    f1 = [sample_f1(labels, given) for given in (table > 0.5, table > threshold, chosen)]
    return [float(roc_auc_score(labels, table, average="macro")), log_loss(table, labels), *f1]


def sample_f1(labels: Labels, given: Labels) -> float:
    """scikit-learn's, 0 for a row that is given nothing."""
    return float(f1_score(labels, given, average="samples", zero_division=0))


def on_test(made: Project, rows: Rows, values: np.ndarray, table: np.ndarray, fit: Fit) -> Iterator[str]:
    """Yield lines of the run's own ensemble, and of a peer with this out-of-fold `table`, on the test images."""
    for bag in made.bags():
        if not made.bag(*bag).is_complete():
            stages.train_bag(made, *bag, Silent())
    stages.build_ensemble(made, Silent())
    stages.predict_rows(made, Silent())
    predictions, built = split_predictions(made, ["test"])["test"], Ensemble.load(made.ensemble().path)
    with open(DATA / "test-labels.csv", encoding="utf-8", newline="") as stream:
        tags = {row["id"]: row["tags"].split() for row in csv.DictReader(stream)}
    known = np.array([[name in tags[Path(row).stem] for name in rows.class_names] for row in predictions.ids], np.int8)
    seen_as = examples_of(
        made, "pooled", [rows], by_folds(np.arange(len(values)) % 2, np.ones(len(values), bool))
    ).seen_as
    seen = np.asarray(seen_as.rows(split_features(made, "test", 0).features)[:], np.float32)
    gains = [sample_f1(rows.labels, table > each) for each in TRIED]
    peer, ensemble = fit(values, rows.labels).predict_proba(seen), built.apply(predictions)
    threshold, decision = TRIED[int(np.argmax(gains))], find_decision("f1_samples", table, rows.labels)
    for name, one, decide in (("ensemble", ensemble, built.decision), ("peer", peer, decision)):
        f1 = [sample_f1(known, given) for given in (one > 0.5, one > threshold, decide.classes(one))]
        yield line(f"{name}, on test", [[roc_auc_score(known, one, average="macro"), log_loss(one, known), *f1]])


def line(name: str, several: list[list[float]]) -> str:
    """Means over fold seeds as a line of the table."""
    return f"| {name} | {len(several)} | {' | '.join(f'{value:.4f}' for value in np.mean(several, axis=0))} |"


def compare(folder: Path, seeds: range, *, test: bool) -> Iterator[str]:
    """Yield the lines of the table."""
    made = project(folder)
    extract(made)
    rows = training_rows(made)
    found: dict[str, list[list[float]]] = {"ensemble": []}
    fits, tables = dict(peers()), {}
    for seed in seeds:
        folds = assign_folds(rows.labels, rows.groups, FOLDS, seed, rows.class_names, rows.digests)
        table, values = ours(made, rows, folds)
        found["ensemble"].append(scores(table, rows.labels, folds))
        for name, fit in fits.items():
            tables[name] = np.empty_like(table)
            for fold in range(FOLDS):
                rest = folds != fold
                tables[name][~rest] = fit(values[rest], rows.labels[rest]).predict_proba(values[~rest])
            found.setdefault(name, []).append(scores(tables[name], rows.labels, folds))
    yield from (line(name, several) for name, several in found.items())
    if test:
        best = max(fits, key=lambda name: float(np.mean([each[0] for each in found[name]])))
        yield from on_test(made, rows, values, tables[best], fits[best])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="fold seed; from 100 on to choose, below to report")
    parser.add_argument("--test", action="store_true", help="also the test images")
    given = parser.parse_args()
    print("| posters | fold seeds | macro AUC | log-loss | sample F1 at 0.5 | at a threshold | as featcache decides |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        where = given.folder or Path(temporary)
        for text in compare(where, range(given.first, given.first + given.seeds), test=given.test):
            print(text, flush=True)
