"""What members say of the rows that nothing is trained on: `PredictRows`."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from featcache.artifact import Artifact
from featcache.bag_file import OUT_OF_FOLD_FILE, load_bag
from featcache.cache.layout import Status
from featcache.cache.reader import Reader, open_cache
from featcache.errors import SubmissionError
from featcache.members import class_prior
from featcache.predictions import Predictions, stored_members
from featcache.progress import Progress
from featcache.project import Project
from featcache.sources import Manifest
from featcache.stages.convnets import predict_convnets


def predict_rows(project: Project, progress: Progress) -> str:
    """Let every member predict the rows of `valid` and `test`, and keep the probabilities.

    Rows without features get the classes' shares among the training rows.

    Raises:
        SubmissionError: there are no rows to predict.
        TrainingError: the heads were trained on features of another shape.
        StorageError: the disk is full, read-only or not permitted.
    """
    splits = project.scored_splits()
    if not splits:
        advice = "put images into PATH/test, or stop at BuildEnsemble (luigi --module pipeline BuildEnsemble)"
        raise SubmissionError(
            f"expected test images to predict; got none in source={project.settings.dataset.source!r}: {advice}"
        )
    prior = class_prior(open_cache(project.features("train", 0).path))
    sources = sum(map(len, project.member_sources().values()))
    progress.start("predicting", len(splits) * sources, "sources of members")
    try:
        members = [_predict_split(project, split, prior, progress) for split in splits]
    finally:
        progress.finish()
    rows = " · ".join(f"{split} {project.splits()[split]['rows']:,}" for split in splits)
    return f"{rows} rows by {members[0]} members"


def _predict_split(project: Project, split: str, prior: npt.NDArray[np.float64], progress: Progress) -> int:
    """Write one split's predictions; return how many members there are."""
    begun, reader = time.perf_counter(), open_cache(project.features(split, 0).path)
    members: list[str] = []
    probabilities = []
    for stage, sources in project.member_sources().items():
        for source in sources:
            members += stored_members(source.path.parent / OUT_OF_FOLD_FILE)
        probabilities.append(_PREDICT[stage](project, sources, reader))
        progress.advance(len(sources))
    joined = _joined(probabilities)
    joined[:, reader.status != Status.OK] = prior
    for told in joined:
        rows, classes = np.nonzero(np.isnan(told))
        told[rows, classes] = prior[classes]
    artifact = project.predictions(split)
    record = {**artifact.stamp(project.run), "seconds": round(time.perf_counter() - begun, 3)}
    labels = np.array(reader.labels)
    Predictions(reader.ids, labels, tuple(members), joined, reader.class_names).save(artifact.path, record)
    return len(members)


def _predict_bags(project: Project, bags: Sequence[Artifact], reader: Reader) -> npt.NDArray[np.float32]:
    """(members, n, C) of the cache's rows, in the order of the bags' out-of-fold predictions."""
    taps = [str((bag.record() or {}).get("tap")) for bag in bags]
    return _joined(
        [
            load_bag(bag.path.parent, out_of_fold=False).member_predictions(reader[tap])
            for bag, tap in zip(bags, taps, strict=True)
        ]
    )


def _joined(parts: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _predict_convnets(project: Project, members: Sequence[Artifact], reader: Reader) -> npt.NDArray[np.float32]:
    """The same for small convolutional networks, which look at the images themselves."""
    return predict_convnets(project, members, Manifest.load(project.folder).splits[reader.split])


# Stage of `Project.member_sources` -> how its artifacts predict the rows of a cache; NaN for a row that they can't.
_PREDICT: Mapping[str, Callable[[Project, Sequence[Artifact], Reader], npt.NDArray[np.float32]]] = {
    "TrainHeads": _predict_bags,
    "TrainConvNets": _predict_convnets,
}
