"""luigi.cfg and what it asks for: weights that can be had, a luigid and a Dask scheduler that answer."""

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.errors import FeatcacheError, WeightsError, WeightsUnavailableError
from featcache.features import Limits, check_cached, check_reachable, imagenet_file, imagenet_url, named_file
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check
from featcache.project import Project, config_files, configured_project, configured_sections
from featcache.settings import ClusterSpec, FeaturesSpec, find_architecture

_QUICK = Limits(connect=2.0, read=3.0)
_ANSWER_SECONDS = 2.0


def configuration_check(overrides: Sequence[str]) -> tuple[Check, Project | None]:
    """Read luigi.cfg as a run would; return the project, None where no run could start."""
    try:
        project, files = configured_project(overrides), config_files()
    except FeatcacheError as error:
        return Check("luigi.cfg", FAIL, str(error), "mend it, and ask again"), None
    told = f"{', '.join(files)}: every setting can be read" if files else "none here: every setting has its default"
    return Check("luigi.cfg", PASS, f"{told}; project {project.settings.dataset.name}"), project


def settings_checks(project: Project) -> Iterator[Check]:
    """Yield checks of what the settings ask for."""
    yield images_check(project)
    yield weights_check(project.settings.features)
    core = configured_sections().get("core", {})
    if core.get("local_scheduler", "true").lower() == "false":
        address = (
            core.get("scheduler_url")
            or f"http://{core.get('scheduler_host', 'localhost')}:{core.get('scheduler_port', '8082')}"
        )
        yield answers_check("luigid", address, "start it (luigid), or set [core] local_scheduler = true")
    yield cluster_check(project.settings.cluster)


def images_check(project: Project) -> Check:
    """The data set's folder is there."""
    dataset = project.settings.dataset
    if dataset.path is None:
        return Check("images", PASS, f"{dataset.source}: embedded")
    if not is_folder(dataset.path):
        told = f"[Dataset] path: there is no folder {str(dataset.path)!r}"
        return Check("images", FAIL, told, "set [Dataset] path; it counts from the folder where luigi is started")
    return Check("images", PASS, f"{dataset.source}: {dataset.path}")


def weights_check(spec: FeaturesSpec) -> Check:
    """The weights are on this machine, or can be downloaded; a few seconds at most are spent on finding out."""
    try:
        named = named_file(spec)
    except FeatcacheError as error:
        return Check("weights", FAIL, str(error), "write the path in full")
    if named is not None:
        path, setting = named
        if is_file(path) and os.access(path, os.R_OK):
            return Check("weights", PASS, f"{path}")
        told = "a file that can't be read" if is_file(path) else what_is(path)
        return Check("weights", FAIL, f"expected a file; {path} is {told}", f"set {setting} to one that is there")
    architecture = find_architecture(spec.backbone)
    if spec.weights == "random":
        fix = "set [Features] weights = imagenet for anything but trying"
        return Check("weights", WARN, "random, good enough to try things", fix)
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
        told = f"not on this machine, and can't be downloaded: {error}"
        told += "; a run takes random ones" if state == WARN else ""
        fix = f"put {architecture.url} into {path.parent}, or set KERAS_HOME to a folder that has it or can be written"
        return Check("weights", state, told, fix)
    except WeightsError as error:
        return Check("weights", FAIL, str(error), f"remove {path}; the next run downloads it")


def _check_writable(path: Path) -> None:
    """Refuse a folder that can't be made or written by this user, which a download would find out in the end."""
    place = next(folder for folder in path.absolute().parents if what_is(folder) != NOTHING)
    if not is_folder(place) or not os.access(place, os.W_OK | os.X_OK):
        raise WeightsUnavailableError(f"{path.parent} can't be written, as {place} can't")


def cluster_check(spec: ClusterSpec) -> Check:
    """Where the settings name a Dask scheduler, it answers."""
    if "://" not in spec.scheduler:
        return Check("cluster", PASS, f"[Cluster] scheduler = {spec.scheduler}: this machine alone")
    return answers_check("cluster", spec.scheduler, "start it (dask scheduler), or set [Cluster] scheduler = none")


def answers_check(name: str, address: str, fix: str) -> Check:
    """Something accepts connections at an address, ``scheme://host:port``."""
    url = urlsplit(address)
    try:
        socket.create_connection((url.hostname or "", url.port or 80), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        return Check(name, FAIL, f"nothing answers at {address}: {getattr(error, 'strerror', None) or error}", fix)
    return Check(name, PASS, f"{address} answers")
