"""The package `pipeline`, imported when something is to be run, and only if it is featcache's own."""

from featcache.project import Project, check_pipeline


def run_stage(project: Project, stage: str, *, quiet: bool) -> None:
    """Run a stage and whatever it needs; a `FeatcacheError` says why it failed."""
    check_pipeline()
    from pipeline.in_process import run_stage as run

    run(project, stage, quiet=quiet)
