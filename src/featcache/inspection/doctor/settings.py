"""luigi.cfg, and what it asks for: the images' folder, and weights that are here or can be downloaded."""

import os
from collections.abc import Sequence
from pathlib import Path

from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.errors import FeatcacheError, WeightsError, WeightsUnavailableError
from featcache.features import Limits, check_cached, check_reachable, imagenet_file, imagenet_url, named_file
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check
from featcache.project import Project, config_files, configured_project
from featcache.settings import DatasetSpec, FeaturesSpec, find_architecture

_QUICK = Limits(connect=2.0, read=3.0)


def configuration_check(overrides: Sequence[str]) -> tuple[Check, Project | None]:
    """Read luigi.cfg as a run does; return the project, None where no run could start."""
    try:
        project, files = configured_project(overrides), config_files()
    except FeatcacheError as error:
        return Check("luigi.cfg", FAIL, str(error), "fix it, and run featcache doctor again"), None
    found = f"{', '.join(files)}: valid" if files else "none here: defaults"
    return Check("luigi.cfg", PASS, f"{found}; project {project.settings.dataset.name}"), project


def images_check(spec: DatasetSpec) -> Check:
    """Check that the data set's folder exists."""
    if spec.path is None:
        return Check("images", PASS, f"{spec.source}: built in")
    if not is_folder(spec.path):
        found = f"[Dataset] path: there is no folder {str(spec.path)!r}"
        return Check("images", FAIL, found, "set [Dataset] path, relative to the folder where luigi is started")
    return Check("images", PASS, f"{spec.source}: {spec.path}")


def weights_check(spec: FeaturesSpec) -> Check:
    """Check that the weights are on this machine or can be downloaded, in a few seconds at most."""
    try:
        named = named_file(spec)
    except FeatcacheError as error:
        return Check("weights", FAIL, str(error), "write the path in full")
    if named is not None:
        path, setting = named
        if is_file(path) and os.access(path, os.R_OK):
            return Check("weights", PASS, str(path))
        found = f"{path} can't be read" if is_file(path) else f"{path} is not a file: {what_is(path)}"
        return Check("weights", FAIL, found, f"set {setting} to the weights' file")
    if spec.weights == "random":
        return Check("weights", WARN, "random, good enough for trials", "set [Features] weights = imagenet")
    return _imagenet_check(spec)


def _imagenet_check(spec: FeaturesSpec) -> Check:
    architecture = find_architecture(spec.backbone)
    path, url = imagenet_file(architecture), imagenet_url(architecture)
    try:
        if is_file(path):
            check_cached(path, architecture)
            return Check("weights", PASS, f"ImageNet weights of {architecture.name} in {path}")
        _check_writable(path)
        check_reachable(url, _QUICK)
        return Check("weights", PASS, f"ImageNet weights of {architecture.name} can be downloaded from {url}")
    except WeightsUnavailableError as error:
        state = WARN if spec.weights == "auto" else FAIL
        found = f"not on this machine, and can't be downloaded: {error}"
        found += "; a run uses random weights" if state == WARN else ""
        fix = f"put {architecture.url} into {path.parent}, or set KERAS_HOME to a folder that has it or can be written"
        return Check("weights", state, found, fix)
    except WeightsError as error:
        return Check("weights", FAIL, str(error), f"remove {path}; the next run downloads it")


def _check_writable(path: Path) -> None:
    """Raise for a folder that this user can't create or write, which a download would find out only at its end."""
    place = next(folder for folder in path.absolute().parents if what_is(folder) != NOTHING)
    if not is_folder(place) or not os.access(place, os.W_OK | os.X_OK):
        raise WeightsUnavailableError(f"{path.parent} can't be written, as {place} can't")
