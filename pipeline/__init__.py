"""featcache's stages for Luigi: ``luigi --module pipeline Submit``."""

import sys
from pathlib import Path

from pipeline import failures as failures  # its event handlers print why a stage failed, in notebooks too
from pipeline.config import forget_projects as forget_projects
from pipeline.tasks import (
    BuildEnsemble as BuildEnsemble,
    CompareBackbones as CompareBackbones,
    ExtractFeatures as ExtractFeatures,
    ExtractSplit as ExtractSplit,
    FindDuplicates as FindDuplicates,
    IndexImages as IndexImages,
    PredictRows as PredictRows,
    Submit as Submit,
    TrainBag as TrainBag,
    TrainConvNets as TrainConvNets,
    TrainHeads as TrainHeads,
    WriteReport as WriteReport,
    WriteSubmission as WriteSubmission,
)

# Luigi imports this package while it parses its command line: the last moment before it schedules anything.
if Path(sys.argv[0]).stem == "luigi" or Path(sys.argv[0]).parts[-2:] == ("luigi", "__main__.py"):
    from pipeline.startup_checks import validate_command_line

    validate_command_line(sys.argv[1:])
