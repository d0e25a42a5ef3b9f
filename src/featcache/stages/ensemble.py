"""From out-of-fold predictions to the ensemble: `BuildEnsemble`."""

import time

from featcache.core.formatting import pluralize
from featcache.core.progress import Progress
from featcache.ensemble import select_ensemble
from featcache.project import Project, out_of_fold


def build_ensemble(project: Project, progress: Progress) -> str:
    """Choose weights, temperature and clip on the members' out-of-fold predictions, scored by nesting.

    Raises:
        TrainingError: there is nothing to choose from.
        StorageError: the disk is full, read-only or not permitted.
    """
    del progress
    begun, artifact = time.perf_counter(), project.ensemble()
    spec = project.settings.ensemble
    built = select_ensemble(out_of_fold(project), spec.method, spec.metric)
    seconds = round(time.perf_counter() - begun, 3)
    built.save(artifact.path, {**artifact.record_header(project.run), "seconds": seconds})
    chosen = f"{built.whole.method}: {len(built.members)} of {pluralize(len(built.candidates), 'member')}"
    score = f"accuracy {built.scores.accuracy:.4f}, log-loss {built.scores.log_loss:.4f}"
    single = f"{built.single_scores.accuracy:.4f}, {built.single_scores.log_loss:.4f}"
    if built.decided:
        score = f"{built.decided.metric} {built.decided.score:.4f}, {score}"
        single = f"{built.decided.single:.4f}, {single}"
    return f"{chosen} · nested cross-validation: {score} (best single {single})"
