"""Jobs under way on the workers of a cluster: begun again when their workers die, and gathered as they end."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from featcache.core.progress import Progress
from featcache.errors import ClusterError
from featcache.stages.workers.worker import WorkerContract

if TYPE_CHECKING:
    from distributed import Future

PATIENCE_SECONDS = 120.0  # how long a scheduler or all workers may be gone
POLL_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of work for one worker.

    Attributes:
        name: what people call it, e.g. ``rows 0 to 8,191 of train``; unique in its run.
        call: an importable function; it gets the project, then the arguments.
        arguments: small ones: everything large is on the shared file system.
        examine: called like `call` where the job killed its workers; returns what of it does so, "" if it can't tell.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    examine: Callable[..., str] | None = None


class Workers(Protocol):
    """What a flight needs of `featcache.stages.workers.client.Cluster`."""

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""

    def look(self) -> dict[str, int]:
        """The workers that are there now, address -> jobs at once."""

    def submit(self, terms: WorkerContract, job: Job) -> "Future[Any]":
        """Hand over a job."""

    def again(self, progress: Progress) -> None:
        """Connect anew after the scheduler was gone."""

    def ask(self, terms: WorkerContract) -> None:
        """Ask every worker that is there whether it fits."""


class JobQueue:
    """Jobs on their way; keeps the workers busy, and no more than that, so that nobody's death takes much with it."""

    def __init__(
        self, cluster: "Workers", terms: WorkerContract, progress: Progress, *, one_each: bool = False
    ) -> None:
        self.killers: list[Job] = []
        self.landed: list[tuple[Job, Any]] = []
        self._cluster, self._terms, self._progress, self._one_each = cluster, terms, progress, one_each
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._flying: dict[Future[Any], Job] = {}
        self._again: deque[Job] = deque()
        self._alone = 0  # polls without any worker: a clock would also count what this process slept
        self._error: BaseException | None = None

    def through(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """Yield each job that succeeds; `killers` has those that didn't because their workers died."""
        coming = iter(jobs)
        try:
            while True:
                self._fill(coming)
                if not self._flying:
                    break
                for future in self._ended():
                    job = self._flying.pop(future, None)
                    if job is not None:  # else the scheduler was gone, and it is begun again
                        yield from ((job, value) for value in self._outcome(future, job))
        finally:
            for future in self._flying:
                with suppress(Exception):  # where the scheduler is gone, so is the job
                    future.cancel()
        if self._error is not None:
            raise self._error

    def _fill(self, coming: Iterator[Job]) -> None:
        room = self._room()
        while self._error is None and len(self._flying) < room:
            job = self._again.popleft() if self._again else next(coming, None)
            if job is None:
                return
            future = self._cluster.submit(self._terms, job)
            self._flying[future] = job
            future.add_done_callback(self._done.put)

    def _room(self) -> int:
        """One job more than each worker does at once, so that no worker waits for the scheduler; or one for each."""
        try:
            slots = self._cluster.look()
        except (OSError, RuntimeError, ValueError):
            self._begin_again()
            slots = self._cluster.look()
        self._alone = 0 if slots else self._alone + 1
        if self._alone * POLL_SECONDS > PATIENCE_SECONDS:
            raise ClusterError("all workers are gone; finished work is kept: start some, then run again")
        return max(len(slots) if self._one_each else sum(slots.values()) + len(slots), 1)

    def _ended(self) -> "list[Future[Any]]":
        """Return what has ended, after waiting a little for it."""
        with suppress(queue.Empty):
            self._done.get(timeout=POLL_SECONDS)
        return [future for future in self._flying if future.done()]

    def _outcome(self, future: "Future[Any]", job: Job) -> list[Any]:
        """What a job gave, as a list of one; of none where it is begun again or failed."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            return [future.result(timeout=PATIENCE_SECONDS)]
        except KilledWorker:
            self.killers.append(job)
        except (CancelledError, TimeoutError, OSError) as error:
            if future.status == "error":
                self._error = self._error or error  # the job's own
            else:
                self._again.append(job)
                if not self._cluster.is_open or future.status == "cancelled":
                    self._begin_again()
        except Exception as error:  # noqa: BLE001 - it is raised when what is under way has ended
            self._error = self._error or error
        return []

    def _begin_again(self) -> None:
        """The scheduler was gone, and knows nothing of the jobs under way any more."""
        self._again.extend(self._flying.values())
        self._flying.clear()
        self._cluster.again(self._progress)
        self._cluster.ask(self._terms)
