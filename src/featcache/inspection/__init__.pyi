from .cache_info import (
    cache_lines as cache_lines,
    cache_record as cache_record,
    listing as listing,
    listing_lines as listing_lines,
)
from .changed_defaults import changed_defaults as changed_defaults
from .comparison import comparison_lines as comparison_lines
from .cost_estimate import plan_lines as plan_lines, plan_record as plan_record
from .disk_usage import usage_lines as usage_lines, usage_record as usage_record, used_paths as used_paths
from .doctor.report import doctor_lines as doctor_lines, doctor_record as doctor_record, failed as failed
from .duplicates import (
    described_groups as described_groups,
    duplicates_lines as duplicates_lines,
    duplicates_record as duplicates_record,
    duplicates_summary as duplicates_summary,
    write_duplicates as write_duplicates,
)
from .feature_space import (
    component_scores as component_scores,
    nearest_rows as nearest_rows,
    principal_components as principal_components,
)
from .feature_stats import (
    neighbours_lines as neighbours_lines,
    neighbours_record as neighbours_record,
    pca_lines as pca_lines,
    pca_record as pca_record,
    stats_lines as stats_lines,
    stats_record as stats_record,
)
from .first_settings import first_settings as first_settings, init_lines as init_lines, init_record as init_record
from .gc import removal_lines as removal_lines, removal_record as removal_record
from .leaderboard import (
    compared as compared,
    leaderboard_lines as leaderboard_lines,
    leaderboard_record as leaderboard_record,
    score_names as score_names,
)
from .predictions_table import export_predictions as export_predictions
from .run_summary import summary as summary, summary_parts as summary_parts
from .runs import (
    compare_runs as compare_runs,
    forget_run as forget_run,
    runs_lines as runs_lines,
    runs_record as runs_record,
    use_lines as use_lines,
    use_run as use_run,
)
from .status import status_lines as status_lines, status_record as status_record, would_run as would_run
from .twins import (
    LEAST as LEAST,
    LEAST_DRAWN as LEAST_DRAWN,
    joined_rows as joined_rows,
    seen_taps as seen_taps,
    usable_units as usable_units,
)
from .verify.checks import CACHE as CACHE, SETTINGS as SETTINGS, UNKNOWN as UNKNOWN
from .verify.report import exit_code as exit_code, verify_lines as verify_lines, verify_records as verify_records
