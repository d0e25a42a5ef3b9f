"""Imports go one way, slow packages stay out of scheduling, and the words of docs/architecture.md are those of the code."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent

# From the floor upwards; a module may import its own layer and those below it.
LAYERS = [
    {"_version", "errors", "machine"},
    {
        "keys",
        "names",
        "paths",
        "csv_files",
        "startup",
        "disk",
        "progress",
        "policies",
        "scoring",
        "schedules",
        "texts",
        "tables",
        "streams",
        "member_tables",
        "scratch",
    },
    {"terminal"},
    {"meter"},
    {"rows", "records", "specs", "cluster_spec", "folder_lock", "sample", "luigi_sections"},
    {"settings", "augment", "precision", "architectures", "download"},
    {"sources", "cache", "weights"},
    {
        "network_weights",
        "presets",
        "convnet_plan",
        "folds",
        "parts",
        "pixels",
        "predictions",
        "columns",
        "combination",
        "prediction_file",
    },
    {
        "network",
        "extraction",
        "bags",
        "bag_file",
        "ensemble",
        "ensemble_search",
        "submission",
        "feature_space",
        "artifact",
    },
    {"backbone", "overlap", "batches", "judging", "convnet_folder"},
    {"extract", "logistic", "stacked", "descent", "convnet"},
    {"training", "linear", "convnet_training"},
    {"heads", "project", "curves"},
    {"resolved"},
    {"worker"},
    {"cluster", "flight", "local_workers"},
    {"block_jobs"},
    {"set_aside", "members", "summary", "describe", "configuration"},
    {"leaderboard"},
    {"report"},
    {"stages", "staleness"},
    {"status", "verify", "doctor", "explore"},
    {"repair", "space", "export", "plan", "serving"},
    {"resizing"},
    {"joined_model"},
    {"pack", "predict", "export_model"},
    {"commands"},
    {"cli"},
]
# What is imported under another name than it is installed by.
INSTALLED_AS = {"PIL": "pillow", "pillow_heif": "pillow-heif", "sklearn": "scikit-learn"}
OTHER_BACKENDS = {"jax", "torch"}  # of Keras; nothing asks for them unless KERAS_BACKEND does
KERAS = {
    "backbone",
    "network",
    "network_weights",
    "heads",
    "stacked",
    "convnet",
    "convnet_training",
    "resizing",
    "joined_model",
}
SLOW = {"tensorflow", "keras", "jax", "torch", "sklearn", "pandas", "dask", "xarray", "scipy"}


def modules():
    for path in sorted((ROOT / "src/featcache").rglob("*.py")):
        yield path, path.relative_to(ROOT / "src/featcache").with_suffix("").parts[0]


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree)
    if top_level_only:
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(room):
    return next((i for i, layer in enumerate(LAYERS) if room in layer), None)


@pytest.mark.parametrize(("path", "room"), list(modules()), ids=lambda value: getattr(value, "stem", value))
def test_imports_go_one_way(path, room):
    if room == "__init__":
        return
    assert level(room) is not None, f"{room} has no layer: give it one here and in docs/architecture.md"
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] != "pipeline", f"{path} imports {name}"
        if parts[0] == "featcache" and len(parts) > 1 and level(parts[1]) is not None:
            assert level(parts[1]) <= level(room), f"{room} imports {parts[1]}, which stands above it"


@pytest.mark.parametrize(("path", "room"), list(modules()), ids=lambda value: getattr(value, "stem", value))
def test_slow_packages_are_imported_where_they_are_used(path, room):
    slow = {name.split(".")[0] for name in imports(path, top_level_only=True)} & SLOW
    allowed = (
        {"keras", "tensorflow"}
        if room in KERAS
        else {"dask", "xarray"}
        if path.stem in ("lazy", "feature_space")
        else set()
    )
    assert slow <= allowed


@pytest.mark.parametrize("room", ["cache", "sources"])
def test_the_cache_knows_nothing_of_keras_and_luigi(room):
    for path in (ROOT / "src/featcache" / room).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"keras", "tensorflow", "luigi"}


def test_only_the_disk_layer_changes_the_disk():
    forbidden = {"pwrite", "pwritev", "fsync", "replace", "rename", "unlink"}
    for path, room in modules():
        if room == "disk":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.func if isinstance(node, ast.Call) else None
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "os":
                assert call.attr not in forbidden, f"{path}:{node.lineno} calls os.{call.attr}"


@pytest.mark.parametrize(
    "statement", ["import pipeline", "import featcache.cli", "import featcache; featcache.open"]
)
def test_scheduling_and_the_command_line_start_without_slow_packages(statement):
    program = f"import sys; {statement}; print(sorted(set(sys.modules) & {SLOW!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_module_stands_in_docs_architecture():
    words = (ROOT / "docs/architecture.md").read_text()
    for _, room in modules():
        if not room.startswith("_"):
            assert f"`{room}" in words or f"`{room}/`" in words, f"{room} is not in docs/architecture.md"


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("src", "pipeline", "examples"), ("heif", "pack")),
        (("tests",), ("dev", "fuzz")),
        (("benchmarks",), ("dev", "bench", "fuzz")),
        (("docs",), ("dev", "docs")),
    ],
    ids=lambda value: value[0],
)
def test_every_package_that_is_imported_is_required(folders, extras):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = [parser["options"]["install_requires"], *(parser["options.extras_require"][name] for name in extras)]
    required = [Requirement(line) for text in texts for line in text.split("\n") if line.strip()]
    declared = {name for requirement in required for name in (requirement.name, *requirement.extras)}
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    own = {"featcache", "pipeline", "tests", "benchmarks"}
    own |= {path.stem for folder in {*folders, "tests", "benchmarks", "docs"} for path in (ROOT / folder).rglob("*.py")}
    for path in paths:
        names = {name.partition(".")[0] for name in imports(path)} - own - sys.stdlib_module_names - OTHER_BACKENDS
        missing = {INSTALLED_AS.get(name, name) for name in names} - declared
        assert not missing, f"{path} imports {', '.join(sorted(missing))}, which setup.cfg doesn't require"


def test_setup_cfg_installs_every_package():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = parser["options"]["packages"].split()
    folders = [path.parent for root in ("src", "pipeline") for path in (ROOT / root).rglob("__init__.py")]
    found = [".".join(folder.relative_to(ROOT).parts).removeprefix("src.") for folder in folders]
    assert sorted(found) == listed
