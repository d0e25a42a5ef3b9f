import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights."""
    folder = os.environ.get("FEATCACHE_SHARED")
    if not folder:
        pytest.skip("FEATCACHE_SHARED is not set")
    return Path(folder)
