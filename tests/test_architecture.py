"""Imports go one way, slow packages stay out of scheduling, and the words of docs/architecture.md are those of the code."""

import ast
import configparser
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent

# Each package may import those above it that are named here; `errors` and `_version` stand for themselves.
MAY_IMPORT = {
    "core": "",
    "settings": "core",
    "dataset": "core settings",
    "cache": "core",
    "features": "core settings dataset cache",
    "training": "core settings dataset",
    "ensemble": "core settings training",
    "project": "core settings dataset cache features training ensemble",
    "inspection": "core settings dataset cache features training ensemble project",
    "report": "core settings dataset cache training ensemble project inspection",
    "stages": "core settings dataset cache features training ensemble project inspection report inference",
    "inference": "core settings dataset cache features training ensemble project",
    "cli": "core settings cache project inspection report stages inference",
    "pipeline": "core settings project inspection stages",
    "api": "core settings dataset cache features ensemble project inspection inference",
}
# What a package must never know, at the top of a module or inside a function.
NEVER = {
    "core": {"PIL", "dask", "h5py", "luigi", "sklearn", "tensorflow"},  # keras_import alone imports keras
    "settings": {"keras", "tensorflow", "h5py", "luigi"},
    "dataset": {"keras", "tensorflow", "h5py", "luigi"},
    "cache": {"keras", "tensorflow", "luigi"},
    "features": {"luigi", "sklearn"},
    "training": {"luigi", "dask"},
    "ensemble": {"keras", "tensorflow", "h5py", "dask", "luigi"},
    "project": {"luigi", "rich"},
    "inspection": {"luigi"},
    "report": {"keras", "tensorflow", "luigi"},
    "stages": {"luigi", "rich"},
    "inference": {"luigi"},
    "cli": {"keras", "tensorflow", "luigi"},
    "api": {"keras", "tensorflow", "luigi", "sklearn"},
}
KNOW_PROJECTS = {"project", "stages", "inspection", "report", "inference", "cli", "pipeline", "api"}
RUNS_STAGES = "api/running"  # alone imports `pipeline`, and when something is to be run
# What is imported under another name than it is installed by.
INSTALLED_AS = {"PIL": "pillow", "keras_hub": "keras-hub", "pillow_heif": "pillow-heif", "sklearn": "scikit-learn"}
# Other backends of Keras, which only KERAS_BACKEND asks for; and a peer that is run in an environment of its own.
ELSEWHERE = {"jax", "torch", "autogluon"}
# The only modules that import Keras at their top; they are loaded inside a stage's `run()`.
KERAS = {
    "features/backbone",
    "features/hub",
    "features/network",
    "features/network_weights",
    "features/self_check",
    "features/side_by_side",
    "inference/keras_model",
    "inference/keras_resizing",
    "training/convnet/model",
    "training/convnet/trainer",
    "training/heads/keras_engine",
    "training/heads/keras_models",
}
# Of packages' faces: what is there for people, whether or not featcache itself takes it from there.
PUBLIC: dict[str, set[str]] = {"cli": {"main"}, "api": {"encode", "fit", "load_project", "FittedProject"}}
DASK = {"cache/dask_arrays"}
SLOW = {"tensorflow", "keras", "jax", "torch", "sklearn", "pandas", "pyarrow", "dask", "xarray", "scipy"}


def modules():
    """Every module: its file, its package (the folder at the top), and its name below the root."""
    for root in (ROOT / "src/featcache", ROOT / "pipeline"):
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).with_suffix("").as_posix()
            yield path, "pipeline" if root.name == "pipeline" else name.partition("/")[0], name


MODULES = list(modules())
EACH_MODULE = pytest.mark.parametrize(
    ("path", "package", "name"), MODULES, ids=[f"{package}:{name}" for _, package, name in MODULES]
)


@cache
def imports(path, top_level_only=False):
    """Every module and every name of a module that is imported, also `face.name` of a face imported as a module."""
    tree = ast.parse(path.read_text())
    found, faces = [], set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            faces |= {alias.name for alias in node.names} if node.module == "featcache" else set()
    for node in ast.walk(tree) if not top_level_only else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in faces:
            found.append(f"featcache.{node.value.id}.{node.attr}")
    return found


def face(package):
    """What a package's `__init__` exports."""
    stub = ast.parse((ROOT / "src/featcache" / package / "__init__.pyi").read_text())
    return {alias.asname for node in stub.body for alias in node.names}


def test_the_top_holds_packages_and_little_else():
    top = {path.name for path in (ROOT / "src/featcache").iterdir()} - {"__pycache__"}
    assert top == {"__init__.py", "_version.py", "errors.py", "py.typed", *MAY_IMPORT} - {"pipeline"}


