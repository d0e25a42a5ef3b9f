"""Temperature scaling: how sure probabilities should be of themselves, by the loss of rows that weren't trained on.

After Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. NumPy and SciPy only.
"""

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]

_LOWEST, _HIGHEST = 0.1, 100.0  # discriminant analysis of few rows is some 20 times too sure


def tempered_losses(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    prior: npt.NDArray[np.floating] | float,
    temperature: float,
) -> Float64s:
    """Return (n,) cross-entropies of softmax(logits / temperature + prior) with (n,) `labels`.

    Args:
        logits: (n, C).
        labels: class indices.
        prior: (n, C), or 0; logarithms that the temperature doesn't touch.
        temperature: above 0.
    """
    scores = logits / temperature + prior
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels], np.float64)


def best_temperature(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], prior: npt.NDArray[np.floating] | float = 0.0
) -> float:
    """Return the temperature of the lowest mean loss, between 0.1 and 100; 1 for no rows."""
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    found = minimize_scalar(
        lambda power: float(tempered_losses(logits, labels, prior, np.exp(power)).mean()),
        bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded", options={"xatol": 1e-3},
    )  # fmt: skip
    return float(np.exp(found.x))
