"""A bag of recipe heads against the same number of plain Keras fits, one after the other.

    python benchmarks/heads.py [512x32 4608x32 25088x8 ...] [--fits 6] [--profile] [--streaming FOLDER]

Rows are the 1,797 embedded digits, spread over as many features as wanted by a random layer, in float16 as caches have
them; four folds. A fit is `model.fit` of the same head on one fold's training rows in float32, with the rows of the fold
left out as validation data, as the bag too scores each head on them after each epoch: a few are run and scaled. Batch
normalisation's momentum is 0.9 on both sides: after 66 steps averages of 0.99 would still say more of their initial
values than of the head, and accuracies could not be compared.
"whole" is a fit as a user runs it, with the building of its graph; "steady" is the second fit of a model whose graph is
built. The bag's time is that of the whole call, with scoring after each epoch and out-of-fold predictions.
"""

import argparse
import cProfile
import os
import pstats
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

FOLDS = 4


def examples(features: int):  # featcache is imported where it is measured
    """Features and labels of the digits, and their folds."""
    from sklearn.datasets import load_digits

    from featcache.training.folds import assign_folds
    from featcache.training.heads.examples import Examples
    from featcache.training.heads.inputs import HeadInput
    from featcache.training.heads.partition import by_folds

    digits = load_digits()
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(64, features)).astype(np.float32) / 64
    values = np.maximum(digits.data.astype(np.float32) @ spread, 0).astype(np.float16)
    folds = assign_folds(digits.target, [""] * len(values), FOLDS, 0)
    seen_as = HeadInput({"tap": (features,)})
    return Examples(seen_as, [values], digits.target, by_folds(folds, np.ones(len(values), bool)))


def recipe(features: int, rows: int):
    """The recipe's plan, but for the momentum."""
    from featcache.settings.specs import HeadsSpec
    from featcache.training.heads.presets import resolve_heads

    return replace(resolve_heads(HeadsSpec(folds=FOLDS), "recipe", features, rows, 10), momentum=0.9)


def plain_head(plan):
    """The recipe's head as a user writes it."""
    import keras

    layers: list[keras.layers.Layer] = [keras.Input((plan.features,))]
    for dropout, width in zip(plan.dropouts, plan.hidden, strict=False):
        layers += [keras.layers.Dropout(dropout), keras.layers.Dense(width, activation="relu")]
        layers += [keras.layers.BatchNormalization(momentum=plan.momentum)]
    layers += [keras.layers.Dropout(plan.dropouts[-1]), keras.layers.Dense(plan.classes, activation="softmax")]
    model = keras.Sequential(layers)
    # jit_compile=True would be ten times slower here
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def _fit(model, plan, inputs, labels, validation) -> float:
    """Train by the plan's schedule; return the accuracy on the fold left out after the last epoch."""
    for phase in plan.schedule:
        model.optimizer.learning_rate = phase.rate
        told = model.fit(
            inputs,
            labels,
            plan.batch_size,
            phase.epochs,
            verbose=0,
            validation_data=validation,
            validation_batch_size=512,
        )
    return float(told.history["val_accuracy"][-1])


def fits(data, plan, count: int) -> tuple[float, float, list[float]]:
    """Seconds of a whole fit and of a steady one, means of `count`, and their accuracies on the fold left out."""
    import keras

    whole, steady, right = [], [], []
    for number in range(count):
        fold = number % FOLDS
        trained, held = data.parts.trained(fold), data.parts.scored(fold)
        values = data.copies[0].astype(np.float32)
        inputs, labels, validation = values[trained], data.labels[trained], (values[held], data.labels[held])
        keras.utils.set_random_seed(number)
        begun = time.perf_counter()
        model = plain_head(plan)
        right.append(_fit(model, plan, inputs, labels, validation))
        whole.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        _fit(model, plan, inputs, labels, validation)
        steady.append(time.perf_counter() - begun)
    return float(np.mean(whole)), float(np.mean(steady)), right


def bag(data, plan, seeds: int):
    """Seconds of the best of two calls, and the trained bag."""
    from featcache.core.progress import Silent
    from featcache.training.heads.trainer import train_heads

    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        trained = train_heads(data, plan, range(seeds), Silent())
        seconds.append(time.perf_counter() - begun)
    return min(seconds), trained


