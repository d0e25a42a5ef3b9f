from .artifact import Artifact as Artifact
from .backbone_features import BackboneFeatures as BackboneFeatures
from .comparison import comparison_artifact as comparison_artifact, comparison_project as comparison_project
from .config_edit import change_config as change_config
from .config_file import (
    config_files as config_files,
    config_text as config_text,
    configured_project as configured_project,
    configured_sections as configured_sections,
    file_sections as file_sections,
    open_project as open_project,
    overridden as overridden,
)
from .duplicates import (
    TwinGroup as TwinGroup,
    fold_digests as fold_digests,
    groups_of as groups_of,
    twin_groups as twin_groups,
    twins_summary as twins_summary,
    unlike_record as unlike_record,
)
from .flow import (
    NEEDS as NEEDS,
    check_pipeline as check_pipeline,
    final_stages as final_stages,
    needs as needs,
    stage_title as stage_title,
)
from .members import (
    out_of_fold as out_of_fold,
    split_predictions as split_predictions,
)
from .project import COMPARE as COMPARE, LOG_NAME as LOG_NAME, Project as Project
from .rejected_rows import (
    REJECTED_CSV as REJECTED_CSV,
    SplitRows as SplitRows,
    check_usable as check_usable,
    found_notices as found_notices,
    keeping_reasons as keeping_reasons,
    kept_reasons as kept_reasons,
    notices as notices,
    rejected_csv as rejected_csv,
    rejection_reason as rejection_reason,
    usable_rows as usable_rows,
)
from .remembered_runs import (
    ROWS_FILE as ROWS_FILE,
    RUN_FILE as RUN_FILE,
    RUNS as RUNS,
    RememberedRows as RememberedRows,
    RememberedRun as RememberedRun,
    find_run as find_run,
    last_run as last_run,
    remembered_runs as remembered_runs,
    run_artifact as run_artifact,
    run_folder as run_folder,
)
from .resolved import (
    backbone_with_maps as backbone_with_maps,
    device_of as device_of,
    image_loader as image_loader,
    resolved_backbone as resolved_backbone,
    resolved_weights as resolved_weights,
)
from .split_features import SplitFeatures as SplitFeatures, split_features as split_features
from .unlike import (
    FAR as FAR,
    SeenImages as SeenImages,
    channel_means as channel_means,
    familiarity as familiarity,
    farther_than as farther_than,
    unit_rows as unit_rows,
)
