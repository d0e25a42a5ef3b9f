"""Planted label errors of flowers5: how many are among the first rows shown, and what correcting those that were found gains.

    FEATCACHE_SHARED=PATH python benchmarks/corrections.py [--folder FOLDER] [--seeds 3]

5 % of the training labels are flipped, seeded, by `[Dataset] corrections` itself, so that features are extracted once. Shown
is the order of `featcache suspects`; of its first rows, 10 % of all, the planted ones are corrected and nothing else. FOLDER
keeps the artifacts, as benchmarks/quality.py does. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import csv
import os
import tempfile
from pathlib import Path

import numpy as np

from featcache import stages
from featcache.core.progress import Silent
from featcache.dataset.manifest import Manifest
from featcache.ensemble.ensemble import Ensemble
from featcache.project.members import split_predictions
from featcache.project.project import Project
from featcache.report.label_errors import suspected
from featcache.report.predictions import ensemble_predictions
from featcache.settings.parsing import parse_settings
from featcache.training.metrics import judge

SHARED = Path(os.environ["FEATCACHE_SHARED"])
FLIPPED, SHOWN = 0.05, 0.10


def run(folder: Path, corrections: Path | None = None) -> tuple[Project, float]:
    """Run the default settings; return the project and the ensemble's log-loss on the test rows."""
    made = Project(
        parse_settings(
            {
                "Dataset": {
                    "name": "flowers5",
                    "source": "folder",
                    "path": str(SHARED / "data/flowers5"),
                    "corrections": str(corrections or ""),
                },
                "Features": {"weights": str(SHARED / "weights/vgg16_imagenet_notop.h5")},
                "Paths": {"artifacts": str(folder / "artifacts-flowers5")},
            }
        )
    )
    stages.index_images(made, Silent())
    stages.resolve_features(made, Silent())
    for split in made.splits():
        stages.extract_split(made, split, Silent())
    stages.finish_features(made, Silent())
    stages.train_bags(made, Silent())
    stages.build_ensemble(made, Silent())
    stages.predict_rows(made, Silent())
    predictions = split_predictions(made, ["test"])["test"]
    score = judge(Ensemble.load(made.ensemble().path).apply(predictions), predictions.labels).scores()
    return made, score.log_loss


def write(path: Path, labels: dict[str, str]) -> Path:
    """Write a file of corrections."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *labels.items()])
    return path


def flipped(manifest: Manifest, seed: int) -> dict[str, str]:
    """Id -> another class than its own, of 5 % of the training rows."""
    rows, names = manifest.splits["train"], manifest.class_names
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(rows), round(FLIPPED * len(rows)), replace=False)
    shift = generator.integers(1, len(names), len(chosen))
    return {
        rows.ids[row]: names[(rows.labels[row] + by) % len(names)]
        for row, by in zip(chosen.tolist(), shift.tolist(), strict=True)
    }


def measured(folder: Path, seed: int, clean: float, manifest: Manifest) -> str:
    """One line of the table."""
    planted = flipped(manifest, seed)
    made, wrong = run(folder, write(folder / "flipped.csv", planted))
    built = Ensemble.load(made.ensemble().path)
    train = next(ensemble_predictions(made, Manifest.load(made.folder), built))
    rows, _, _ = suspected(train)  # as `featcache suspects`, but the file that plants the errors counts as no review
    first = [train.ids[row] for row in rows[: round(SHOWN * len(train.ids))].tolist()]
    found = [name for name in planted if name in first]
    left = {name: label for name, label in planted.items() if name not in first}
    corrected = run(folder, write(folder / "left.csv", left))[1] if found else wrong
    share = (corrected - clean) / (wrong - clean)
    counts = f"{len(found)} of {len(planted)} ({len(found) / len(planted):.0%}) | {len(first)} of {len(train.ids)}"
    return f"| {seed} | {counts} | {clean:.4f} | {wrong:.4f} | {corrected:.4f} | {share:.0%} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        where = arguments.folder or Path(temporary)
        made, clean = run(where)
        print(
            "| seed | planted found | shown | test log-loss clean | flipped | found ones corrected | of the loss left |"
        )
        print(f"|{' --- |' * 7}")
        for seed in range(arguments.seeds):
            print(measured(where, seed, clean, Manifest.load(made.folder)), flush=True)
            run(where)
