"""The package `pipeline`, imported when something is to be run, and only if it is featcache's own."""

from importlib.util import find_spec
from pathlib import Path

from featcache.errors import SettingsError
from featcache.project import Project


def run_stage(project: Project, stage: str, *, quiet: bool) -> None:
    """Run a stage and whatever it needs; a `FeatcacheError` says why it failed."""
    check_pipeline()
    from pipeline.in_process import run_stage as run

    run(project, stage, quiet=quiet)


def check_pipeline() -> None:
    """Raise a `SettingsError` where another module of the name is found before the stages; it isn't imported."""
    found = find_spec("pipeline")
    if found is None:
        raise SettingsError("featcache's stages, the package pipeline, are missing: install featcache again")
    folders = found.submodule_search_locations or ()
    if not any((Path(folder) / "startup_checks.py").is_file() for folder in folders):
        where = found.origin or next(iter(folders), "a module pipeline")
        raise SettingsError(f"{where} is in the way of featcache's package pipeline: rename it, or start elsewhere")
