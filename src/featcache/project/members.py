"""The predictions of all members of a project, on the rows of its manifest, or of its cases where these have several."""

from collections.abc import Sequence

from featcache.dataset import Manifest
from featcache.project.project import Project
from featcache.training import Predictions, by_case, joined_members


def out_of_fold(project: Project, manifest: Manifest | None = None) -> Predictions:
    """Return all members' predictions of the training rows or cases, each by models that haven't seen its fold.

    Args:
        project: whose.
        manifest: its own; None to load it.

    Raises:
        CacheFormatError: the predictions or the manifest are absent or damaged.
        CacheMismatchError: they don't belong together.
    """
    rows = (manifest or Manifest.load(project.folder)).splits["train"]
    sources = [source for stage in project.member_sources().values() for source in stage]
    known = joined_members([Predictions.load(source.path, rows) for source in sources])
    return by_case(known, rows.cases, project.folder)


def split_predictions(
    project: Project, splits: Sequence[str] | None = None, manifest: Manifest | None = None
) -> dict[str, Predictions]:
    """Return split -> all members' predictions, for `splits` or all that nothing is trained on.

    Raises:
        CacheFormatError: predictions or the manifest are absent or damaged.
    """
    splits = project.scored_splits() if splits is None else splits
    rows = (manifest or Manifest.load(project.folder)).splits if splits else {}
    found = {split: Predictions.load(project.predictions(split).path, rows[split]) for split in splits}
    return {split: by_case(each, rows[split].cases, project.folder) for split, each in found.items()}
