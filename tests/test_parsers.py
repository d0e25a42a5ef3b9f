"""What coverage-guided fuzzing found worth keeping, read again: featcache's own errors in one line, or nothing."""

import warnings

import parsers
import pytest

from featcache.errors import FeatcacheError


@pytest.mark.parametrize("name", parsers.TARGETS)
def test_inputs_that_fuzzing_kept_are_read_or_refused(name, tmp_path):
    target = parsers.TARGETS[name](tmp_path)
    kept = sorted((parsers.CORPUS / name).iterdir())
    assert kept
    refused = 0
    for content in [*target.seeds, *(path.read_bytes() for path in kept)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of images it was never meant to see
                target.read(content)
        except FeatcacheError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most are refused, some are read
            refused += 1
    assert 0 < refused < len(kept) + len(target.seeds), "some are refused and some are read"
