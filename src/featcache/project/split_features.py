"""One split and copy as all backbones see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import Reader, Status, checked_cache
from featcache.project.project import Project


@dataclass(frozen=True, eq=False)
class SplitFeatures:
    """The n rows of one split and copy.

    Attributes:
        reader: the first backbone's cache, for what all have in common: ids, labels, groups, classes.
        features: tap name, as inputs have it -> (n, ...) float16, of all backbones.
        usable: (n,) whether every backbone has features of the row.
    """

    reader: Reader
    features: Mapping[str, npt.NDArray[Any]]
    usable: npt.NDArray[np.bool_]


def split_features(project: Project, split: str, copy: int) -> SplitFeatures:
    """Open the checked caches of one split and copy.

    Raises:
        CacheFormatError: one is absent or damaged.
    """
    readers = [checked_cache(backbone.cache(split, copy).path) for backbone in project.backbones]
    features = {
        backbone.input_name(tap): each
        for backbone, reader in zip(project.backbones, readers, strict=True)
        for tap, each in reader.features.items()
    }
    usable = np.logical_and.reduce([reader.status == Status.OK for reader in readers])
    return SplitFeatures(readers[0], features, usable)