def row(features: int, heads: int, count: int) -> str:
    """Measure and return a row of the table."""
    data = examples(features)
    plan = recipe(features, len(data.labels))
    seconds, trained = bag(data, plan, heads // FOLDS)
    whole, steady, right = fits(data, plan, count)
    ours = trained.history.fold_accuracy[-1]
    cells = [
        *(f"{heads} x {features:,}", f"{seconds:.2f} s", f"{whole * heads:.1f} s", f"{steady * heads:.1f} s"),
        *(f"{whole * heads / seconds:.1f}", f"{steady * heads / seconds:.1f}"),
        *(
            f"{ours.mean():.4f} ± {ours.std() / len(ours) ** 0.5:.4f}",
            f"{np.mean(right):.4f} ± {np.std(right) / count**0.5:.4f}",
        ),
    ]
    return "| " + " | ".join(cells) + " |"


class _SameThread:
    """Stands for the pool, as the profiler sees only the thread that it was started in."""

    def __init__(self, threads: int) -> None:
        """Take what the pool takes."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    map = staticmethod(map)


def profile(features: int, heads: int) -> None:
    """Print where the time goes when all groups are trained by one thread, one after the other."""
    from featcache.core.progress import Silent
    from featcache.training.heads import trainer

    data = examples(features)
    plan = recipe(features, len(data.labels))
    trainer.ThreadPoolExecutor = _SameThread  # type: ignore[attr-defined,assignment]  # all that is used of it
    watch = cProfile.Profile()
    watch.runcall(trainer.train_heads, data, plan, range(heads // FOLDS), Silent())
    pstats.Stats(watch).sort_stats("tottime").print_stats(12)


def streaming(folder: Path, rows: int, features: int) -> None:
    """Train two heads for an epoch on a file of `rows` and print its size and the anonymous memory that it took."""
    from memory import Peak

    from featcache.core.progress import Silent
    from featcache.training.heads.examples import Examples
    from featcache.training.heads.inputs import HeadInput
    from featcache.training.heads.partition import by_folds
    from featcache.training.heads.trainer import train_heads

    path = folder / "streaming.f16"
    generator = np.random.default_rng(0)
    block = np.maximum(generator.normal(size=(1000, features)), 0).astype(np.float16)
    with open(path, "wb") as stream:
        for start in range(0, rows, 1000):
            stream.write(np.roll(block, start, axis=1)[: rows - start].tobytes())
    size = path.stat().st_size / 1e6
    try:
        values, labels = np.memmap(path, np.float16, "r", shape=(rows, features)), generator.integers(0, 10, rows)
        plan = recipe(features, rows)
        plan = replace(plan, schedule=plan.schedule[:1])
        begun, peak = time.perf_counter(), Peak()
        parts = by_folds(np.arange(rows) % 2, np.ones(rows, bool))
        train_heads(Examples(HeadInput({"tap": (features,)}), [values], labels, parts), plan, range(1), Silent())
        seconds = time.perf_counter() - begun
        print(
            f"{rows:,} x {features:,}: file {size:,.0f} MB, anonymous memory {peak.anonymous:,.0f} MB, {seconds:.0f} s"
        )
    finally:
        path.unlink()


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["512x32", "4608x32", "25088x8"], help="FEATURESxHEADS")
    parser.add_argument("--fits", type=int, default=6)
    parser.add_argument("--profile", action="store_true", help="where the bag's time goes, instead")
    parser.add_argument("--streaming", type=Path, metavar="FOLDER", help="memory on a file of 5 GB there, instead")
    wanted = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in wanted.sizes]
    if wanted.streaming:
        streaming(wanted.streaming, 100_000, 25_088)
        return
    if wanted.profile:
        for features, heads in sizes:
            profile(features, heads)
        return
    columns = ["heads x features", "bag", "fits, whole", "fits, steady", "times, whole", "times, steady"]
    print("| " + " | ".join([*columns, "accuracy, bag", "accuracy, fits"]) + " |")
    print("|" + " --- |" * (len(columns) + 2), flush=True)
    for features, heads in sizes:
        print(row(features, heads, wanted.fits), flush=True)


if __name__ == "__main__":
    main()
