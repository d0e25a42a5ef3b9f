"""What is checked before Luigi schedules: every setting, Luigi's own ones, the log file.

A mistake in luigi.cfg or on the command line ends here in one line and exit status 2; Luigi would only warn of it, ignore
it, or print its usage or a traceback.
"""

import configparser
import contextlib
import difflib
import gc
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
from luigi.task_register import TaskClassNotFoundException

from featcache.core.console import say
from featcache.core.keras_import import check_keras, own_process
from featcache.core.streams import keep_going
from featcache.errors import FeatcacheError, SettingsError, StorageError
from featcache.project import LOG_NAME, NEEDS, configured_sections
from featcache.settings import ALONE, SECTIONS, Settings, one_of
from pipeline.config import current_project, keep_project, output
from pipeline.failures import SchedulingErrors, print_error, take_interrupts
from pipeline.help_page import flag_name, usage_lines
from pipeline.stage import Stage

USAGE_EXIT = 2
_CONNECT_SECONDS = 3.0
_RARELY = (50_000, 10, 10)  # objects: a run leaves few unreachable ones, and TensorFlow has 400,000 to look through
LOGGED = ("luigi-interface", "luigi", "featcache", "py.warnings")  # loggers that `keep_log` sends to the file

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


def validate_command_line(arguments: list[str]) -> None:
    """Check everything that the user gave, then let Luigi go on; called while Luigi imports the stages.

    Raises:
        SystemExit: with status 2 after one line on standard error; with 0 after ``--help``.
    """
    keep_going()
    own_process()
    set_defaults()
    if "--help" in arguments:
        for line in usage_lines(stage_names()):
            say(line)
        raise SystemExit(0)
    if "--help-all" in arguments:
        return
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    try:
        configured_sections()  # Luigi only warns of mistakes in luigi.cfg, or ignores them
        with parsed(arguments):
            check_luigi_settings()
            if output().quiet and output().verbose:
                fault = "quiet=true and verbose=true exclude each other"
                raise SettingsError(f"{fault}: set one of [output] quiet, verbose")
            check_keras()
            keep_project(current_project())
            keep_log(current_project().folder)
            choose_scheduler(flags)
            for line in unused_flags(flags, current_project().settings):
                say(f"NOTICE: {line}", "bold yellow")
    except (FeatcacheError, configparser.Error) as error:
        print_error(" ".join(str(error).split()))
        raise SystemExit(USAGE_EXIT) from None
    take_interrupts()
    gc.set_threshold(*_RARELY)


def stage_names() -> list[str]:
    """The stages that need no parameter, in the order they run."""
    parameters = {name: Stage.known[name].get_params() for name in NEEDS}
    return [name for name, own in parameters.items() if all(value.has_task_value(name, key) for key, value in own)]


def set_defaults() -> None:
    """Give Luigi its settings for our stages, each only where luigi.cfg has none; and never its lock."""
    configuration = luigi.configuration.get_config()
    for section, values in DEFAULTS.items():
        for key, value in values.items():
            if not configuration.has_option(section, key):
                configuration.set(section, key, value)
    # Luigi's lock identifies a command by its words alone, whatever the folder, and is kept where another user can't
    # write; stages lock the artifacts folder itself
    configuration.set("core", "no_lock", "true")


@contextlib.contextmanager
def parsed(arguments: list[str]) -> Iterator[None]:
    """Put the command line in force as Luigi will; a `SettingsError` in place of its usage page or traceback."""
    usage = io.StringIO()
    with contextlib.ExitStack() as in_force:
        try:
            with contextlib.redirect_stderr(usage):
                in_force.enter_context(CmdlineParser.global_instance(arguments, allow_override=True))
            CmdlineParser.get_instance().get_task_obj()
        except TaskClassNotFoundException as error:
            stage = next((word for word in arguments if not word.startswith("-") and word != "pipeline"), "")
            one_of("stage", stage, stage_names())
            raise SettingsError(str(error)) from None
        except SystemExit as stop:
            raise SettingsError(_usage_fault(usage.getvalue() or str(stop.code))) from None
        except FeatcacheError:
            raise
        except (ParameterException, ValueError) as error:
            raise SettingsError(f"{error}; luigi --module pipeline --help lists all") from None
        yield


