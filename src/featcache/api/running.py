"""The package `pipeline`, imported when something is to be run, and only if it is featcache's own."""

import configparser

from featcache.errors import SettingsError
from featcache.project import Project, check_pipeline


def run_stage(project: Project, stage: str, *, quiet: bool) -> None:
    """Run a stage and whatever it needs; a `FeatcacheError` says why it failed."""
    check_pipeline()
    try:
        from pipeline.in_process import run_stage as run
    except configparser.Error as error:
        fault = " ".join(str(error).split())
        raise SettingsError(
            f"luigi.cfg, which Luigi opens when it is imported: {fault}: correct it or start elsewhere"
        ) from error

    run(project, stage, quiet=quiet)
