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


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small project that has run once, for tests that change copies of it."""
    from projects import small_project  # Luigi, which most tests do without

    project = small_project(tmp_path_factory.mktemp("finished"))
    project.run()
    assert project.succeeded
    return project
