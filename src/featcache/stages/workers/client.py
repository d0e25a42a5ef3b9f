"""The client's half of work on dask.distributed: connect, verify the workers, give them jobs, survive their death.

dask.distributed is imported here alone, and only inside functions: without [Cluster] nothing pays for it.
"""

import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator
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
from featcache.stages.workers.job_queue import PATIENCE_SECONDS, POLL_SECONDS, Job, JobQueue
from featcache.stages.workers.local_workers import start_workers
from featcache.stages.workers.worker import TOPIC, WorkerContract

if TYPE_CHECKING:
    from distributed import Client, Future

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
        self._client = self._connect(self._local or spec.scheduler, max(1, spec.workers))

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

    def run(
        self, contract: WorkerContract, jobs: Iterable[Job], progress: Progress, *, one_each: bool = False
    ) -> Iterator[tuple[Job, Any]]:
        """Have workers do the jobs, and yield each with what came of it, in the order they end.

        With `one_each`, no worker gets a second job beside its first: for jobs that take all its cores and memory.

        A job whose worker dies is retried, as often as Dask's ``allowed-failures`` allows; one that kills that many waits
        until all others are done, and is examined.

        Raises:
            ClusterError: a job kills its workers (everything else was yielded before), or scheduler or workers are gone.
            Exception: what a job raised, once what was under way has been yielded.
        """
        self.begun.clear()
        jobs_queue = JobQueue(self, contract, progress, one_each=one_each)
        yield from jobs_queue.run(jobs)
        faults = [self._examined(jobs_queue, job) for job in jobs_queue.fatal]
        yield from jobs_queue.finished
        if any(faults):
            raise ClusterError("; ".join(filter(None, faults)) + ". Everything else is done and saved")

    def _examined(self, jobs_queue: JobQueue, job: Job) -> str:
        """Why a job kills its workers; "" where it doesn't when it runs alone."""
        if job.examine is not None:
            examination = replace(job, name=f"{job.name}, examined", call=job.examine)
            culprit = next((found for _, found in jobs_queue.run([examination])), "")
            if culprit:
                return f"{culprit} crashes the decoder: remove that image, then run again"
        jobs_queue.fatal = []
        jobs_queue.finished += jobs_queue.run([job])  # others may have died beside it
        return f"{job.name}: every worker that was given it died (out of memory?)" if jobs_queue.fatal else ""

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
        """Return the workers that are there now, address -> jobs at once, and note who is gone.

        Raises:
            OSError: the scheduler doesn't answer.
        """
        now: dict[str, int] = dict(self._client.nthreads())
        self.lost |= set(self.workers) - set(now)
        self.workers = now
        return now

    def submit(self, contract: WorkerContract, job: Job) -> "Future[Any]":
        """Hand over a job."""
        key = f"featcache-{secrets.token_hex(4)}-{job.name}"
        return self._client.submit(worker.run_job, contract, job.name, job.call, *job.arguments, key=key, pure=False)

    def reconnect(self, progress: Progress) -> None:
        """Connect again after the scheduler was gone.

        Raises:
            ClusterError: it doesn't come back, or it was our own.
        """
        with suppress(Exception):  # the connection is lost already
            self._client.close(timeout=1)
        if self._local is not None:
            raise ClusterError("the scheduler of the local workers ended; finished work is saved: run again")
        progress.notice(f"the scheduler at {self.spec.scheduler} is gone; waiting for it")
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._client = self._connect(self.spec.scheduler, 1)
            except ClusterError:
                if time.monotonic() > end:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def verify(self, contract: WorkerContract) -> None:
        """Check that every worker fits: its versions, its view of the artifacts folder, the images and the weights.

        Raises:
            ClusterError: one doesn't; it is named, with the difference.
        """
        for call, argument in ((worker.differences, dict(contract.facts)), (worker.agree, contract)):
            for address, answer in self._client.run(call, argument, on_error="return").items():
                if isinstance(answer, ClusterError):
                    raise ClusterError(f"worker at {address}: {answer}")
                if isinstance(answer, Exception):
                    what = f"{type(answer).__name__}: {' '.join(str(answer).split())}"
                    raise ClusterError(
                        f"worker at {address} can't run featcache {contract.facts['featcache']} ({what})"
                    )
                if isinstance(answer, str) and answer:
                    raise ClusterError(f"worker at {address} runs {answer}: install the same versions everywhere")

    def _connect(self, scheduler: Any, count: int) -> "Client":
        from distributed import Client

        place = self.spec.scheduler
        try:
            client = Client(scheduler, timeout=_ANSWER_SECONDS, set_as_default=True)
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


class _Log(logging.FileHandler):
    """A log file that stays closed: Python's own opens again for a record that another thread brings late."""

    _over = False

    def close(self) -> None:
        """Write no more."""
        self._over = True
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it comes too late."""
        if not self._over:
            super().emit(record)


_HANDLERS: list[_Log] = []


def _silence(log: Path) -> None:
    """Send what Dask logs to the log file: a worker's death is reported in a line, not in its tracebacks."""
    import distributed  # noqa: F401  # it sets up its own logging first

    for old in _HANDLERS:
        old.close()
    handler = _Log(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    _HANDLERS[:] = [handler]
    for name in [*_NOISY, *logging.root.manager.loggerDict]:
        logger, room = logging.getLogger(name), name.partition(".")[0]
        if room in _NOISY:
            logger.handlers[:] = [handler] if name == room else []
            logger.propagate = name != room
