"""What must be settled before Luigi schedules: its defaults, every setting, the log file.

A mistake in luigi.cfg or on the command line ends here in one line and exit status 2; Luigi would warn, say nothing,
or print its usage or a traceback.
"""

import contextlib
import difflib
import io
import logging
from pathlib import Path

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.task_register import Register, TaskClassNotFoundException

from featcache.disk import storage_errors
from featcache.errors import FeatcacheError, SettingsError
from featcache.project import LOG_NAME
from pipeline.config import check_configuration, current_project
from pipeline.screen import say

USAGE_EXIT = 2

# Where luigi.cfg doesn't say otherwise. Luigi's own exit status for failed tasks is 0.
DEFAULTS = {
    "core": {"local_scheduler": "true"},
    "worker": {"check_complete_on_run": "true"},
    "retcode": {
        "already_running": "10",
        "missing_data": "20",
        "not_run": "25",
        "task_failed": "30",
        "scheduling_error": "35",
        "unhandled_exception": "40",
    },
}


def prepare(arguments: list[str]) -> None:
    """Check everything that the user gave, then let Luigi go on; called while Luigi imports the stages.

    Args:
        arguments: Luigi's command line without the program's name.

    Raises:
        SystemExit: with status 2 after one line on standard error.
    """
    set_defaults()
    if {"--help", "--help-all"} & set(arguments):
        return
    try:
        check_configuration(stage_names())
        check_arguments(arguments)
        with CmdlineParser.global_instance(arguments, allow_override=True):
            folder = current_project().folder
            keep_log(folder)
    except FeatcacheError as error:
        say(f"featcache: {error}", "bold red", error=True)
        raise SystemExit(USAGE_EXIT) from None


def stage_names() -> set[str]:
    """The names of the stages and of Luigi's other tasks, as far as they are ours."""
    return {name for name in Register.task_names() if Register.get_task_cls(name).__module__ == "pipeline.tasks"}


def set_defaults() -> None:
    """Give Luigi its settings for our stages, each only where luigi.cfg has none."""
    configuration = luigi.configuration.get_config()
    for section, values in DEFAULTS.items():
        for key, value in values.items():
            if not configuration.has_option(section, key):
                configuration.set(section, key, value)


def check_arguments(arguments: list[str]) -> None:
    """Parse the command line as Luigi will, and turn its usage page or traceback into one line.

    Raises:
        SettingsError: an unknown stage or flag, or a flag without its value.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = CmdlineParser(arguments)
    except TaskClassNotFoundException:
        stage = next((word for word in arguments if not word.startswith("-") and word != "pipeline"), "")
        near = difflib.get_close_matches(stage, stage_names(), 1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else ""
        raise SettingsError(f"unknown stage {stage!r}{hint}; known: {', '.join(sorted(stage_names()))}") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        message = said.getvalue().strip().splitlines() or [str(stop.code)]
        raise SettingsError(f"{message[-1].partition('error: ')[2] or message[-1]}{_near_flag(arguments)}") from None
    _ = parser.known_args


def _near_flag(arguments: list[str]) -> str:
    """Suggest a flag for the first one that Luigi doesn't know."""
    known = {f"--{task}-{name}".replace("_", "-") for task, bare, name, _ in Register.get_all_params() if not bare}
    known |= {f"--{name}".replace("_", "-") for _, bare, name, _ in Register.get_all_params() if bare}
    known |= {"--rerun", "--split", "--copy", "--tap"}
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = next((flag for flag in flags if flag not in known), None)
    near = difflib.get_close_matches(unknown, known, 1) if unknown else None
    return f" (did you mean {near[0]}?)" if near else ""


def keep_log(folder: Path) -> None:
    """Send Luigi's log, tracebacks included, to ``<folder>/luigi.log``; the screen shows a line per stage.

    A ``logging_conf_file`` in luigi.cfg or on the command line stays in force instead.

    Raises:
        StorageError: the artifacts folder can't be written.
    """
    env = luigi.interface.core()
    if env.logging_conf_file:
        return
    with storage_errors(folder, "could not write to the artifacts folder"):
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / LOG_NAME, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    luigi.configuration.get_config().set("core", "no_configure_logging", "true")
    logging.captureWarnings(True)
    for name, level in (
        ("luigi-interface", env.log_level),
        ("luigi", env.log_level),
        ("featcache", "INFO"),
        ("py.warnings", "WARNING"),
    ):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
