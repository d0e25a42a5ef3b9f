"""What is kept of a finished run, beside its artifacts: settings, scores, times, submission and out-of-fold predictions."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from featcache._version import __version__
from featcache.core.disk import replacing_folder
from featcache.core.json_records import read_json, write_json
from featcache.core.scratch_arrays import allocate
from featcache.ensemble import Ensemble
from featcache.errors import CacheFormatError
from featcache.inspection import compare_runs, summary, used_paths
from featcache.project import (
    ROWS_FILE,
    RUN_FILE,
    Project,
    RememberedRows,
    RememberedRun,
    last_run,
    out_of_fold,
    run_artifact,
    run_folder,
)
from featcache.training import Predictions

# Of the summary; the rest says where things are.
_FACTS = ("metric", "scores", "best_single", "baselines", "members", "rows", "rejected", "seconds", "backbones")


def remember_run(project: Project) -> None:
    """Keep what the finished run of these settings came to; what is kept already isn't written again.

    Raises:
        CacheError: an artifact is absent, damaged or of other settings.
        StorageError: the disk is full, read-only or not permitted.
    """
    artifact, folder = run_artifact(project), run_folder(project)
    if artifact.key is None or (read_json(folder / RUN_FILE) or {}).get("key") == artifact.key:
        return
    built, known, facts = Ensemble.load(project.ensemble().path), out_of_fold(project).scored(), summary(project)
    record = {
        "key": artifact.key,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "made_with": __version__,
        "images": project.manifest().key,
        "settings": project.settings.texts,
        "class_names": list(built.class_names),
        **{name: facts[name] for name in _FACTS if name in facts},
        "needs": sorted(str(path.relative_to(project.folder)) for path in used_paths(project)),
    }
    probabilities, predicted = _nested(built, known, project)
    rows = RememberedRows(known.ids, known.labels, predicted, probabilities, known.groups, built.class_names)
    if before := last_run(project):
        with suppress(CacheFormatError):  # what is damaged is named where it is asked for
            record["compared"] = compare_runs(before, RememberedRun(folder, record), rows)
    with replacing_folder(folder) as temporary:
        if artifact.shown is not None:
            shutil.copyfile(artifact.content, temporary / artifact.content.name)
        np.savez(
            temporary / ROWS_FILE,
            ids=_bytes(known.ids),
            labels=known.labels,
            predicted=predicted,
            probabilities=probabilities,
            groups=_bytes(known.groups),
        )
        write_json(temporary / RUN_FILE, record)


def _nested(
    built: Ensemble, known: Predictions, project: Project
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """(n, C) probabilities, and classes in the labels' shape, each row by what was fitted without its fold."""
    probabilities = allocate((len(known.ids), len(built.class_names)), np.float32, project.folder)
    predicted = np.empty(known.labels.shape, np.int32)
    for rows, part in built.nested_parts(known):
        table, fold = built.shares(part), int(np.asarray(known.folds)[rows[0]])
        probabilities[rows], predicted[rows] = table, built.fold_decision(fold).classes(table)
    return probabilities, predicted


def _bytes(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """(n,) UTF-8 of one length; a million Python objects are never there at once."""
    width = max((len(text.encode("utf-8", "surrogateescape")) for text in texts), default=1)
    raw = (text.encode("utf-8", "surrogateescape") for text in texts)
    return np.fromiter(raw, f"S{max(width, 1)}", len(texts))
