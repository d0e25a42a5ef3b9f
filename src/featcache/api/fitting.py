"""`fit` and `load_project`: from images and settings, or from what was run before, to a project in Python."""

import os
from pathlib import Path

from featcache.api.fitted_project import FittedProject
from featcache.api.keywords import Sections, sections_of
from featcache.api.running import run_stage
from featcache.core.disk import write_text
from featcache.core.paths import expanded, is_file
from featcache.errors import SettingsError
from featcache.inspection import first_settings
from featcache.project import (
    Project,
    config_text,
    configured_project,
    file_sections,
    open_project,
)
from featcache.settings import full_texts

SETTINGS_NAME = "luigi.cfg"
_HEAD = "Written by featcache.fit: every setting, so that no other luigi.cfg counts."
_PATHS = (("Dataset", "path"), ("Dataset", "sample_submission"), ("Paths", "artifacts"))


def fit(data: str | os.PathLike[str] | None = None, *, quiet: bool = False, **settings: object) -> FittedProject:
    """Take images to a trained, scored ensemble, a submission and a report: ``luigi --module pipeline Submit`` in Python.

    What is complete already isn't done again, here or on the command line. Keywords are the keys of luigi.cfg, which isn't
    read; they are kept in ``artifacts/<name>/luigi.cfg``, from which ``LUIGI_CONFIG_PATH=artifacts/<name>/luigi.cfg
    featcache run`` continues. An interrupt keeps what was computed; the same call resumes.

    Args:
        data: a folder of images as it was downloaded, in any layout that ``featcache init`` knows, such as
            ``train/<class>/*``. None: the embedded digits, or what ``source`` and ``path`` say.
        quiet: print notices alone.
        **settings: keys of luigi.cfg, such as ``backbone``, ``image_size``, ``metric`` or ``artifacts``. Where several
            sections have one, it is that of the first; ``convnet_image_size`` names the section, too. Values are text as
            in luigi.cfg, numbers, True and False, paths, None for empty, or lists where luigi.cfg has commas.

    Raises:
        SettingsError: a setting is unknown or impossible.
        SourceError: the images aren't recognised, or can't be listed.
        FeatcacheError: whatever else stops a run, each of its class in `featcache.errors`.

    Example:
        >>> project = fit("PHOTOS", backbone="resnet50", folds=10)     # doctest: +SKIP
        >>> project.predict("new photos")                              # doctest: +SKIP
        >>> X, y, ids = project.features("train")                      # doctest: +SKIP
    """
    sections = sections_of(settings)
    dataset = sections.get("Dataset", {})
    if data is not None:
        if "path" in dataset:
            raise SettingsError(
                f"path={dataset['path']!r}: the folder is {os.fspath(data)!r} already: give one of them"
            )
        sections, _ = first_settings(Path(data), sections)
    project = open_project(_absolute(sections))
    write_text(project.folder / SETTINGS_NAME, config_text(full_texts(_absolute(sections)), _HEAD))
    run_stage(project, "Submit", quiet=quiet)
    return FittedProject(project)


def load_project(folder: str | os.PathLike[str] | None = None) -> FittedProject:
    """Return a project that was run before, without running anything.

    Args:
        folder: ``artifacts/<name>``, where `fit` has left its settings, or the name alone; None for the project of the
            current folder's luigi.cfg and of ``$LUIGI_CONFIG_PATH``, as for the commands.

    Raises:
        SettingsError: there is no luigi.cfg, or it is wrong.

    Example:
        >>> load_project("artifacts/PHOTOS").leaderboard()     # doctest: +SKIP
    """
    if folder is None:
        return FittedProject(configured_project())
    path = expanded(Path(folder), "folder")
    files = [each / SETTINGS_NAME for each in (path, Path("artifacts") / path)]
    found = next((file for file in files if is_file(file)), None)
    if found is None:
        raise SettingsError(f"{files[0]} is not there: run featcache.fit, or name a folder such as artifacts/NAME")
    return FittedProject(Project(open_project(file_sections([str(found)])).settings))


def _absolute(sections: Sections) -> Sections:
    """The settings with paths that mean the same from any folder."""
    found = {section: dict(values) for section, values in sections.items()}
    found.setdefault("Paths", {}).setdefault("artifacts", "artifacts")
    for section, key in _PATHS:
        if found.get(section, {}).get(key):
            found[section][key] = str(expanded(Path(found[section][key]), f"[{section}] {key}").absolute())
    return found
