"""Decode | augment | forward | write, overlapped: what keeps every core busy while the backbone computes.

Threads decode some batches ahead, two forward passes are under way at once (so that what one does on a single core is
hidden behind the other), and one thread writes behind. Rows of several copies share one decoding.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.cache import MIRROR, Status
from featcache.core.progress import Progress
from featcache.core.rows import Rows
from featcache.core.system import core_numbers
from featcache.core.texts import texts_at
from featcache.dataset import augment
from featcache.errors import RejectedImageError
from featcache.features.devices import Device
from featcache.features.extraction_job import AUGMENT_SEED
from featcache.settings import FeaturesSpec

STREAMS = 2
"""Forward passes at once; with one, a core waits whenever the other does something serial."""

_AHEAD = 3  # batches made ready before they are needed; more only costs memory

Loader = Callable[[str, str, int], npt.NDArray[np.uint8]]
Features = Mapping[str, npt.NDArray[Any]]
Images = npt.NDArray[np.uint8]
T = TypeVar("T")


class ForwardPass(Protocol):
    """What extraction needs of a backbone; `featcache.features.backbone.Backbone` is one."""

    @property
    def device(self) -> Device:
        """What it is computed on."""

    @property
    def batch_size(self) -> int:
        """Rows that are computed at once."""

    @property
    def taps(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name -> shape of one row, (h, w, c) or (c,)."""

    def forward(self, images: Images) -> Features:
        """Map (b, size, size, 3) uint8 RGB images to (b, ...) features per tap name, b <= batch_size. Thread-safe."""


@runtime_checkable
class Foreseeing(Protocol):
    """A forward pass that is faster for knowing how much is to come."""

    @property
    def side_by_side(self) -> Sequence[str]:
        """Names of its convolutions that work on several images at once, as that proved to be faster."""

    def expect(self, rows: int) -> None:
        """Take note that so many rows are about to come."""


@dataclass(frozen=True, eq=False)
class CopySink:
    """Where one copy's rows go.

    Attributes:
        copy: 0 for plain images, 1.. for augmented ones, `MIRROR` for mirrored ones.
        todo: (k,) int, ascending: the rows that have to be computed.
        write: rows, features and (b,) status of a batch -> the cache; called from one thread at a time.
    """

    copy: int
    todo: npt.NDArray[np.intp]
    write: Callable[[npt.NDArray[np.intp], Features, npt.NDArray[np.uint8]], None]


class TimeSpent(NamedTuple):
    """Wall-clock seconds of a computation, and decode, forward and write as fractions of its work, in 0..1, sum 1."""

    seconds: float
    shares: dict[str, float]

    @classmethod
    def of(cls, seconds: float, parts: Mapping[str, float]) -> "TimeSpent":
        """With the shares that the seconds in `parts` have of their sum."""
        whole = sum(parts.values()) or 1.0
        return cls(seconds, {what: round(part / whole, 4) for what, part in parts.items()})


