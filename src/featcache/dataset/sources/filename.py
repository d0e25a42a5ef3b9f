"""Images whose labels are in the names of their files: ``cat.0.jpg``."""

import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.texts import PackedTexts
from featcache.dataset.natural_sort import natural_order
from featcache.dataset.sources.labels import as_lines
from featcache.dataset.sources.table import TableSource
from featcache.errors import SourceError


class FilenameSource(TableSource):
    """Lists the images whose location a pattern is found in, in natural order; a row's id is its location."""

    _unnamed = "images whose names [Dataset] pattern doesn't match"

    @property
    def where(self) -> str:
        """What messages call the place of labels."""
        return f"{self.path}: [Dataset] pattern={self.spec.pattern!r}"

    def _training(self, locations: Any, among: npt.NDArray[np.intp], left_out: Counter[str]) -> tuple[Any, Any]:
        import pyarrow as pa

        pattern, found = re.compile(self.spec.pattern), []
        labels, groups = PackedTexts(), PackedTexts()
        order = natural_order(locations.take(among).to_pylist())
        for row in among[order].tolist():
            match = pattern.search(locations[row].as_py())
            if match and match["label"]:
                found.append(row)
                labels.append(match["label"])
                groups.append(match.groupdict().get("group") or "")
        if not found:
            first = f", such as {locations[0].as_py()!r}" if len(locations) else ""
            raise SourceError(f"{self.where} is in none of {len(among):,} images' names{first}: correct it")
        texts = (pa.array(column, pa.large_string()) for column in (labels, groups))
        return as_lines(locations.take(found), *texts), np.array(found)
