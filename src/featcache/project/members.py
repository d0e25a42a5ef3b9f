"""The predictions of all members of a project, on the rows of its manifest."""

from collections.abc import Sequence

from featcache.dataset import Manifest
from featcache.project.project import Project
from featcache.training import Predictions, joined_members


def out_of_fold(project: Project, manifest: Manifest | None = None) -> Predictions:
    """Return all members' predictions of the training rows, each row by models that haven't seen its fold.

    Args:
        project: whose.
        manifest: its own; None to load it.

    Raises:
        CacheFormatError: the predictions or the manifest are absent or damaged.
        CacheMismatchError: they don't belong together.
    """
    rows = (manifest or Manifest.load(project.folder)).splits["train"]
    sources = [source for stage in project.member_sources().values() for source in stage]
    return joined_members([Predictions.load(source.path, rows) for source in sources])


def split_predictions(
    project: Project, splits: Sequence[str] | None = None, manifest: Manifest | None = None
) -> dict[str, Predictions]:
    """Return split -> all members' predictions, for `splits` or all that nothing is trained on.

    Raises:
        CacheFormatError: predictions or the manifest are absent or damaged.
    """
    splits = project.scored_splits() if splits is None else splits
    rows = (manifest or Manifest.load(project.folder)).splits if splits else {}
    return {split: Predictions.load(project.predictions(split).path, rows[split]) for split in splits}
