"""luigi.cfg and the command line -> one `Project`. The only place that reads Luigi's configuration."""

import dataclasses
from functools import lru_cache
from weakref import WeakKeyDictionary

import luigi
from luigi.cmdline_parser import CmdlineParser

from featcache.core import keys
from featcache.project import Project, open_project
from featcache.settings import SECTIONS, ClusterSpec

# A Luigi config class for each section, with a text for each key; featcache parses the texts itself, for one-line errors.
CONFIGS: dict[str, type[luigi.Config]] = {
    section: type(section, (luigi.Config,), {
        "__doc__": f"[{section}] in luigi.cfg.",
        "__module__": __name__,
        **{key: luigi.Parameter(default=own.default, description=own.meaning) for key, own in known.items()},
    })
    for section, known in SECTIONS.items()
}  # fmt: skip


class output(luigi.Config):  # noqa: N801 - a section of Luigi's kind, as [core] and [worker]
    """How much a run prints; it affects no result, and so is no setting of a project."""

    use_cmdline_section = False  # --quiet, not --output-quiet

    quiet = luigi.BoolParameter(default=False, description="print notices and errors only")
    verbose = luigi.BoolParameter(default=False, description="print Luigi's and featcache's log, too")


_kept: list[Project] = []
_of_command_line: "WeakKeyDictionary[CmdlineParser, Project]" = WeakKeyDictionary()


def keep_project(project: Project) -> None:
    """Make `project` the current one also while Luigi's command line isn't in force: for messages then."""
    _kept[:] = [project]


def current_project() -> Project:
    """Return the current settings' project, or raise a `SettingsError`: command line before luigi.cfg before defaults."""
    parser = CmdlineParser.get_instance()
    if parser in _of_command_line:
        return _of_command_line[parser]
    if parser is None and _kept:
        return _kept[0]
    configs = {section: config() for section, config in CONFIGS.items()}  # Luigi reads all keys whenever one is made
    project = _project(
        tuple(tuple(getattr(configs[section], key) for key in SECTIONS[section]) for section in SECTIONS)
    )
    if parser is not None:
        _of_command_line[parser] = project
    return project


def forget_projects() -> None:
    """Begin another run, which lists the source again: for notebooks and tests that call `luigi.build` more than once."""
    _project.cache_clear()
    _of_command_line.clear()
    _kept.clear()


@lru_cache(maxsize=4)
def _project(values: tuple[tuple[str, ...], ...]) -> Project:
    """One instance for the same values, so that a run lists its source once."""
    return open_project(
        {name: dict(zip(known, row, strict=True)) for (name, known), row in zip(SECTIONS.items(), values, strict=True)}
    )


class Scope(luigi.Parameter):
    """Distinguishes projects on one luigid, which else takes two projects' `Submit()` for one task."""

    def has_task_value(self, task_name: str, param_name: str) -> bool:
        """There is always a value."""
        return True

    def task_value(self, task_name: str, param_name: str) -> str:
        """The short digest of the artifacts folder and all settings but those of the workers."""
        settings = dataclasses.replace(current_project().settings, cluster=ClusterSpec())
        return keys.short(keys.digest(repr(settings)))
