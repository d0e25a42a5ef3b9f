"""What members say of the rows that nothing is trained on: `PredictRows`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status, checked_cache, open_cache
from featcache.core.formatting import pluralize
from featcache.core.progress import Progress
from featcache.dataset import Manifest
from featcache.errors import CacheMismatchError, SubmissionError
from featcache.project import Artifact, Project, class_prior
from featcache.stages.convnets import RowParts, predict_convnets
from featcache.training import OUT_OF_FOLD_FILE, check_unique, load_bag, stored_members, writing

_UNKNOWN_SECONDS = 1e9  # stands in for a number that is known at the end, and is no longer
_AGAIN = "run TrainHeads with --rerun"


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
        advice = "put images into PATH/test, or run Submit, which ends with the out-of-fold scores"
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
    return f"{rows} rows by {pluralize(members[0], 'member')}"


def _predict_split(project: Project, split: str, prior: npt.NDArray[np.float64], progress: Progress) -> int:
    """Write one split's predictions; return how many members there are."""
    begun, reader = time.perf_counter(), checked_cache(project.features(split, 0).path)
    sources = project.member_sources()
    members = [stored_members(source.path.parent / OUT_OF_FOLD_FILE) for stage in sources.values() for source in stage]
    names = tuple(name for several in members for name in several)
    artifact, usable, shares = project.predictions(split), reader.status == Status.OK, prior.astype(np.float32)
    record: dict[str, object] = {**artifact.stamp(project.run), "seconds": _UNKNOWN_SECONDS}
    texts = {"ids": reader.ids, "members": names, "class_names": reader.class_names}
    check_unique(texts)
    told = (rows for stage, each in sources.items() for rows in _PREDICT[stage](project, each, reader))
    with writing(artifact.path, texts, {"labels": np.array(reader.labels)}, record) as dataset:
        first = 0
        for own, parts in zip(members, told, strict=True):
            for rows, said in parts:
                if len(said) != len(own):
                    raise CacheMismatchError(
                        f"expected predictions by {len(own)} members, {own[0]!r} first; got {len(said)}: {_AGAIN}"
                    )
                dataset[first : first + len(own), rows] = np.where(np.isnan(said) | ~usable[rows, None], shares, said)
            first += len(own)
            progress.advance(1)
        record["seconds"] = round(time.perf_counter() - begun, 3)  # what `writing` then writes
    return len(names)


def _predict_bags(project: Project, bags: Sequence[Artifact], reader: Reader) -> Iterator[RowParts]:
    """Yield for each bag (rows, (members, r, C)) of the cache's rows, its members in the order of its out-of-fold predictions."""
    for source in bags:
        tap = str((source.record() or {}).get("tap"))
        yield load_bag(source.path.parent).member_parts(reader[tap])


def _predict_convnets(project: Project, members: Sequence[Artifact], reader: Reader) -> Iterator[RowParts]:
    """The same for small convolutional networks, which look at the images themselves."""
    return predict_convnets(project, members, Manifest.load(project.folder).splits[reader.split])


# Stage of `Project.member_sources` -> how its artifacts predict the rows of a cache; NaN for a row that they can't.
_PREDICT: Mapping[str, Callable[[Project, Sequence[Artifact], Reader], Iterator[RowParts]]] = {
    "TrainHeads": _predict_bags,
    "TrainConvNets": _predict_convnets,
}
