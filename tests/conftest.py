import os
import shutil
from pathlib import Path

import pytest

# files of few tests that take long: at the end, where xdist puts them by itself, one worker would wait for the other
LONG = (
    "documentation",
    "luigid",
    "cluster_stages",
    "cluster",
    "interrupts",
    "kills",
    "memory",
    "keras_settings",
    "second_run",
)


def pytest_collection_modifyitems(items):
    """Long files first; see `test` in the Makefile."""
    order = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights."""
    folder = os.environ.get("FEATCACHE_SHARED")
    if not folder:
        pytest.skip("FEATCACHE_SHARED is not set")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """What a power loss leaves is told by recorded calls (`crash_states`): no test needs the bytes on the disk itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small project that has run once, for tests that change copies of it."""
    from projects import small_project  # Luigi, which most tests do without

    project = small_project(tmp_path_factory.mktemp("finished"))
    project.run()
    assert project.succeeded
    return project


@pytest.fixture(scope="module")
def numpy_backbone():
    """The module's `runs` compute features without TensorFlow, whose import is most of what they cost; see `numpy_run`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMPY_BACKBONE", "1")
        yield


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A project that has run once with its report: a wrong label, copies, a damaged file, and names that want to be HTML."""
    import report_data

    return report_data.reported_project(tmp_path_factory.mktemp("reported"))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, one for all tests; Playwright's own browsers are a download that CI can't make."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield opened
        opened.close()
