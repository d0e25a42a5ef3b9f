"""The set of labels with the highest expected F1 of a row, by its probabilities alone. NumPy only.

Labels are taken to be independent given the image, so that the best set of k labels is the k most probable ones, and only k
is to be found (Ye, Chai, Lee and Chieu, "Optimizing F-measure: A Tale of Two Approaches", ICML 2012). Nothing is fitted.
"""

import numpy as np
import numpy.typing as npt

from featcache.training import Float64s, row_parts

_MOST = 64  # labels a row is given at most, and the most probable others that count


def best_sets(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
    """Return (n, L) int8 of 0 and 1, one label a row at least.

    Example:
        >>> best_sets(np.array([[0.9, 0.4, 0.1], [0.9, 0.6, 0.1], [0.2, 0.1, 0.1]])).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    given = np.zeros(probabilities.shape, np.int8)
    for part in row_parts(len(given), probabilities.shape[1] * (_MOST + 1)):
        own = probabilities[part].astype(np.float64)
        order = np.argsort(-own, axis=1, kind="stable")[:, : 2 * _MOST]
        counts = _best_counts(np.take_along_axis(own, order, axis=1))
        chosen = np.arange(order.shape[1]) < counts[:, None]
        np.put_along_axis(given[part], order, chosen.astype(np.int8), axis=1)
    return given


def _best_counts(ranked: Float64s) -> npt.NDArray[np.intp]:
    """(n,) how many labels, one at least, of (n, L) probabilities in descending order have the highest expected F1."""
    rows, labels = ranked.shape
    most = min(labels, _MOST)
    rest = [np.ones((rows, 1))]  # how many of the last ones are there: of none, of one, ...
    for label in range(labels - 1, 0, -1):
        rest.append(_one_more(rest[-1], ranked[:, label]))
    first, expected = np.ones((rows, 1)), np.empty((rows, most))
    for count in range(1, most + 1):
        first = _one_more(first, ranked[:, count - 1])
        others = rest[labels - count]
        hits, more = np.arange(count + 1)[:, None], np.arange(others.shape[1])
        expected[:, count - 1] = np.einsum(
            "nh,hm,nm->n", first, 2 * hits / (count + hits + more), others, optimize=True
        )
    return np.asarray(expected.argmax(axis=1) + 1)


def _one_more(counts: Float64s, probability: Float64s) -> Float64s:
    """(n, k + 1) the distribution of how many of k labels are there, from that of one label less and its probability."""
    longer = np.zeros((len(counts), counts.shape[1] + 1))
    longer[:, :-1] = counts * (1 - probability)[:, None]
    longer[:, 1:] += counts * probability[:, None]
    return longer
