"""What each stage does, as public functions free of Luigi: read files, work, write files, say in one line what came out.

Each takes the `Project`, which knows where artifacts are and which keys they carry, and tells a `Progress` how far it is.
Keras is imported only inside what really computes.
"""

from featcache.stages.convnets import predict_convnets, train_convnets
from featcache.stages.features import extract_split, finish_features, index_images, resolve_features
from featcache.stages.heads import train_bag, train_bags
from featcache.stages.members import predict_rows
from featcache.stages.report import write_report
from featcache.stages.results import build_ensemble, write_submission

__all__ = [
    "build_ensemble",
    "extract_split",
    "finish_features",
    "index_images",
    "predict_convnets",
    "predict_rows",
    "resolve_features",
    "train_bag",
    "train_bags",
    "train_convnets",
    "write_report",
    "write_submission",
]
