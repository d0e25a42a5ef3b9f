from .columns import layout_of as layout_of, submission_format as submission_format
from .combination import (
    Clip as Clip,
    Combination as Combination,
    submission_clip as submission_clip,
)
from .ensemble import Ensemble as Ensemble
from .sample_submission import (
    check_forms as check_forms,
    find_sample as find_sample,
    match_ids as match_ids,
    read_sample as read_sample,
)
from .selection import (
    BEST_SINGLE as BEST_SINGLE,
    ENSEMBLE as ENSEMBLE,
    MAJORITY as MAJORITY,
    baseline_records as baseline_records,
    judged_baseline as judged_baseline,
    judged_members as judged_members,
    judged_singles as judged_singles,
    metric_members as metric_members,
    metric_rows as metric_rows,
    score_record as score_record,
    select_ensemble as select_ensemble,
)
from .submission import write_submission_file as write_submission_file
