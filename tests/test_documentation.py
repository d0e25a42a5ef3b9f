"""Every command in README.md and docs/*.md is run, page by page, in order, on small data; what isn't says why, and is counted."""

import argparse
import functools
import gzip
import os
import re
import shutil
from collections import Counter

import pytest
from documented import KAGGLE, PAGES, ROOT, Reader, blocks, commands, here, small_vgg16
from projects import write_photos
from test_architecture import MAY_IMPORT

import featcache
from featcache.cli.app import build_parser
from featcache.dataset.sources import digits
from featcache.inspection.doctor import report
from featcache.settings.parsing import SECTIONS

RUN = ("bash", "python", "ini")
SHOWN = ("text", "{toctree}", "{include} ../benchmarks/RESULTS.md", "{include} ../CHANGELOG.md")

# Blocks that say that they aren't run, and why, in a comment above them: installing, servers, the network, other programs.
NOT_RUN = {
    "backbones.md": 1,
    "README.md": 1,
    "cli.md": 1,
    "gpu.md": 2,
    "inspecting.md": 1,
    "kaggle.md": 2,
    "scaling.md": 2,
    "tutorial.md": 1,
    "watching.md": 1,
}

# For speed alone: the pages' own settings and flags go before these where they name the same.
SMALL = """
[Heads]
preset = fast
hidden = 8
schedule = 1e-2x1
seeds = 1
folds = 2

[Report]
enabled = false
"""


def subparsers():
    actions = build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


@pytest.fixture(scope="module")
def finished_digits(tmp_path_factory):
    """A folder in which the main job has run on the first 150 digits, and the environment in which it did."""
    folder = tmp_path_factory.mktemp("documentation")
    rows = gzip.decompress(digits._data_file().read_bytes()).decode("ascii").splitlines(keepends=True)
    few = folder / "digits.csv.gz"
    few.write_bytes(gzip.compress("".join(rows[:150]).encode("ascii")))
    (folder / "small.cfg").write_text(SMALL)
    (folder / "bin").mkdir()
    (folder / "bin/kaggle").write_text(KAGGLE)
    (folder / "bin/kaggle").chmod(0o755)
    (folder / "start").mkdir()
    variables = {
        "LUIGI_CONFIG_PATH": str(folder / "small.cfg"),
        "KERAS_HOME": str(folder / "keras"),
        "FEATCACHE_WEIGHTS_URL": "http://127.0.0.1:9",  # refuses at once
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "_data_file", lambda: few)
        patch.setattr("featcache.features.network._application", small_vgg16)
        for name, value in variables.items():
            patch.setenv(name, value)
        with here(folder / "start"):
            Reader().type("luigi --module pipeline Submit")
        yield folder / "start"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_says_why_not(page):
    for block in blocks(page):
        assert block.language in RUN + SHOWN, f"{page.name}:{block.line}: which language is it?"
        if block.language in SHOWN:
            first = block.code.split()[:1]
            assert first not in (["featcache"], ["luigi"]), f"{page.name}:{block.line}: mark commands as bash"


def test_what_is_not_run_is_counted():
    marked = Counter(page.name for page in PAGES for block in blocks(page) if block.marked)
    assert dict(marked) == NOT_RUN


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in RUN for b in blocks(page))], ids=lambda page: page.stem
)
def test_what_a_page_says_works(page, finished_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "hardware_checks", lambda setting, progress: iter(()))  # seconds; test_doctor.py has it
    # `fit` reads no luigi.cfg; test_api.py and test_notebooks.py have reports
    few = {"preset": "fast", "hidden": 8, "schedule": "1e-2x1", "seeds": 1, "folds": 2, "report_enabled": False}
    monkeypatch.setattr(featcache, "fit", functools.partial(featcache.fit, **few), raising=False)
    monkeypatch.setattr(featcache.FittedProject, "report", lambda project: project.folder)
    folder = tmp_path / "page"
    shutil.copytree(finished_digits, folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    if page.name == "README.md":  # which is read in a clone
        shutil.copy(ROOT / "luigi.cfg", folder)
    write_photos(folder / "PHOTOS", train=4, test=2)
    shutil.copy(next(folder.glob("artifacts/digits/features/train-*.h5")), folder / "cache.h5")
    shutil.copy(folder / "PHOTOS/test/disc-0.png", folder / "a.jpg")  # decoders go by content
    reader = Reader()
    with here(folder):
        for block in blocks(page):
            if block.language in RUN and not block.marked:
                try:
                    reader.run(block)
                except BaseException as error:
                    error.add_note(f"{page.name}:{block.line}")
                    raise


def spans():
    """Page and `code` of everything that stands as code inside a sentence."""
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
            yield page.name, code


def test_commands_that_a_sentence_names_exist_with_their_flags():
    known = {name: set(parser._option_string_actions) for name, parser in subparsers().items()}
    for page, code in spans():
        command = re.match(r"featcache ([a-z][a-z-]*)(?= |$)", code)
        if command and code != "featcache feature cache":  # what a cache's attribute says
            assert command[1] in known, (page, code)
            assert set(re.findall(r" (--?[a-z][a-z-]*)", code)) <= known[command[1]], (page, code)


def test_settings_that_a_sentence_names_exist():
    for page, code in spans():
        named = re.findall(r"\[([A-Z]\w+)\] (\w+)|--([A-Z][A-Za-z]+)-([a-z-]+)|([A-Z]\w+)\.([a-z_]+)=", code)
        for section, key in ([part for part in parts if part] for parts in named):
            assert (section, key) == ("Section", "key") or key.replace("-", "_") in SECTIONS[section], (page, code)


def test_a_block_is_taken_apart_as_a_shell_would():
    assert commands("a \\\n  b   # why\n# all of it\n\nc '#x'\n") == ["a    b", "c '#x'"]


def test_one_image_is_followed_through_twenty_modules_that_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    walk = re.findall(r"^\d+\. `([^`]+)`:", page, re.M)
    assert 10 <= len(walk) <= 20
    assert len(set(walk)) == len(walk)
    assert [path for path in walk if not (ROOT / path).is_file()] == []


def named(cell):
    """The packages that a cell names, such as ``core, cache, project to inference`` or ``core to stages, but report``."""
    order, found = list(MAY_IMPORT), set()
    wanted, _, unwanted = cell.replace("`", "").replace("none", "").partition(" but ")
    for part in filter(None, map(str.strip, wanted.split(","))):
        first, _, last = part.partition(" to ")
        found |= set(order[order.index(first) : order.index(last or first) + 1])
    return found - {unwanted.strip()}


def test_the_architectures_table_is_that_of_the_imports():
    page = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]+)\|", page, re.M))
    assert {package: named(cell) for package, cell in rows.items()} == {
        package: set(may.split()) for package, may in MAY_IMPORT.items()
    }


def test_the_readme_fits_four_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


def test_links_between_pages_lead_somewhere():
    """Sphinx checks those of the site; this holds for README.md and the other pages that people read in the repository."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs/decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
