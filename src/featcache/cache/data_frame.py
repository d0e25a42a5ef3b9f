"""A cache's rows as a pandas data frame."""

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.cache.layout import Status
from featcache.core.rows import label_names

if TYPE_CHECKING:
    import pandas as pd

    from featcache.cache.reader import Reader


def frame(reader: "Reader") -> "pd.DataFrame":
    """Return one line a row, as `Reader.frame` says."""
    import pandas as pd

    words = np.array([status.text for status in Status], dtype=object)
    labels, labelled = np.array(reader.labels), dict[str, Any]()
    if reader.several:
        labelled["labels"] = [label_names(labels, row, reader.class_names) for row in range(len(reader))]
    else:
        names = np.array([*reader.class_names, None], dtype=object)
        labelled = {
            "label": labels,
            "class": names[np.where((labels >= 0) & (labels < len(names) - 1), labels, -1)],
        }
    columns = {
        "id": list(reader.ids),
        **labelled,
        "group": list(reader.groups),
        "status": words[np.minimum(reader.status, len(words) - 1)],
        "digest": list(reader.digests),
    }
    # pandas' own texts must be UTF-8, names of files need not be
    return pd.DataFrame(columns, dtype=object).astype({} if reader.several else {"label": np.int32})
