"""Jobs under way on the workers of a cluster: retried when their workers die, and gathered as they end."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featcache.core.progress import Progress
from featcache.errors import ClusterError
from featcache.stages.workers.worker import WorkerContract

if TYPE_CHECKING:
    from distributed import Future

    from featcache.stages.workers.client import Cluster

PATIENCE_SECONDS = 120.0  # how long a scheduler or all workers may be gone
POLL_SECONDS = 1.0


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


class JobQueue:
    """Keeps the workers busy, and no more than that, so that nobody's death takes much with it.

    Attributes:
        fatal: jobs whose workers died, each as often as Dask allows.
        finished: jobs that were done while others were examined, each with what it gave; filled by `Cluster.run`.
    """

    def __init__(
        self, cluster: "Cluster", contract: WorkerContract, progress: Progress, *, one_each: bool = False
    ) -> None:
        self.fatal: list[Job] = []
        self.finished: list[tuple[Job, Any]] = []
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
            while True:
                self._fill(coming)
                if not self._running:
                    break
                for future in self._ended():
                    job = self._running.pop(future, None)
                    if job is not None:  # else the scheduler was gone, and it is retried
                        yield from ((job, value) for value in self._outcome(future, job))
        finally:
            for future in self._running:
                with suppress(Exception):  # where the scheduler is gone, so is the job
                    future.cancel()
        if self._error is not None:
            raise self._error

    def _fill(self, coming: Iterator[Job]) -> None:
        room = self._room()
        while self._error is None and len(self._running) < room:
            job = self._retries.popleft() if self._retries else next(coming, None)
            if job is None:
                return
            future = self._cluster.submit(self._contract, job)
            self._running[future] = job
            future.add_done_callback(self._done.put)

    def _room(self) -> int:
        """One job more than each worker does at once, so that no worker waits for the scheduler; or one for each."""
        try:
            slots = self._cluster.refresh()
        except (OSError, RuntimeError, ValueError):
            self._resubmit()
            slots = self._cluster.refresh()
        self._idle_polls = 0 if slots else self._idle_polls + 1
        if self._idle_polls * POLL_SECONDS > PATIENCE_SECONDS:
            raise ClusterError("all workers are gone; finished work is saved: start some, then run again")
        return max(len(slots) if self._one_each else sum(slots.values()) + len(slots), 1)

    def _ended(self) -> "list[Future[Any]]":
        """Return what has ended, after waiting a little for it."""
        with suppress(queue.Empty):
            self._done.get(timeout=POLL_SECONDS)
        return [future for future in self._running if future.done()]

    def _outcome(self, future: "Future[Any]", job: Job) -> list[Any]:
        """Return what a job gave, as a list of one; of none where it is retried or failed."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            return [future.result(timeout=PATIENCE_SECONDS)]
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
        return []

    def _resubmit(self) -> None:
        """The scheduler was gone, and knows nothing of the jobs under way any more."""
        self._retries.extend(self._running.values())
        self._running.clear()
        self._cluster.reconnect(self._progress)
        self._cluster.verify(self._contract)
