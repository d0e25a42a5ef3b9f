"""The default dense head against variants of itself, out of fold on the sets of quality.py: are the defaults what does best?

    FEATCACHE_SHARED=PATH python benchmarks/defaults.py [--folder FOLDER] [--only VARIANT ...] [--cases CASE ...]

PATH and FOLDER as for ``benchmarks/quality.py``, whose features are used. One thing is changed at a time. Folds are dealt
by a seed that is no project's and none of quality.py's; what is scored is the mean of three seeds. What was found is kept in FOLDER/defaults.json
and not computed again. Prints Markdown for benchmarks/RESULTS.md: log-loss / accuracy, and in the last column the mean
over the sets of a variant's log-loss divided by the default's.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import SETS, extract, link_cactus, project, training_rows, write_mnist10

from featcache.core.progress import Silent
from featcache.settings.schedules import COSINE, ONE_CYCLE, Phase
from featcache.training.folds import assign_folds
from featcache.training.heads.examples import Examples
from featcache.training.heads.inputs import fit_input, stored_rows
from featcache.training.heads.partition import by_folds
from featcache.training.heads.presets import HeadPlan, resolve_heads
from featcache.training.heads.trainer import train_heads
from featcache.training.metrics import judge

SEED, SEEDS = 1000, 3


def phases(shape: str, rate: float) -> Callable[[HeadPlan], HeadPlan]:
    """One phase over all epochs."""
    return lambda plan: replace(plan, schedule=(Phase(rate, plan.epochs, shape),))


def rate(factor: float) -> Callable[[HeadPlan], HeadPlan]:
    """Every learning rate multiplied."""
    return lambda plan: replace(plan, schedule=tuple(each._replace(rate=each.rate * factor) for each in plan.schedule))


def epochs(factor: float) -> Callable[[HeadPlan], HeadPlan]:
    """Every phase longer or shorter."""
    return lambda plan: replace(
        plan, schedule=tuple(each._replace(epochs=max(1, math.ceil(each.epochs * factor))) for each in plan.schedule)
    )


VARIANTS: dict[str, Callable[[HeadPlan], HeadPlan]] = {
    "as it is": lambda plan: plan,
    "cosine 3e-3": phases(COSINE, 3e-3),
    "one-cycle 5e-3": phases(ONE_CYCLE, 5e-3),
    "half the rate": rate(0.5),
    "twice the rate": rate(2.0),
    "half the epochs": epochs(0.5),
    "twice the epochs": epochs(2.0),
    "no weight decay": lambda plan: replace(plan, weight_decay=0.0),
    "half the weight decay": lambda plan: replace(plan, weight_decay=plan.weight_decay / 2),
    "twice the weight decay": lambda plan: replace(plan, weight_decay=plan.weight_decay * 2),
    "dropout 0.2": lambda plan: replace(plan, dropouts=tuple(each * 0.4 for each in plan.dropouts)),
    "dropout 0.3": lambda plan: replace(plan, dropouts=tuple(each * 0.6 for each in plan.dropouts)),
    "dropout 0.7": lambda plan: replace(plan, dropouts=tuple(each * 1.4 for each in plan.dropouts)),
    "half the width": lambda plan: replace(plan, hidden=tuple(each // 2 for each in plan.hidden)),
    "twice the width": lambda plan: replace(plan, hidden=tuple(each * 2 for each in plan.hidden)),
    "label smoothing 0.02": lambda plan: replace(plan, label_smoothing=0.02),
    "label smoothing 0.1": lambda plan: replace(plan, label_smoothing=0.1),
    "last epoch kept": lambda plan: replace(plan, keep_best=False),
    "early stop 5": lambda plan: replace(plan, early_stop=5),
    "no temperature": lambda plan: replace(plan, tempered=False),
    "moving averages": lambda plan: replace(plan, recompute_statistics=False),
}


def together(*names: str) -> Callable[[HeadPlan], HeadPlan]:
    """Several variants at once."""

    def change(plan: HeadPlan) -> HeadPlan:
        for name in names:
            plan = VARIANTS[name](plan)
        return plan

    return change


VARIANTS |= {
    "four times the epochs": epochs(4.0),
    "twice the epochs and the width": together("twice the epochs", "twice the width"),
    "twice the epochs, dropout 0.3": together("twice the epochs", "dropout 0.3"),
    "twice the epochs and the width, dropout 0.3": together("twice the epochs", "twice the width", "dropout 0.3"),
}


def measure(case: str, folder: Path, change: Callable[[HeadPlan], HeadPlan]) -> tuple[float, float]:
    """Log-loss and accuracy of the mean of the seeds, out of fold."""
    made = project(case, folder)
    rows, spec = training_rows(made), made.settings.heads
    folds = assign_folds(rows.labels, rows.groups, spec.folds, SEED, rows.class_names, rows.digests)
    usable = np.ones(len(folds), bool)
    seen_as = fit_input(list(rows.taps), [rows.taps], usable, normalise=True)
    examples = Examples(seen_as, [stored_rows(seen_as, rows.taps, None)], rows.labels, by_folds(folds, usable))
    plan = resolve_heads(spec, "dense", sum(seen_as.widths), len(folds), len(rows.class_names))
    bag = train_heads(examples, change(plan), range(SEEDS), Silent())
    found = judge(bag.out_of_fold.mean(axis=0)[folds >= 0], rows.labels[folds >= 0]).scores()
    return found.log_loss, found.accuracy


def main() -> None:
    """Measure what isn't known yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "featcache-quality")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--cases", nargs="+", choices=SETS, default=[*SETS])
    wanted = parser.parse_args()
    kept = wanted.folder / "defaults.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    write_mnist10(wanted.folder / "data/mnist10")
    link_cactus(wanted.folder / "data/cactus")
    for case in wanted.cases:
        extract(project(case, wanted.folder))
    for variant in wanted.only:
        for case in wanted.cases:
            if case not in found.setdefault(variant, {}):
                found[variant][case] = measure(case, wanted.folder, VARIANTS[variant])
                kept.write_text(json.dumps(found, indent=1))
                print(f"{variant}, {case}: {found[variant][case]}", flush=True)
    plain = found[next(iter(VARIANTS))]
    print("| | " + " | ".join(wanted.cases) + " | ratio |\n| --- |" + " --- |" * (len(wanted.cases) + 1))
    for variant in wanted.only:
        cells = [f"{loss:.4f} / {right:.4f}" for loss, right in (found[variant][case] for case in wanted.cases)]
        ratio = np.mean([found[variant][case][0] / plain[case][0] for case in wanted.cases])
        print(f"| {variant} | {' | '.join(cells)} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
