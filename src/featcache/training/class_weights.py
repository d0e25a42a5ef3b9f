"""What each row counts for in training where classes are uneven: heads, regressions and convnets alike. NumPy only."""

import numpy as np
import numpy.typing as npt


def class_weights(labels: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.float32]:
    """Return (classes,) what a row of each class counts for, so that all classes count the same; 0 for one without rows.

    It is scikit-learn's ``class_weight="balanced"``: rows / (classes that have rows x rows of the class), whose mean over
    the rows is 1.

    Args:
        labels: (n,) class indices of the rows that something is trained on, at least one.
        classes: how many there are.

    Example:
        >>> class_weights(np.array([0, 0, 0, 2]), 3).tolist()
        [0.6666666865348816, 0.0, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0).astype(np.float32)