def _usage_fault(usage: str) -> str:
    """What argparse or Luigi found wrong, and what to do; an unknown flag with the nearest setting's."""
    if usage.startswith("No task"):
        return f"no stage given, e.g. luigi --module pipeline Submit; known: {', '.join(stage_names())}"
    fault = usage.strip().splitlines()[-1].rpartition("error: ")[2]
    unknown = fault.rpartition("unrecognized arguments: ")[2].split()[0].partition("=")[0]
    meant: dict[str, str] = {}
    for section, keys in reversed(list(SECTIONS.items())):  # --image-size is that of the first section which has it
        for key in keys:
            flag = flag_name(section, key)
            meant |= {flag.lower(): flag, f"--{key}".replace("_", "-"): flag}
    near = difflib.get_close_matches(unknown.lower().replace("_", "-"), meant, 1) if unknown.startswith("--") else []
    hint = f" (did you mean {meant[near[0]]}?)" if near else ""
    return f"{fault}{hint}; luigi --module pipeline --help lists all"


def check_luigi_settings() -> None:
    """Raise a `SettingsError` for values of Luigi's own settings that end in a traceback or a run that does nothing."""
    for config in (luigi.interface.core, luigi.worker.worker, luigi.scheduler.scheduler, retcode):
        try:
            config()
        except (ParameterException, ValueError) as error:
            key = str(error).split("'")[-2]
            raise SettingsError(f"[{config.__name__}] {key}: {error.__cause__}") from error
    try:
        resources = luigi.configuration.get_config().getintdict("resources")
    except ValueError as error:
        raise SettingsError(f"[resources]: not a whole number: {error}") from error
    counts = {f"[resources] {key}": count for key, count in resources.items()}
    for name, count in {"[core] workers": luigi.interface.core().workers, **counts}.items():
        if count < 1:
            raise SettingsError(f"{name}={count}: no stage can run: set at least 1")


def unused_flags(flags: list[str], settings: Settings) -> list[str]:
    """Return a line for each flag that has no effect under the current settings."""
    switches = {
        "--ConvNet-members 1": ("--ConvNet-", "[ConvNet] members = 0", settings.convnet.members == 0),
        "--Cluster-scheduler local": ("--Cluster-", "[Cluster] scheduler = none", settings.cluster.scheduler == ALONE),
        "--Features-copies 5": ("--Features-augmentation", "[Features] copies = 0", settings.features.copies == 0),
    }
    return [
        f"{flag} has no effect with {setting}: add {switch}, or leave it out"
        for flag in flags
        for switch, (prefix, setting, is_off) in switches.items()
        if is_off and flag.startswith(prefix) and flag != switch.split()[0]
    ]


def choose_scheduler(flags: list[str]) -> None:
    """Use the luigid that a flag names; a `SettingsError` at once if none answers: Luigi would try for minutes."""
    named = {"--scheduler-host", "--scheduler-port", "--scheduler-url"}.intersection(flags)
    if named and "--local-scheduler" not in flags:
        luigi.configuration.get_config().set("core", "local_scheduler", "false")
    core = luigi.interface.core()
    if core.local_scheduler:
        return
    url = urlsplit(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")
    if url.scheme not in ("http", "https") or url.hostname is None:
        return  # a socket file, which Luigi knows how to reach
    port = url.port or 80
    try:
        socket.create_connection((url.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"no luigid answers at {url.geturl()} ({error.strerror or error}): start it (luigid --port {port}), or "
            "leave out --scheduler-host and --scheduler-port and keep local_scheduler = true"
        ) from error


def keep_log(folder: Path) -> None:
    """Send Luigi's log, tracebacks included, to ``<folder>/luigi.log``, and with ``--verbose`` to the screen, too.

    A ``logging_conf_file`` in luigi.cfg or on the command line stays in force instead.

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
        fault = f"[Paths] artifacts: {error.filename or folder} can't be written ({error.strerror})"
        raise StorageError(f"{fault}: permit it, or choose another folder with --Paths-artifacts") from error
    handlers += [logging.StreamHandler()] if output().verbose else []
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    luigi.configuration.get_config().set("core", "no_configure_logging", "true")
    logging.raiseExceptions = False  # a log on a full disk must not flood the screen
    logging.captureWarnings(True)
    logging.getLogger("luigi-interface").addHandler(SchedulingErrors())
    for name, level in zip(LOGGED, (env.log_level, env.log_level, "INFO", "WARNING"), strict=True):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
