"""Stages run by a program that goes on afterwards, such as a notebook: no luigi.cfg is read, and errors are raised."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import luigi
from luigi.configuration import LuigiConfigParser
from luigi.setup_logging import InterfaceLogging
from luigi.task_register import Register

from featcache.core.keras_import import check_keras
from featcache.errors import FeatcacheError
from featcache.project import LOG_NAME, Project
from featcache.stages import close_workers
from pipeline.config import forget_projects, keep_project
from pipeline.failures import collected_failures
from pipeline.stage import Stage
from pipeline.startup_checks import LOGGED, keep_log, set_defaults

_RUNNING = threading.Lock()


def run_stage(project: Project, stage: str = "Submit", *, quiet: bool = False) -> None:
    """Run a stage and whatever it needs, in this process, one run at a time.

    It is what ``luigi --module pipeline STAGE`` runs with the same settings; an interrupt leaves what Ctrl-C leaves there.

    Raises:
        FeatcacheError: why a stage failed; of the class of the tree in `featcache.errors` that it was.
    """
    if not _RUNNING.acquire(blocking=False):
        raise FeatcacheError("another run is at work in this process: wait for its end, or interrupt it")
    try:
        with _own_luigi(project, quiet=quiet), collected_failures() as failures:
            check_keras()
            keep_project(project)
            outcome = luigi.build([Stage.known[stage]()], local_scheduler=True, detailed_summary=True, workers=1)
    finally:
        close_workers()
        forget_projects()
        Register.clear_instance_cache()
        _RUNNING.release()
    if failures:
        error, line = failures[0]
        if isinstance(error, FeatcacheError):
            raise type(error)(line) from None  # what came before is Luigi's, and in the log
        raise FeatcacheError(line) from error
    if not outcome.scheduling_succeeded or outcome.status.name != "SUCCESS":
        raise FeatcacheError(f"{stage} didn't run to its end: {project.folder / LOG_NAME} says why")


@contextmanager
def _own_luigi(project: Project, *, quiet: bool) -> Iterator[None]:
    """Luigi with our settings of it alone, and its log in the project's folder; afterwards all is as it was."""
    before, raising = LuigiConfigParser._instance, logging.raiseExceptions
    loggers = [logging.getLogger(name) for name in LOGGED]
    kept = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    own = LuigiConfigParser()
    own.set("worker", "no_install_shutdown_handler", "true")  # only the main thread could
    own.set("output", "quiet", str(quiet).lower())
    LuigiConfigParser._instance = own  # type: ignore[assignment]  # it is None at first
    Register.clear_instance_cache()
    configured, InterfaceLogging._configured = InterfaceLogging._configured, True  # or Luigi would log to the screen
    try:
        set_defaults()
        keep_log(project.folder)
        yield
    finally:
        LuigiConfigParser._instance, InterfaceLogging._configured = before, configured
        logging.raiseExceptions = raising
        logging.captureWarnings(False)
        for logger, handlers, level, propagate in kept:
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
