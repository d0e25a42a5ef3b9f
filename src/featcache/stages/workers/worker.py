"""The worker's half of every job: agree with who sent it, and find the project.

Everything here runs in the workers' processes. Nothing that a worker was not sent by its own scheduler is unpickled.
"""

import os
import platform
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from featcache._version import __version__
from featcache.core.keras_import import keras_backend, own_process
from featcache.core.progress import Silent
from featcache.core.system import versions
from featcache.dataset import Manifest, open_source
from featcache.errors import ClusterError, FeatcacheError, RejectedImageError
from featcache.project import Project, resolved_weights
from featcache.settings import Settings

TOPIC = "featcache"
CPUS_VARIABLE, LOG_VARIABLE = "FEATCACHE_WORKER_CPUS", "FEATCACHE_WORKER_LOG"
ONE_AT_A_TIME = threading.RLock()  # what is made once a process for all of a worker's jobs
_TEARDOWN_SECONDS = 0.5
_AGREED: dict[str, Project] = {}


@dataclass(frozen=True)
class WorkerContract:
    """What a worker must have in common with who sends it jobs.

    Attributes:
        token: random, of this contract alone; a worker that has agreed to it isn't asked again.
        probe: a file in the artifacts folder that holds the token.
        facts: `deciding_facts` of who sends the jobs.
        settings: the project's, with absolute paths.
        run: the project's run.
        weights: whether jobs need the backbone's weights.
    """

    token: str
    probe: Path
    facts: Mapping[str, str]
    settings: Settings
    run: str
    weights: bool


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of work for one worker.

    Attributes:
        name: what people call it, e.g. ``rows 0 to 8,191 of train``; unique in its run.
        call: an importable function; it gets the project, then the arguments.
        arguments: small ones: everything large is on the shared file system.
        examine: called like `call` where the job killed its workers; returns what of it does so, "" if that can't be found.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    examine: Callable[..., str] | None = None


def deciding_facts() -> dict[str, str]:
    """Return the versions of whatever decides values: features must not depend on which worker computed them."""
    from PIL import features

    backend = keras_backend()
    return {
        "featcache": __version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Keras backend": backend,
        **versions(("keras", backend, "numpy", "pillow", "pillow-heif", "distributed")),
        "libjpeg": str(features.version("libjpeg_turbo") or features.version("jpg")),
        "libavif": str(features.version("avif")),
    }


def check_versions(facts: Mapping[str, str]) -> None:
    """Raise a `ClusterError` that names what is different here; the first thing that a worker is asked."""
    mine = deciding_facts()
    differing = [
        f"{name} {mine.get(name, 'absent')} instead of {facts[name]}" for name in facts if mine.get(name) != facts[name]
    ]
    if differing:
        raise ClusterError(f"it runs {', '.join(differing)}: install the same versions everywhere")


def agree(contract: WorkerContract) -> Project:
    """Return the project of the contract, once it is sure that this worker would compute what its sender would.

    Raises:
        ClusterError: it runs other versions, or doesn't see the artifacts folder, the images or the weights.
    """
    with ONE_AT_A_TIME:
        if contract.token not in _AGREED:
            _AGREED.clear()
            try:
                _AGREED[contract.token] = _agreed(contract)
            except (FeatcacheError, OSError) as error:
                raise ClusterError(str(error)) from error
        return _AGREED[contract.token]


def _agreed(contract: WorkerContract) -> Project:
    check_versions(contract.facts)
    folder = contract.probe.parent
    share = "workers and this process must share a file system, under the same paths (docs/scaling.md)"
    try:
        seen = contract.probe.read_text()
    except OSError as error:
        raise ClusterError(f"it can't read the artifacts folder {folder} ({error.strerror}): {share}") from error
    if seen != contract.token:
        raise ClusterError(f"it sees another folder as {folder}: {share}")
    if not os.access(folder, os.W_OK):
        raise ClusterError(f"it may not write to {folder}: {share}")
    project = Project(contract.settings).as_stored()
    project.run = contract.run
    rows = manifest_of(project).splits["train"]
    first = int(rows.listed.argmax())
    with suppress(RejectedImageError):  # its bytes are the right ones, which is enough here
        open_source(project.settings.dataset).load(rows.locations[first], rows.digests[first], 1)
    if contract.weights:
        for backbone in project.backbones:
            resolved_weights(backbone, Silent())
    return project


@lru_cache(maxsize=1)
def manifest_of(project: Project) -> Manifest:
    """The manifest of a contract's project, whose folder is locked against another."""
    return Manifest.load(project.folder)


def run_job(contract: WorkerContract, job: Job) -> Any:
    """Do one job, once this worker agrees, and log with the scheduler that it begins."""
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(TOPIC, job.name)
    try:
        project = agree(contract)
    except ClusterError as error:  # it joined after all were asked
        raise ClusterError(f"worker at {worker.address}: {error}") from error
    return job.call(project, *job.arguments)


def dask_setup(worker: object) -> None:
    """Set up a worker process of our own: which cores it has, and where what it prints goes."""
    del worker
    if (cpus := os.environ.get(CPUS_VARIABLE)) and hasattr(os, "sched_setaffinity"):
        wanted = {int(number) for number in cpus.split(",")}
        for thread in Path("/proc/self/task").iterdir():  # threads that are there already
            with suppress(OSError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread.name), wanted)
    if log := os.environ.get(LOG_VARIABLE):
        own_process()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.close(descriptor)


def dask_teardown(worker: object) -> None:
    """End the process soon: TensorFlow's threads would keep it for seconds, and nothing in it is worth waiting for."""
    del worker
    if LOG_VARIABLE in os.environ:
        end = threading.Timer(_TEARDOWN_SECONDS, os._exit, (0,))
        end.daemon = True
        end.start()
