"""Examples of heads that see one tap, called ``tap``, as it is."""

from featcache.training.heads.examples import Examples
from featcache.training.heads.inputs import HeadInput, stored_rows


def examples_of(copies, labels, parts, *more, **settings):
    """Examples of (n, ...) features, the plain ones first; see `Examples` for what comes after `parts`."""
    seen_as = HeadInput({"tap": copies[0].shape[1:]})
    values = [stored_rows(seen_as, {"tap": copy}, None) for copy in copies]
    return Examples(seen_as, values, labels, parts, *more, **settings)
