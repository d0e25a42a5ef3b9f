"""Jobs on the workers of a cluster: a few under way at once, retried when their workers die, and gathered as they end."""

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.core.progress import Progress
from featcache.errors import ClusterError
from featcache.project import Project
from featcache.stages.workers.client import PATIENCE_SECONDS, POLL_SECONDS, Cluster, verified_workers
from featcache.stages.workers.worker import Job, WorkerContract

if TYPE_CHECKING:
    from distributed import Future


def run_jobs(
    cluster: Cluster, contract: WorkerContract, jobs: Iterable[Job], progress: Progress, *, one_each: bool = False
) -> Iterator[tuple[Job, Any]]:
    """Have workers do the jobs, and yield each with what came of it, in the order they end.

    With `one_each`, no worker gets a second job beside its first: for jobs that take all its cores and memory.

    A job whose worker dies is retried, as often as Dask's ``allowed-failures`` allows; one that kills that many waits
    until all others are done, and is examined.

    Raises:
        ClusterError: a job kills its workers (everything else was yielded before), or scheduler or workers are gone.
        Exception: what a job raised, once what was under way has been yielded.
    """
    cluster.begun.clear()
    under_way = _JobQueue(cluster, contract, progress, one_each=one_each)
    yield from under_way.run(jobs)
    killers, under_way.fatal = under_way.fatal, []
    faults = []
    for job in killers:
        if job.examine is not None:
            examination = replace(job, name=f"{job.name}, examined", call=job.examine)
            culprit = next((found for _, found in under_way.run([examination])), "")
            if culprit:
                faults.append(f"{culprit} crashes the decoder: remove that image, then run again")
                continue
        under_way.fatal = []
        yield from under_way.run([job])  # others may have died beside it
        if under_way.fatal:
            faults.append(f"{job.name}: every worker that was given it died (out of memory?)")
    if faults:
        raise ClusterError("; ".join(faults) + ". Everything else is done and saved")


def train_on_workers(
    cluster: Cluster, project: Project, what: str, unit: str, jobs: Sequence[Job], progress: Progress
) -> None:
    """Do jobs that train, one at a time on each worker, as `run_jobs`; count them as `unit` of `what`."""
    progress.start(what, len(jobs), unit)
    try:
        with verified_workers(cluster, project, weights=False) as contract:
            for job, line in run_jobs(cluster, contract, jobs, progress, one_each=True):
                progress.advance(1, line or job.name)
    finally:
        progress.finish()


class _JobQueue:
    """Keeps the workers busy, and no more than that, so that nobody's death takes much with it; see `run_jobs`."""

    def __init__(self, cluster: Cluster, contract: WorkerContract, progress: Progress, *, one_each: bool) -> None:
        self.fatal: list[Job] = []  # whose workers died, each as often as Dask allows
        self._cluster, self._contract, self._progress, self._one_each = cluster, contract, progress, one_each
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._running: dict[Future[Any], Job] = {}
        self._retries: deque[Job] = deque()
        self._idle_polls = 0  # without any worker: a clock would also count what this process slept
        self._error: BaseException | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield each job that succeeds; `fatal` has those that didn't because their workers died."""
        coming = iter(jobs)
        try:
            self._fill(coming)
            while self._running:
                with suppress(queue.Empty):
                    self._done.get(timeout=POLL_SECONDS)
                for future in [future for future in self._running if future.done()]:
                    job = self._running.pop(future, None)
                    if job is not None:  # else the scheduler was gone, and it is retried
                        yield from self._outcome(future, job)
                self._fill(coming)
        finally:
            for future in self._running:
                with suppress(Exception):  # where the scheduler is gone, so is the job
                    future.cancel()
        if self._error is not None:
            raise self._error

    def _fill(self, coming: Iterator[Job]) -> None:
        """Submit one job more than each worker does at once, so that none waits for the scheduler; or one for each."""
        try:
            slots = self._cluster.refresh()
        except (OSError, RuntimeError, ValueError):
            self._resubmit()
            slots = self._cluster.refresh()
        self._idle_polls = 0 if slots else self._idle_polls + 1
        if self._idle_polls * POLL_SECONDS > PATIENCE_SECONDS:
            raise ClusterError("all workers are gone; finished work is saved: start some, then run again")
        room = max(len(slots) if self._one_each else sum(slots.values()) + len(slots), 1)
        while self._error is None and len(self._running) < room:
            job = self._retries.popleft() if self._retries else next(coming, None)
            if job is None:
                return
            future = self._cluster.submit(self._contract, job)
            self._running[future] = job
            future.add_done_callback(self._done.put)

    def _outcome(self, future: "Future[Any]", job: Job) -> Iterator[tuple[Job, Any]]:
        """Yield the job with what it gave; nothing where it is retried or failed."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            value = future.result(timeout=PATIENCE_SECONDS)
        except KilledWorker:
            self.fatal.append(job)
        except (CancelledError, TimeoutError, OSError) as error:
            if future.status == "error":
                self._error = self._error or error  # raised by the job itself
            else:
                self._retries.append(job)
                if not self._cluster.is_open or future.status == "cancelled":
                    self._resubmit()
        except Exception as error:  # noqa: BLE001 - it is raised when what is under way has ended
            self._error = self._error or error
        else:
            yield job, value

    def _resubmit(self) -> None:
        """The scheduler was gone, and knows nothing of the jobs under way any more."""
        self._retries.extend(self._running.values())
        self._running.clear()
        self._cluster.reconnect(self._progress)
        self._cluster.verify(self._contract)
