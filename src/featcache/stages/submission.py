"""From the ensemble to the checked submission: `WriteSubmission`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.disk import replacing_folder
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.keys import file_digest
from featcache.core.progress import Progress
from featcache.core.scratch_arrays import allocate
from featcache.ensemble import Clip, Ensemble, score_record, submission_clip, write_submission_file
from featcache.errors import SubmissionError
from featcache.project import Project, rejected_csv, split_predictions
from featcache.stages.preflight import check_clip
from featcache.training import Float64s, Predictions

_NAMES = ("submission.csv", "submission.csv.gz")


def write_submission(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Apply the ensemble to the test rows, write the submission, read it back and check it.

    What was written with these settings before is only shown again, unless `fresh`.

    Raises:
        SettingsError: the clip is too low for the number of classes.
        SubmissionError: there are no test rows, none is usable, or the sample submission asks for others.
        StorageError: the disk is full, read-only or not permitted.
    """
    artifact, spec = project.submission(), project.settings.submission
    name = artifact.content.name
    # a submission of other settings beside the one that is shown would be taken for it
    others = [project.folder / other for other in _NAMES if other != name]
    if artifact.is_stored() and not fresh:
        artifact.show(*others)
        return f"{name} is again that of these settings"
    if "test" not in project.scored_splits():
        raise SubmissionError("there are no test images to submit predictions for: put images into PATH/test")
    check_clip(project)
    sample = project.settings.dataset.sample_submission
    built, predictions = Ensemble.load(project.ensemble().path), split_predictions(project)
    clip, test = submission_clip(spec.clip, built.whole), predictions["test"]
    probabilities, unusable = _final(built, test, clip, project.folder)
    with replacing_folder(artifact.path.parent) as folder:
        path = folder / name
        report = write_submission_file(
            path,
            test.ids,
            probabilities,
            built.class_names,
            spec,
            sample,
            int(unusable.sum()),
            built.decided,
            several=built.several,
        )
        record = {
            **artifact.record_header(project.run),
            "content_digest": file_digest(path),
            "files": {name: path.stat().st_size},
            "rows": report.rows,
            "columns": list(report.columns),
            "notices": list(report.notices),
            "clip": clip,
            "method": built.whole.method,
            **score_record(built, predictions, clip),
        }
        write_json(folder / artifact.path.name, record)
    artifact.show(*others)
    for notice in report.notices:
        progress.notice(notice)
    return f"{name}: {pluralize(report.rows, 'row')}, {','.join(report.columns)[:60]}, clip {np.min(clip):.4f}"


def _final(built: Ensemble, test: Predictions, clip: Clip, folder: Path) -> tuple[Float64s, npt.NDArray[np.bool_]]:
    """The (n, C) probabilities of the test rows, and (n,) whether a row has no predictions.

    Such a row gets the classes' shares among the training rows: here and nowhere else. A `SubmissionError` if all do.
    """
    probabilities: Float64s = allocate((len(test.ids), len(built.class_names)), np.float64, folder)
    unusable = np.zeros(len(test.ids), bool)
    for rows, values in built.parts(test, clip):
        unusable[rows] = np.isnan(values).any(axis=1)
        probabilities[rows] = np.where(unusable[rows, None], built.class_shares, values)
    if unusable.all():
        raise SubmissionError(
            f"none of {len(unusable):,} test images can be used{rejected_csv(folder)}: replace or repair them"
        )
    return probabilities, unusable
