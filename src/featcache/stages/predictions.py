"""The members' predictions of the rows that nothing is trained on: `PredictRows`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.disk import replacing_folder
from featcache.core.formatting import pluralize
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.core.rows import Rows
from featcache.dataset import Manifest
from featcache.errors import CacheMismatchError, SubmissionError
from featcache.project import Artifact, Project, SplitFeatures, split_features
from featcache.stages.convnets import RowParts, predict_convnets
from featcache.training import RECORDED, Bag, Float32s, check_members, load_bag, stored_members, write_predictions

PROBABILITIES_FILE = "probabilities.npy"


def predict_rows(project: Project, progress: Progress) -> str:
    """Let every member predict the rows of `valid` and `test`, and keep the probabilities.

    Rows without features get NaN.

    Raises:
        SubmissionError: there are no rows to predict.
        TrainingError: the heads were trained on features of another shape.
        StorageError: the disk is full, read-only or not permitted.
    """
    splits = project.scored_splits()
    if not splits:
        advice = "put images into PATH/test, or run Submit, which ends with the out-of-fold scores"
        raise SubmissionError(f"source={project.settings.dataset.source!r} has no test images to predict: {advice}")
    manifest, sources = Manifest.load(project.folder), project.member_sources()
    members = [stored_members(source.path) for several in sources.values() for source in several]
    check_members([name for own in members for name in own])
    progress.start("predicting", len(splits) * sum(map(len, sources.values())), "sources of members")
    try:
        for split in splits:
            _predict_split(project, sources, members, manifest.splits[split], split, progress)
    finally:
        progress.finish()
    rows = " · ".join(f"{split} {len(manifest.splits[split]):,}" for split in splits)
    return f"{rows} rows by {pluralize(sum(map(len, members)), 'member')}"


def _predict_split(
    project: Project,
    sources: Mapping[str, Sequence[Artifact]],
    members: Sequence[Sequence[str]],
    rows: Rows,
    split: str,
    progress: Progress,
) -> None:
    """Write one split's predictions; `members` has the names of each source's."""
    begun, artifact = time.perf_counter(), project.predictions(split)
    views = [split_features(project, split, copy) for copy in project.views]
    reader, usable = views[0].reader, views[0].usable

    def parts() -> Iterator[tuple[int, slice, Float32s]]:
        first = 0
        predicted = (each for stage, some in sources.items() for each in _predicted(project, stage, some, views, rows))
        for own, found in zip(members, predicted, strict=True):
            for place, values in found:
                if len(values) != len(own):
                    raise CacheMismatchError(
                        f"{len(values)} members were predicted by where {len(own)} are recorded, {own[0]!r} first: "
                        "run TrainHeads with --rerun"
                    )
                yield first, place, np.where(usable[place, None], values, np.float32(np.nan))
            first += len(own)
            progress.advance(1)

    names = [name for own in members for name in own]
    with replacing_folder(artifact.path.parent) as folder:
        path = folder / PROBABILITIES_FILE
        recorded = write_predictions(path, names, reader.class_names, (len(rows), rows.key), parts())
        record = {**artifact.record_header(project.run), "seconds": round(time.perf_counter() - begun, 3)}
        files = {path.name: path.stat().st_size}
        write_json(folder / artifact.path.name, {**record, RECORDED: recorded, "files": files})


def _predicted(
    project: Project, stage: str, members: Sequence[Artifact], views: Sequence[SplitFeatures], rows: Rows
) -> Iterator[RowParts]:
    """Yield for each artifact of a stage (rows, (members, r, C)), members in the order of its out-of-fold predictions.

    Bags predict the caches' rows, the mean over `views`; convnets look at the images themselves, as they are, and give NaN
    for one that can't be decoded.
    """
    if stage == "TrainConvNets":
        return predict_convnets(project, members, rows)
    return (_mean(load_bag(bag.path.parent), [view.features for view in views]) for bag in members)


def _mean(bag: Bag, views: Sequence[Mapping[str, npt.NDArray[Any]]]) -> RowParts:
    """Each member's mean probabilities over views of the same rows."""
    for parts in zip(*map(bag.member_parts, views), strict=True):
        yield parts[0][0], np.mean([values for _, values in parts], axis=0)