@EACH_MODULE
def test_a_package_imports_those_that_it_may_and_only_what_they_export(path, package, name):
    for module in imports(path):
        root, _, rest = module.partition(".")
        other, _, inside = rest.partition(".")
        assert root != "pipeline" or package == "pipeline" or name == RUNS_STAGES, f"{name} imports {module}"
        if root != "featcache" or other in ("", package, "errors", "_version", "__version__"):
            continue
        assert package in MAY_IMPORT or name == "__init__", f"{name}: give {package} its line in MAY_IMPORT"
        if name == "__init__":  # featcache.open
            continue
        assert other in MAY_IMPORT[package].split(), f"{package} may not import {other}: {name} imports {module}"
        assert other == "core" or not inside or inside in face(other), (
            f"{name} imports {module} past {other}/__init__.pyi"
        )


@EACH_MODULE
def test_a_package_never_knows_what_is_none_of_its_business(path, package, name):
    known = {module.split(".")[0] for module in imports(path)}
    assert not known & NEVER.get(package, set()), name
    if package not in KNOW_PROJECTS:
        assert not {"featcache.project", "featcache.project.Project"} & set(imports(path)), name


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - {"core", "pipeline"}))
def test_what_a_package_exports_is_there_and_is_used(package):
    """A name that nobody else takes is no business of the face; [Keras] modules are not loaded for this."""
    others = [path for path, mine, _ in MODULES if mine != package]
    taken = {module for path in others for module in imports(path)}
    unused = {name for name in face(package) if f"featcache.{package}.{name}" not in taken}
    assert not unused - PUBLIC.get(package, set())
    for node in ast.parse((ROOT / "src/featcache" / package / "__init__.pyi").read_text()).body:
        source = (ROOT / "src/featcache" / package / node.module.replace(".", "/")).with_suffix(".py")
        names = {made for statement in ast.parse(source.read_text()).body for made in defined(statement)}
        assert {alias.name for alias in node.names} <= names, f"{source} defines them not"


def defined(statement):
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - {"pipeline"}))
def test_modules_of_a_package_import_each_other_in_no_circle(package):
    prefix = f"featcache.{package}."
    graph = {
        prefix + name.partition("/")[2].replace("/", "."): {
            module for module in imports(path, top_level_only=True) if module.startswith(prefix)
        }
        for path, mine, name in MODULES
        if mine == package
    }
    while leaves := [name for name, wanted in graph.items() if not wanted & graph.keys() - {name}]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these import each other in a circle: {sorted(graph)}"


@EACH_MODULE
def test_slow_packages_are_imported_where_they_are_used(path, package, name):
    slow = {module.split(".")[0] for module in imports(path, top_level_only=True)} & SLOW
    allowed = {"keras", "tensorflow"} if name in KERAS else {"dask", "xarray"} if name in DASK else set()
    assert slow <= allowed


def test_only_the_disk_layer_changes_the_disk():
    forbidden = {"pwrite", "pwritev", "fsync", "replace", "rename", "unlink"}
    for path, _, name in MODULES:
        if name == "core/disk":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.func if isinstance(node, ast.Call) else None
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "os":
                assert call.attr not in forbidden, f"{path}:{node.lineno} calls os.{call.attr}"


@pytest.mark.parametrize(
    "statement",
    ["import pipeline", "import featcache.cli", "import featcache; featcache.open", "import featcache; featcache.fit"],
)
def test_scheduling_and_the_command_line_start_without_slow_packages(statement):
    program = f"import sys; {statement}; print(sorted(set(sys.modules) & {SLOW!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_featcache_itself_imports_nothing_but_its_errors():
    top = {name for name in imports(ROOT / "src/featcache/__init__.py", top_level_only=True) if "." in name}
    assert {name for name in top if name.startswith("featcache")} == {
        *("featcache._version", "featcache._version.__version__", "featcache.errors", "featcache.errors.FeatcacheError")
    }
    assert not {
        name for name in imports(ROOT / "src/featcache/api/running.py", top_level_only=True) if "pipeline." in name
    }


def test_every_package_stands_in_docs_architecture():
    words = (ROOT / "docs/architecture.md").read_text()
    assert [package for package in MAY_IMPORT if f"`{package}`" not in words] == []


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("src", "pipeline", "examples"), ("heif", "hub")),
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
        names = {name.partition(".")[0] for name in imports(path)} - own - sys.stdlib_module_names - ELSEWHERE
        missing = {INSTALLED_AS.get(name, name) for name in names} - declared
        assert not missing, f"{path} imports {', '.join(sorted(missing))}, which setup.cfg doesn't require"


def test_setup_cfg_installs_every_package():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = parser["options"]["packages"].split()
    folders = [path.parent for root in ("src", "pipeline") for path in (ROOT / root).rglob("__init__.py")]
    found = [".".join(folder.relative_to(ROOT).parts).removeprefix("src.") for folder in folders]
    assert sorted(found) == listed
