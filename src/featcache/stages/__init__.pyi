from .comparison import compare_backbones as compare_backbones
from .convnets import train_convnets as train_convnets
from .duplicates import find_duplicates as find_duplicates
from .ensemble import build_ensemble as build_ensemble
from .features import (
    extract_split as extract_split,
    finish_features as finish_features,
    index_images as index_images,
    resolve_features as resolve_features,
)
from .heads import train_bag as train_bag, train_bags as train_bags
from .predictions import predict_rows as predict_rows
from .remembering import remember_run as remember_run
from .repair import exit_code as exit_code, repair_lines as repair_lines, repair_records as repair_records
from .report import write_report as write_report
from .submission import write_submission as write_submission
from .workers.client import close_workers as close_workers, connect as connect
