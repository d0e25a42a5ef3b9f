"""The stages of a run, in their order, and what each needs: read by Luigi's tasks, `featcache status` and luigi.cfg's check."""

from collections.abc import Mapping

NEEDS: Mapping[str, tuple[str, ...]] = {
    "IndexImages": (),
    "ExtractSplit": ("IndexImages",),
    "ExtractFeatures": ("IndexImages",),  # and an ExtractSplit for each split that is found
    "TrainBag": ("ExtractFeatures",),
    "TrainHeads": ("ExtractFeatures",),  # and a TrainBag for each input and head type
    "TrainConvNets": ("IndexImages",),
    "PredictRows": ("ExtractFeatures", "TrainHeads", "TrainConvNets"),
    "BuildEnsemble": ("TrainHeads", "TrainConvNets"),
    "WriteSubmission": ("BuildEnsemble", "PredictRows"),
    "WriteReport": ("ExtractFeatures", "BuildEnsemble", "PredictRows"),
    "CompareBackbones": ("IndexImages",),  # beside the flow
    "Submit": ("WriteSubmission", "WriteReport"),
}


def final_stages(*, test: bool, report: bool) -> tuple[str, ...]:
    """Return the stages that `Submit` asks for; without test images there is nothing to submit."""
    submission = ("WriteSubmission",) if test else ("BuildEnsemble", "PredictRows")
    return (*submission, "WriteReport") if report else submission
