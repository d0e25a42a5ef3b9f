"""Quadratic weighted kappa of ordered classes, cut points against the most probable class, out of fold on made rows.

python benchmarks/ordinal.py [--rows 1500] [--seeds 5]
"""

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from featcache.ensemble.decisions import decided
from featcache.training.named_metrics import Judged, Metric, metric_spans

SHARES = (0.49, 0.10, 0.27, 0.06, 0.08)  # of grades, as of eyes in a screening
FOLDS = 5


def made(seed, rows):
    """(n, 32) features of which some rise with the grade, and (n,) grades."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(SHARES), rows, p=SHARES)
    slopes = generator.normal(size=32) * (generator.random(32) < 0.25)
    return labels[:, None] * slopes * 0.3 + generator.normal(size=(rows, 32)), labels


def main():
    """Print a line a seed: both scores, and the interval of what is gained."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        features, labels = made(seed, arguments.rows)
        model = LogisticRegression(max_iter=1000)
        table = cross_val_predict(model, features, labels, cv=FOLDS, method="predict_proba")
        both = (
            decided("qwk", table, labels, np.arange(len(labels)) % FOLDS),
            Judged(labels, table.argmax(axis=1), table),
        )
        (own, plain), ((low, high),) = metric_spans("qwk", both)
        scores = [Metric("qwk", each).value() for each in both]
        spans = [f"{score:.4f} ({a:.4f} to {b:.4f})" for score, (a, b) in zip(scores, (own, plain), strict=True)]
        print(f"seed {seed}: cut points {spans[0]}, most probable {spans[1]}, gained {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