class _Clock:
    """Where the time goes, as shares of the machine that the three steps take.

    Decoding and writing count by the processor time of their threads, as they share the cores with the forward pass, or
    by the time that everything waited for them, if that is more; the rest is the forward pass.
    """

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._cores = len(core_numbers())
        self._busy = {"decode": 0.0, "write": 0.0}
        self._stalled = {"decode": 0.0, "write": 0.0}
        self._lock = threading.Lock()

    def work(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call, and count this thread's processor time as `what`."""
        begun, result = time.thread_time(), call(*arguments)
        with self._lock:
            self._busy[what] += time.thread_time() - begun
        return result

    def stall(self, what: str, future: "Future[None]") -> None:
        """Wait for an end; everything else waits meanwhile."""
        begun = time.perf_counter()
        future.result()
        self._stalled[what] += time.perf_counter() - begun

    def wait_for(self, parts: "Sequence[Future[None]]", running: "Sequence[Future[Any]]") -> None:
        """Wait for images; it is a stall only where no forward pass is under way."""
        for part in parts:
            under_way = [future for future in running if not future.done()]
            while under_way and not part.done():
                wait([part, *under_way], return_when=FIRST_COMPLETED)
                under_way = [future for future in under_way if not future.done()]
            self.stall("decode", part)

    def spent(self) -> TimeSpent:
        """Since it was made."""
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        decode, write = (max(busy / self._cores, self._stalled[what]) for what, busy in self._busy.items())
        forward = max(0.0, seconds - decode - write)
        return TimeSpent.of(seconds, {"decode": decode, "forward": forward, "write": write})

    def __str__(self) -> str:
        """For the progress bar: ``forward 92 % · decode 6 % · write 2 %``."""
        ordered = sorted(self.spent().shares.items(), key=lambda item: -item[1])
        return " · ".join(f"{what} {100 * share:.0f} %" for what, share in ordered)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Rows of one target that are computed together, and their images, whole once all `parts` are done."""

    target: CopySink
    rows: npt.NDArray[np.intp]
    images: Images
    status: npt.NDArray[np.uint8]
    parts: "list[Future[None]]"


def compute(
    rows: Rows,
    targets: Sequence[CopySink],
    load: Loader,
    spec: FeaturesSpec,
    backbone: ForwardPass,
    progress: Progress,
    what: str,
) -> TimeSpent:
    """Compute every target's rows; what is computed is written, also when a later batch or image fails.

    `load` maps location, content digest and size to (size, size, 3) uint8 RGB; several threads call it. `what` is the work's
    name for `progress`.

    Raises:
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer the one in the manifest.
        StorageError: the disk is full, read-only or not permitted.
    """
    clock = _Clock()
    prefetcher = _Prefetcher(rows, load, spec, clock)
    count = sum(len(target.todo) for target in targets)
    if isinstance(backbone, Foreseeing):
        backbone.expect(count)
    progress.start(what, count, "images")
    forward = ThreadPoolExecutor(STREAMS, thread_name_prefix="featcache-forward")
    sink = ThreadPoolExecutor(1, thread_name_prefix="featcache-write")
    running: deque[tuple[_Batch, Future[Features]]] = deque()

    def started() -> Iterator[tuple[_Batch, "Future[Features]"]]:
        for batch in _ahead(prefetcher.batches(targets, backbone.batch_size), _AHEAD, deque()):
            clock.wait_for(batch.parts, [future for _, future in running])
            yield batch, forward.submit(backbone.forward, batch.images)

    def written() -> Iterator["Future[None]"]:
        for batch, future in _ahead(started(), STREAMS, running):
            write = sink.submit(clock.work, "write", _write, batch, future.result())
            progress.advance(len(batch.rows), str(clock))
            yield write

    try:
        for write in _ahead(written(), _AHEAD, deque()):
            clock.stall("write", write)
    finally:
        prefetcher.close()
        wait([future for _, future in running])
        for batch, future in running:  # what was still being computed when something failed
            if future.exception() is None:
                sink.submit(_write, batch, future.result())
        forward.shutdown()
        sink.shutdown()
        progress.finish()
    return clock.spent()


def _ahead(items: Iterator[T], count: int, waiting: deque[T]) -> Iterator[T]:
    """Yield items in order, each once `count` more are made and `waiting`: what they stand for goes on meanwhile."""
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _write(batch: _Batch, features: Features) -> None:
    rejected = batch.status == Status.REJECTED
    if rejected.any():
        features = {name: np.where(rejected.reshape(-1, *[1] * (f.ndim - 1)), 0, f) for name, f in features.items()}
    batch.target.write(batch.rows, features, batch.status)


class _Prefetcher:
    """Makes images ready: decoded once for all copies, augmented or mirrored, some batches ahead of the forward pass."""

    def __init__(self, rows: Rows, load: Loader, spec: FeaturesSpec, clock: _Clock) -> None:
        self._rows, self._load, self._clock = rows, load, clock
        self._size, self._policy = spec.image_size, spec.augmentation
        self._threads = len(core_numbers())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="featcache-decode")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(self, targets: Sequence[CopySink], batch_size: int) -> Iterator[_Batch]:
        """Hand the work to the threads: a stretch of rows is decoded once, then each copy is made of it."""
        wanted = np.unique(np.concatenate([target.todo for target in targets]))
        for start in range(0, len(wanted), batch_size):
            rows = wanted[start : start + batch_size]
            images = np.zeros((len(rows), self._size, self._size, 3), np.uint8)
            status = np.full(len(rows), Status.OK, np.uint8)
            plain = _Batch(targets[0], rows, images, status, [])
            self._spread(plain, self._decode)
            for target in targets:
                mine = np.flatnonzero(np.isin(rows, target.todo, assume_unique=True))
                if len(mine) == len(rows) and not target.copy:
                    yield replace(plain, target=target)
                elif len(mine):
                    copied = np.zeros((len(mine), *images.shape[1:]), np.uint8)
                    batch = _Batch(target, rows[mine], copied, np.zeros(len(mine), np.uint8), [*plain.parts])
                    self._spread(batch, self._augment, plain, mine)
                    yield batch

    def _spread(self, batch: _Batch, call: Callable[..., None], *arguments: object) -> None:
        """Let the threads `call` for parts of a batch, and count their time as decoding."""
        for part in np.array_split(np.arange(len(batch.rows)), min(self._threads, len(batch.rows))):
            batch.parts.append(self._pool.submit(self._clock.work, "decode", call, part, batch, *arguments))

    def _decode(self, part: npt.NDArray[np.intp], batch: _Batch) -> None:
        """Fill in a part of the images; one that can't be decoded stays black and is marked as rejected."""
        locations, digests = (
            texts_at(column, batch.rows[part]) for column in (self._rows.locations, self._rows.digests)
        )
        for i, location, digest in zip(part.tolist(), locations, digests, strict=True):
            try:
                batch.images[i] = self._load(location, digest, self._size)
            except RejectedImageError:
                batch.status[i] = Status.REJECTED

    def _augment(self, part: npt.NDArray[np.intp], batch: _Batch, plain: _Batch, mine: npt.NDArray[np.intp]) -> None:
        """Fill in a part of a copy's images.

        It waits for the decoding in a thread of the pool; that was handed over before, so there is always one that runs.
        """
        wait(plain.parts)
        batch.status[part] = plain.status[mine[part]]
        for i in part:
            image, digest = plain.images[mine[i]], self._rows.digests[batch.rows[i]]
            if batch.target.copy == MIRROR:
                image = image[:, ::-1]
            elif batch.target.copy and batch.status[i] == Status.OK:
                image = augment(image, self._policy, AUGMENT_SEED, digest, batch.target.copy)
            batch.images[i] = image
