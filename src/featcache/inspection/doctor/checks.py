"""Checks of the installation, the disk, luigi.cfg and what it asks for: the images' folder and the weights."""

import errno
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from featcache._version import __version__
from featcache.core.disk import disk, temporary_name
from featcache.core.folder_lock import try_lock
from featcache.core.formatting import size_text
from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.core.system import versions
from featcache.errors import FeatcacheError, WeightsError, WeightsUnavailableError
from featcache.features import Limits, check_cached, check_reachable, imagenet_file, imagenet_url, named_file
from featcache.project import Project, config_files, configured_project
from featcache.settings import DatasetSpec, FeaturesSpec, find_architecture, is_preset

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_NAMED = ("tensorflow", "keras", "numpy", "h5py", "luigi", "dask", "pillow")  # what a bug report must name
_LOW, _TOO_LOW = 10 * 10**9, 10**9  # bytes
_ELSEWHERE = "set [Paths] artifacts to a folder on a local disk"
_QUICK = Limits(connect=2.0, read=3.0)


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what, in a word or two.
        state: ``PASS``; ``WARN``: it runs, but slower or worse than it could; ``FAIL``: the main job can't run.
        found: what was found.
        fix: what to do; "" for ``PASS``.
    """

    name: str
    state: str
    found: str
    fix: str = ""


def python_check() -> Check:
    """Check Python, and that the `luigi` on the PATH is the one beside it."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("python", WARN, found, "featcache is tested on Linux alone; use one worker elsewhere")
    luigi, here = shutil.which("luigi"), Path(sys.executable).parent
    if luigi is None or Path(luigi).parent.resolve() != here.resolve():
        found += f"; luigi is {luigi}, of another installation" if luigi else "; luigi is not on the PATH"
        return Check("python", WARN, found, f"source {here / 'activate'}")
    return Check("python", PASS, found)


def packages_check() -> Check:
    """Check that every requirement of featcache, without extras, is installed and in its range; so is Python."""
    from packaging.requirements import Requirement

    try:
        required, python = metadata.requires("featcache") or (), metadata.metadata("featcache")["Requires-Python"]
    except metadata.PackageNotFoundError:
        found = "featcache is on PYTHONPATH but not installed, so its requirements are unknown"
        return Check("packages", WARN, found, "pip install -e FOLDER, the folder with its setup.cfg")
    requirements = [Requirement(text) for text in (*required, f"Python {python}")]
    requirements = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    installed = versions(each.name for each in requirements) | {"Python": platform.python_version()}
    faults = [f"{each.name} is missing" for each in requirements if each.name not in installed]
    faults += [
        f"{each.name} {installed[each.name]} is not {each.specifier}"
        for each in requirements
        if each.name in installed and not each.specifier.contains(installed[each.name], prereleases=True)
    ]
    if faults:
        return Check("packages", FAIL, "; ".join(faults), "pip install --upgrade featcache, or `make submit`")
    named = ", ".join(f"{name} {installed[name]}" for name in _NAMED if name in installed)
    return Check("packages", PASS, f"featcache {__version__}, {named}")


def disk_check(folder: Path) -> Check:
    """Check the file system of the artifacts folder, which need not exist yet: space, writing and locks.

    A file is written, locked and removed again.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free, path = shutil.disk_usage(place).free, temporary_name(place / "doctor")
    found = f"{size_text(free)} free in {place}"
    try:
        with open(path, "xb", buffering=0) as first, open(path, "rb+", buffering=0) as second:
            disk.pwrite(first.fileno(), bytes(4096), 0)
            disk.fsync(first.fileno())
            if not try_lock(first.fileno(), path) or try_lock(second.fileno(), path):
                return Check("disk", FAIL, f"file locks do not work in {place}", _ELSEWHERE)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space: featcache gc" if full else f"permit it, or {_ELSEWHERE}"
        return Check("disk", FAIL, f"{place} can't be written: {error.strerror or error}", fix)
    finally:
        if path.exists():
            disk.unlink(path)
    if free < _LOW:
        fix = "featcache plan estimates what a run needs, featcache gc removes what nothing needs"
        return Check("disk", FAIL if free < _TOO_LOW else WARN, found, fix)
    return Check("disk", PASS, f"{found}; writing and file locks work")


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
    if spec.path is not None and not is_folder(spec.path):
        found = f"[Dataset] path: there is no folder {str(spec.path)!r}"
        return Check("images", FAIL, found, "set [Dataset] path, relative to the folder where luigi is started")
    return Check("images", PASS, f"{spec.source}: {spec.path or 'built in'}")


def weights_check(spec: FeaturesSpec) -> Check:
    """Check that the weights are on this machine or can be downloaded, in a few seconds at most."""
    if is_preset(spec.backbone):
        if find_spec("keras_hub") is None:
            return Check("weights", FAIL, f"{spec.backbone} needs KerasHub", "pip install 'featcache[hub]'")
        return Check("weights", PASS, f"{spec.backbone}, by KerasHub")
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
        place = next(folder for folder in path.absolute().parents if what_is(folder) != NOTHING)
        if not is_folder(place) or not os.access(place, os.W_OK | os.X_OK):  # a download would find out at its end
            raise WeightsUnavailableError(f"{path.parent} can't be written, as {place} can't")
        check_reachable(url, _QUICK)
        return Check("weights", PASS, f"ImageNet weights of {architecture.name} can be downloaded from {url}")
    except WeightsUnavailableError as error:
        state, outcome = (WARN, "; a run uses random weights") if spec.weights == "auto" else (FAIL, "")
        found = f"not on this machine, and can't be downloaded: {error}{outcome}"
        fix = f"put {architecture.url} into {path.parent}, or set KERAS_HOME to a folder that has it or can be written"
        return Check("weights", state, found, fix)
    except WeightsError as error:
        return Check("weights", FAIL, str(error), f"remove {path}; the next run downloads it")
