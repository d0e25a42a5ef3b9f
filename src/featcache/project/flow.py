"""The stages of a run, in their order, and what each needs: read by Luigi's tasks, `featcache status` and luigi.cfg's check."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from featcache.errors import SettingsError

NEEDS: Mapping[str, tuple[str, ...]] = {
    "IndexImages": (),
    "ExtractSplit": ("IndexImages",),
    "ExtractFeatures": ("IndexImages",),  # and an ExtractSplit for each split that is found
    "FindDuplicates": ("ExtractFeatures",),
    "TrainBag": ("ExtractFeatures",),
    "TrainHeads": ("ExtractFeatures",),  # and a TrainBag for each input and head type
    "TrainConvNets": ("IndexImages",),
    "PredictRows": ("ExtractFeatures", "TrainHeads", "TrainConvNets"),
    "BuildEnsemble": ("TrainHeads", "TrainConvNets"),
    "WriteSubmission": ("BuildEnsemble", "PredictRows"),
    "WriteReport": ("ExtractFeatures", "BuildEnsemble", "PredictRows", "FindDuplicates"),
    "CompareBackbones": ("IndexImages",),  # beside the flow
    "Submit": ("WriteSubmission", "WriteReport"),
}


_DEALT = ("TrainBag", "TrainHeads", "TrainConvNets")  # the stages that deal rows out to folds


def needs(stage: str, *, groups: bool) -> tuple[str, ...]:
    """Return the stages that a stage needs; `groups`: near duplicates stay in one fold, and so must be known before."""
    return (*NEEDS[stage], "FindDuplicates") if groups and stage in _DEALT else NEEDS[stage]


# In this order a run shows them; the others are parts of these, or beside the flow.
_SHOWN = (
    "IndexImages",
    "ExtractFeatures",
    "TrainHeads",
    "TrainConvNets",
    "PredictRows",
    "BuildEnsemble",
    "WriteSubmission",
    "WriteReport",
)
_PART_OF = {"ExtractSplit": "ExtractFeatures", "TrainBag": "TrainHeads"}


def stage_title(stage: str, *, convnets: bool, report: bool) -> str:
    """Return ``stage 2 of 7: ExtractSplit``; of one beside the flow its name alone.

    Example:
        >>> stage_title("TrainBag", convnets=False, report=True)
        'stage 3 of 7: TrainBag'
    """
    absent = [*([] if convnets else ["TrainConvNets"]), *([] if report else ["WriteReport"])]
    stages, own = [name for name in _SHOWN if name not in absent], _PART_OF.get(stage, stage)
    return f"stage {stages.index(own) + 1} of {len(stages)}: {stage}" if own in stages else stage


def final_stages(*, test: bool, report: bool) -> tuple[str, ...]:
    """Return the stages that `Submit` asks for; without test images there is nothing to submit."""
    submission = ("WriteSubmission",) if test else ("BuildEnsemble", "PredictRows")
    return (*submission, "WriteReport") if report else submission


def check_pipeline() -> None:
    """Raise a `SettingsError` where another module of the name is found before the stages; it isn't imported."""
    found = find_spec("pipeline")
    if found is None:
        raise SettingsError("featcache's stages, the package pipeline, are missing: install featcache again")
    folders = found.submodule_search_locations or ()
    if not any((Path(folder) / "startup_checks.py").is_file() for folder in folders):
        where = found.origin or next(iter(folders), "a module pipeline")
        raise SettingsError(f"{where} is in the way of featcache's package pipeline: rename it, or start elsewhere")
