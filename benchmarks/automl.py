"""AutoGluon Tabular on the pooled features of `quality.py`, scored on test rows; in an environment of its own.

    python -m venv autogluon; autogluon/bin/pip install 'autogluon.tabular[lightgbm,xgboost,catboost]' h5py
    autogluon/bin/python benchmarks/automl.py FOLDER [--seconds 300] [hymenoptera flowers5]

FOLDER is that of `quality.py`, with its caches. Prints Markdown for benchmarks/RESULTS.md.
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from autogluon.tabular import TabularPredictor

TAPS = [f"block{block}_pool_{pooling}" for block in (3, 4, 5) for pooling in ("avg", "max")]


def table(folder: Path, name: str, split: str) -> pd.DataFrame:
    """The usable rows of a split: every pooled value is a column, beside `label`."""
    (path,) = (folder / f"artifacts-{name}" / name / "features").glob(f"{split}-copy0-vgg16-auto-*.h5")
    with h5py.File(path) as file:
        usable = file["status"][:] == 1
        values = np.concatenate([file[tap][:] for tap in TAPS], axis=1).astype(np.float32)
        labels = file["label"][:]
    frame = pd.DataFrame(values, columns=[f"f{number}" for number in range(values.shape[1])])
    kept: pd.DataFrame = frame.assign(label=labels)[usable & (labels >= 0)]
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=["hymenoptera", "flowers5"])
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args()
    print("| set | AutoGluon, test accuracy | test log-loss |\n| --- | --- | --- |")
    for each in arguments.names:
        with tempfile.TemporaryDirectory() as models:
            predictor = TabularPredictor("label", eval_metric="log_loss", path=models, verbosity=0)
            predictor.fit(
                table(arguments.folder, each, "train"),
                time_limit=arguments.seconds,
                presets="best_quality",
                dynamic_stacking=False,
            )
            test = table(arguments.folder, each, "test")
            told = predictor.predict_proba(test).to_numpy()
        labels = test["label"].to_numpy()
        loss = -np.log(np.maximum(told[np.arange(len(labels)), labels], 1e-15)).mean()
        print(f"| {each} | {(told.argmax(axis=1) == labels).mean():.4f} | {loss:.4f} |", flush=True)
