"""A multinomial regression as a member: what a user would try first, on the folds of the heads.

Its heads have no hidden layer, one a fold; each fold's L2 strength is the one with the lowest loss on the other folds.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featcache.core.progress import Progress
from featcache.training.heads.bag import TrainedBag
from featcache.training.heads.examples import Examples
from featcache.training.heads.lbfgs import Regressions
from featcache.training.heads.linear_path import Coordinates, Map, ScoredPath, Step, core_map
from featcache.training.heads.presets import HeadPlan

# A logit's variance if every value were independent and its weight as large as the penalty expects: scikit-learn's
# C times the values. In these units one path serves 245 rows x 25,088 values as well as 60,000 x 512.
VARIANCES = tuple(float(value) for value in 10 ** np.arange(-0.5, 4.1, 0.5))
# ten times finer takes a quarter more passes and moves no out-of-fold loss by more than 2e-4 near its lowest
_TOLERANCE = 1e-3
_WORSE = 1.05  # the path ends where out-of-fold loss is so much above its lowest


def train_linear(
    examples: Examples, plan: HeadPlan, progress: Progress, name: str = "linear", scratch: Path | None = None
) -> TrainedBag:
    """Fit one regression a fold for each strength of a path, warm-started, and keep each fold's best by the others.

    Args:
        examples: the training rows, by folds; their values are read block by block.
        plan: of type ``linear``, from `featcache.training.heads.presets.resolve_heads`.
        progress: counts strengths, under `name`.
        name: what `progress` calls it.
        scratch: the folder for a file without a name that holds large out-of-fold probabilities; None: memory.

    Returns:
        A bag of one seed whose history has a row for each strength that was tried.
    """
    with core_map(len(examples.labels)) as cores:
        return _trained(examples, plan, progress, name, scratch, cores)


def _trained(
    examples: Examples, plan: HeadPlan, progress: Progress, name: str, scratch: Path | None, cores: Map
) -> TrainedBag:
    coordinates, parts = Coordinates(examples.copies), examples.parts
    own = np.stack([parts.trained(fold) for fold in parts.numbers])
    counted = examples.row_weights(plan.classes) if plan.balanced else own
    regressions = Regressions(coordinates.copies, examples.labels, counted, plan.classes, cores)
    path = ScoredPath(examples, coordinates, plan.classes)
    no_prior = np.zeros((len(own), plan.classes), np.float32)

    def steps() -> Iterator[tuple[str, Step]]:
        fitted = None
        for variance in VARIANCES:
            strength = variance / plan.features
            fitted = regressions.fit(strength, fitted, _TOLERANCE)
            yield f"C {strength:.2g}", Step(*fitted, no_prior)

    progress.start(name, len(VARIANCES), "strengths")
    path.follow(steps(), _WORSE, progress)
    return path.bag(plan, examples, scratch)
