"""What must be settled before Luigi schedules: its defaults, every setting, the log file.

A mistake in luigi.cfg or on the command line ends here in one line and exit status 2; Luigi would warn, say nothing,
or print its usage or a traceback.
"""

import configparser
import contextlib
import difflib
import io
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import ParameterException
from luigi.retcodes import retcode
from luigi.task_register import Register, TaskClassNotFoundException

from featcache.core.console import say
from featcache.core.keras_import import check_keras
from featcache.core.streams import keep_going
from featcache.errors import FeatcacheError, SettingsError, StorageError
from featcache.project import LOG_NAME, configured_sections
from pipeline import tasks
from pipeline.config import current_project, keep_project, output
from pipeline.failures import SchedulingErrors, say_error, take_interrupts
from pipeline.flags import idle_flags, near_flag
from pipeline.help_page import usage_lines

USAGE_EXIT = 2
_ANSWER_SECONDS = 3.0
_STAGES = [name for name, kind in vars(tasks).items() if isinstance(kind, Register) and kind is not tasks.Stage]

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
        SystemExit: with status 2 after one line on standard error; with 0 after ``--help``.
    """
    keep_going()
    set_defaults()
    if "--help" in arguments:
        for line in usage_lines(stage_names()):
            say(line)
        raise SystemExit(0)
    if "--help-all" in arguments:
        return
    try:
        configured_sections()  # Luigi only warns of what is wrong in luigi.cfg, or says nothing
        with parsed(arguments):
            check_luigis_own()
            check_output()
            check_keras()
            keep_project(current_project())
            keep_log(current_project().folder)
            choose_scheduler(arguments)
            for line in idle_flags(arguments, current_project().settings):
                say(f"NOTICE: {line}", "bold yellow")
    except (FeatcacheError, configparser.Error) as error:
        say_error(" ".join(str(error).split()))
        raise SystemExit(USAGE_EXIT) from None
    take_interrupts()


def stage_names() -> list[str]:
    """The names of the stages that can be asked for, in the order they run; inner ones want to be told which part."""
    return [name for name in _STAGES if all(parameter.has_task_value(name, key) for key, parameter in _own(name))]


def _own(stage: str) -> list[tuple[str, luigi.Parameter]]:
    parameters: list[tuple[str, luigi.Parameter]] = Register.get_task_cls(stage).get_params()
    return parameters


def set_defaults() -> None:
    """Give Luigi its settings for our stages, each only where luigi.cfg has none; and never its lock."""
    configuration = luigi.configuration.get_config()
    for section, values in DEFAULTS.items():
        for key, value in values.items():
            if not configuration.has_option(section, key):
                configuration.set(section, key, value)
    # Luigi's lock knows a command by its words alone, whatever the folder, and keeps them where another user can't
    # write; stages lock the artifacts folder itself
    configuration.set("core", "no_lock", "true")


@contextlib.contextmanager
def parsed(arguments: list[str]) -> Iterator[None]:
    """Put the command line in force as Luigi will, and turn its usage page or traceback into one line.

    Raises:
        SettingsError: no stage, an unknown stage or flag, or a flag without its value.
    """
    said = io.StringIO()
    with contextlib.ExitStack() as in_force:
        try:
            with contextlib.redirect_stderr(said):
                in_force.enter_context(CmdlineParser.global_instance(arguments, allow_override=True))
        except TaskClassNotFoundException:
            stage = next((word for word in arguments if not word.startswith("-") and word != "pipeline"), "")
            near = difflib.get_close_matches(stage, stage_names(), 1, cutoff=0.5)
            hint = f", did you mean {near[0]}?" if near else ""
            raise SettingsError(f"unknown stage {stage!r}{hint}; known: {', '.join(stage_names())}") from None
        except SystemExit as stop:
            raise SettingsError(_usage_fault(said.getvalue() or str(stop.code), arguments)) from None
        try:
            CmdlineParser.get_instance().get_task_obj()
        except (ParameterException, ValueError) as error:
            if isinstance(error, FeatcacheError):
                raise
            raise SettingsError(f"{error}; luigi --module pipeline --help lists all") from None
        yield


def _usage_fault(said: str, arguments: list[str]) -> str:
    """What argparse or Luigi found wrong, and what to do."""
    if said.startswith("No task"):
        return f"expected a stage, e.g. luigi --module pipeline Submit; got none; known: {', '.join(stage_names())}"
    fault = said.strip().splitlines()[-1]
    return f"{fault.partition('error: ')[2] or fault}{near_flag(arguments)}; luigi --module pipeline --help lists all"


def check_luigis_own() -> None:
    """Refuse values in Luigi's own sections, or of its flags, that it would answer with a traceback or by doing nothing.

    Raises:
        SettingsError: one is of the wrong kind, or below 1 where nothing could run.
    """
    for config in (luigi.interface.core, luigi.worker.worker, luigi.scheduler.scheduler, retcode):
        try:
            config()
        except (ParameterException, ValueError) as error:
            key = str(error).split("'")[-2]
            raise SettingsError(f"[{config.__name__}] {key}: expected another value: {error.__cause__}") from error
    configuration, core = luigi.configuration.get_config(), luigi.interface.core()
    try:
        least = {f"[resources] {key}": count for key, count in configuration.getintdict("resources").items()}
    except ValueError as error:
        raise SettingsError(f"[resources]: expected whole numbers: {error}") from error
    for name, count in {"[core] workers": core.workers, **least}.items():
        if count < 1:
            raise SettingsError(f"{name}: expected at least 1, without which no stage can run; got {count}")


def check_output() -> None:
    """Refuse a run that is to be quiet and verbose.

    Raises:
        SettingsError: it is asked for both.
    """
    if output().quiet and output().verbose:
        raise SettingsError("[output]: expected quiet or verbose, or neither; got quiet=true and verbose=true")


def choose_scheduler(arguments: list[str]) -> None:
    """Naming a luigid on the command line means using it; one that doesn't answer is known before anything waits.

    Raises:
        SettingsError: nothing answers there; Luigi would try for minutes.
    """
    flags = {word.partition("=")[0] for word in arguments}
    if flags & {"--scheduler-host", "--scheduler-port", "--scheduler-url"} and "--local-scheduler" not in flags:
        luigi.configuration.get_config().set("core", "local_scheduler", "false")
    core = luigi.interface.core()
    if core.local_scheduler:
        return
    url = urlsplit(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")
    if url.scheme not in ("http", "https") or url.hostname is None:
        return  # a socket file, which Luigi knows how to reach
    try:
        socket.create_connection((url.hostname, url.port or 80), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"no luigid answers at {url.geturl()} ({error.strerror or error}): start it (luigid --port "
            f"{url.port or 80}), or leave out --scheduler-host and --scheduler-port and keep local_scheduler = true"
        ) from error


def keep_log(folder: Path) -> None:
    """Send Luigi's log, tracebacks included, to ``<folder>/luigi.log``; the screen shows a line per stage.

    With ``--verbose`` the screen shows that log, too. A ``logging_conf_file`` in luigi.cfg or on the command line stays in force instead.

    Raises:
        StorageError: the artifacts folder can't be written.
    """
    env = luigi.interface.core()
    if env.logging_conf_file:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handlers: list[logging.Handler] = [logging.FileHandler(folder / LOG_NAME, encoding="utf-8")]
    except OSError as error:
        told = f"[Paths] artifacts: {error.filename or folder} can't be written ({error.strerror})"
        raise StorageError(f"{told}: permit it, or choose another folder with --Paths-artifacts") from error
    handlers += [logging.StreamHandler()] if output().verbose else []
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    luigi.configuration.get_config().set("core", "no_configure_logging", "true")
    logging.raiseExceptions = False  # a log on a full disk must not flood the screen
    logging.captureWarnings(True)
    logging.getLogger("luigi-interface").addHandler(SchedulingErrors())
    for name, level in (
        ("luigi-interface", env.log_level),
        ("luigi", env.log_level),
        ("featcache", "INFO"),
        ("py.warnings", "WARNING"),
    ):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for handler in handlers:
            logger.addHandler(handler)
        logger.propagate = False
