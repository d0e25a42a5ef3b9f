"""The client's half of work on dask.distributed: connect, verify the workers, and connect again.

dask.distributed is imported here alone, and only inside functions: without [Cluster] nothing pays for it.
"""

import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.core import disk
from featcache.core.formatting import pluralize
from featcache.core.paths import expanded
from featcache.core.progress import Progress
from featcache.errors import ClusterError
from featcache.project import LOG_NAME, Project
from featcache.settings import ALONE, LOCAL, ClusterSpec
from featcache.stages.workers import worker
from featcache.stages.workers.local_workers import start_workers
from featcache.stages.workers.worker import TOPIC, WorkerContract

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE_SECONDS = 120.0  # how long a scheduler or all workers may be gone
POLL_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_NOISY = ("distributed", "tornado", "bokeh", "asyncio")


class Cluster:
    """A connection to workers; made by `connect`, and kept as long as the process.

    Attributes:
        spec: the settings.
        workers: addresses of the workers that are there.
        lost: addresses of workers that were there before.
        begun: how often each job of the last run was started.
    """

    def __init__(self, spec: ClusterSpec, folder: Path) -> None:
        """Connect; see `connect`."""
        self.spec = spec
        self.workers: dict[str, int] = {}
        self.lost: set[str] = set()
        self.begun: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        _silence(folder / LOG_NAME)
        self._local = start_workers(spec, folder / LOG_NAME) if spec.scheduler == LOCAL else None
        self._client = self._connect(max(1, spec.workers))

    def close(self) -> None:
        """Let go of the workers; those of our own end."""
        for end in (self._client, self._local):
            if end is not None:
                with suppress(Exception):  # whatever is gone already needs no closing
                    end.close(timeout=5)

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return str(self._client.status) == "running"

    def summary(self) -> str:
        """The last run in words: workers, and what went wrong with them."""
        retried = sum(self.begun.values()) - len(self.begun)
        parts = [pluralize(len(self.workers), "worker")]
        if self.lost:
            parts.append(f"{pluralize(len(self.lost), 'worker')} lost")
        if retried > 0:
            parts.append(f"{pluralize(retried, 'job')} retried")
        return ", ".join(parts)

    def refresh(self) -> dict[str, int]:
        """Return the workers that are there, address -> jobs at once, and note who is gone; `OSError` without scheduler."""
        now: dict[str, int] = dict(self._client.nthreads())
        self.lost |= set(self.workers) - set(now)
        self.workers = now
        return now

    def submit(self, contract: WorkerContract, job: worker.Job) -> "Future[Any]":
        """Hand over a job."""
        key = f"featcache-{secrets.token_hex(4)}-{job.name}"
        return self._client.submit(worker.run_job, contract, job, key=key, pure=False)

    def reconnect(self, progress: Progress) -> None:
        """Connect again after the scheduler was gone; a `ClusterError` if it doesn't come back, or was our own."""
        with suppress(Exception):  # the connection is lost already
            self._client.close(timeout=1)
        if self._local is not None:
            raise ClusterError("the scheduler of the local workers ended; finished work is saved: run again")
        progress.notice(f"the scheduler at {self.spec.scheduler} is gone; waiting for it")
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._client = self._connect(1)
                return
            except ClusterError:
                if time.monotonic() > end:
                    raise
            time.sleep(POLL_SECONDS)

    def verify(self, contract: WorkerContract) -> None:
        """Raise a `ClusterError` that names a worker whose versions, artifacts folder, images or weights are others."""
        for call, argument in ((worker.check_versions, dict(contract.facts)), (worker.agree, contract)):
            for address, answer in self._client.run(call, argument, on_error="return").items():
                if isinstance(answer, ClusterError):
                    raise ClusterError(f"worker at {address}: {answer}")
                if isinstance(answer, Exception):
                    what = f"{type(answer).__name__}: {' '.join(str(answer).split())}"
                    raise ClusterError(
                        f"worker at {address} can't run featcache {contract.facts['featcache']} ({what})"
                    )

    def _connect(self, count: int) -> "Client":
        from distributed import Client

        place = self.spec.scheduler
        try:
            client = Client(self._local or place, timeout=_ANSWER_SECONDS, set_as_default=True)
        except (OSError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())
            raise ClusterError(
                f"[Cluster] scheduler: no Dask scheduler answers at {place} ({why}): start it, or set scheduler = none"
            ) from error
        try:
            client.wait_for_workers(count, timeout=PATIENCE_SECONDS)
        except TimeoutError as error:
            found = len(client.nthreads())
            client.close()
            raise ClusterError(
                f"[Cluster] workers: only {found} of {count} are connected to {place}: start the others"
            ) from error
        client.subscribe_topic(TOPIC, lambda event: self.begun.update([event[1]]))
        return client


_KEPT: dict[tuple[int, ClusterSpec], Cluster] = {}


def connect(project: Project) -> Cluster | None:
    """Return the workers that the settings ask for, the same ones as long as this process lives; None for none.

    Raises:
        ClusterError: no scheduler answers, there are too few workers, or too few GPUs.
    """
    spec = project.settings.cluster
    if spec.scheduler == ALONE:
        return None
    key = os.getpid(), spec  # a connection doesn't survive a fork
    if key not in _KEPT or not _KEPT[key].is_open:
        for old in [other for other in _KEPT if other[0] == os.getpid()]:
            _KEPT.pop(old).close()
        _KEPT[key] = Cluster(spec, project.folder)
        # at the end of this process, also where Luigi forked it and `atexit` isn't asked
        Finalize(None, _KEPT[key].close, exitpriority=10)
    cluster = _KEPT[key]
    cluster.lost.clear()
    cluster.refresh()
    return cluster


def close_workers() -> None:
    """Let go of the workers that this process is connected to; those of our own end."""
    for key in [key for key in _KEPT if key[0] == os.getpid()]:
        _KEPT.pop(key).close()


@contextmanager
def verified_workers(cluster: Cluster, project: Project, *, weights: bool) -> Iterator[WorkerContract]:
    """Ask every worker whether it sees what this process sees and runs what it runs; yield the contract for later ones.

    Raises:
        ClusterError: one doesn't; it is named.
        StorageError: the artifacts folder can't be written.
    """
    token = secrets.token_hex(16)
    probe = disk.temporary_name(project.folder.absolute() / "probe")
    disk.write_text(probe, token)
    dataset = project.settings.dataset
    dataset = replace(dataset, path=expanded(dataset.path, "[Dataset] path").absolute() if dataset.path else None)
    settings = replace(project.settings, dataset=dataset)
    contract = WorkerContract(token, probe, worker.deciding_facts(), settings, project.run, weights)
    try:
        cluster.verify(contract)
        yield contract
    finally:
        probe.unlink(missing_ok=True)


_HANDLERS: list[logging.FileHandler] = []


def _silence(log: Path) -> None:
    """Send what Dask logs to the log file: a worker's death is reported in a line, not in its tracebacks."""
    import distributed  # noqa: F401  # it sets up its own logging first

    for old in _HANDLERS:
        old.close()
    handler = logging.FileHandler(log, encoding="utf-8")
    handler.mode = "w"  # else it would open again, once closed, for a record that another thread brings late
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    _HANDLERS[:] = [handler]
    for name in [*_NOISY, *logging.root.manager.loggerDict]:
        logger, room = logging.getLogger(name), name.partition(".")[0]
        if room in _NOISY:
            logger.handlers[:] = [handler] if name == room else []
            logger.propagate = name != room
