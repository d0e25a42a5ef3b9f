"""From probabilities to the submission: `BuildEnsemble` and `WriteSubmission`."""

import time

import numpy as np
import numpy.typing as npt

from featcache.cache import Status, open_cache
from featcache.core import keys
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.core.scratch_arrays import allocate
from featcache.ensemble import Ensemble, select_ensemble, submission_clip, write_submission_file
from featcache.errors import SubmissionError
from featcache.project import Project, all_scores, class_prior, out_of_fold, predictions_of, rejected_csv
from featcache.stages.preflight import check_clip
from featcache.training import Predictions


def build_ensemble(project: Project, progress: Progress) -> str:
    """Choose method, weights, temperature and clip on the members' out-of-fold predictions, and score that by nesting.

    Raises:
        TrainingError: there is nothing to choose from.
        StorageError: the disk is full, read-only or not permitted.
    """
    begun = time.perf_counter()
    known = out_of_fold(project)
    built = select_ensemble(known, project.settings.ensemble.method)
    artifact = project.ensemble()
    built.save(artifact.path, {**artifact.record_header(project.run), "seconds": round(time.perf_counter() - begun, 3)})
    chosen = f"{built.whole.method} of {len(built.members)} of {pluralize(len(built.candidates), 'member')}"
    score = f"accuracy {built.scores.accuracy:.4f}, log-loss {built.scores.log_loss:.4f}"
    single = f"{built.single_scores.accuracy:.4f}, {built.single_scores.log_loss:.4f}"
    return f"{chosen} · nested out of fold: {score} (best single {single})"


def write_submission(project: Project, progress: Progress) -> str:
    """Apply the ensemble to the test rows, write the submission, read it back and check it.

    Raises:
        SettingsError: the clip is too low for the number of classes.
        SubmissionError: there are no test rows, none is usable, or the sample submission asks for others.
        StorageError: the disk is full, read-only or not permitted.
    """
    spec, dataset, artifact = project.settings.submission, project.settings.dataset, project.submission()
    if "test" not in project.scored_splits():
        raise SubmissionError("expected test images to submit predictions for; got none: put images into PATH/test")
    check_clip(project)
    built = Ensemble.load(project.ensemble().path)
    clip = submission_clip(spec.clip, built.whole)
    test, probabilities, unusable = _final(project, built, clip)
    rejected = [test.ids[row] for row in np.flatnonzero(unusable).tolist()]
    path = artifact.path.parent / (artifact.content or artifact.path).name
    report = write_submission_file(
        path, test.ids, probabilities, built.class_names, spec, dataset.sample_submission, rejected
    )
    for notice in report.notices:
        progress.notice(notice)
    record = {
        **artifact.record_header(project.run),
        "content_digest": keys.file_digest(path),
        "rows": report.rows,
        "columns": list(report.columns),
        "notices": list(report.notices),
        "clip": clip,
        "scores": all_scores(project, built, clip),
        "best_single": {"member": built.best_single, **vars(built.single_scores)},
        "method": built.whole.method,
        "members": dict(zip(built.members, built.weights, strict=True)),
    }
    write_json(artifact.path, record)
    other = path.with_name("submission.csv" if spec.gzip else "submission.csv.gz")
    other.unlink(missing_ok=True)  # a submission of other settings beside this one would be taken for it
    return f"{path.name}: {pluralize(report.rows, 'row')}, {','.join(report.columns)[:60]}, clip {clip:.4f}"


def _final(
    project: Project, built: Ensemble, clip: float
) -> tuple[Predictions, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The test rows' predictions, the ensemble's (n, C) probabilities, and (n,) whether a row has no features.

    Raises:
        SubmissionError: no row has features.
    """
    predictions = predictions_of(project, "test")
    unusable = open_cache(project.features("test", 0).path).status != Status.OK
    if unusable.all():
        raise SubmissionError(
            f"expected test images that can be used; got 0 of {len(unusable):,}{rejected_csv(project.folder)}: mend them"
        )
    prior = class_prior(open_cache(project.features("train", 0).path))
    shape = len(predictions.ids), len(built.class_names)
    probabilities: npt.NDArray[np.float64] = allocate(shape, np.float64, project.folder)
    for rows, said in built.parts(predictions, clip):
        probabilities[rows] = np.where(unusable[rows, None], prior, said)
    return predictions, probabilities, unusable
