"""Extraction on workers: a block of rows is a job, whose features go straight into the one file that will be the cache.

Workers write rows and make them durable; the journal, which says what counts, is written by the conductor alone. What
travels over the network is row numbers, checksums and statistics.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache import BlockScan, BlockWriter, block_range
from featcache.core.progress import Progress, Silent
from featcache.dataset import open_source
from featcache.features import CopyJob, CopySink, ExtractionEngine, Features, ForwardPass, Images, Loader, compute
from featcache.project import Project, resolved_backbone
from featcache.stages.workers.client import Cluster
from featcache.stages.workers.job_queue import Job
from featcache.stages.workers.worker import ONE_AT_A_TIME, WorkerContract, manifest_of

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockRows:
    """Rows of one block of one copy: (k,) int64, ascending, and the partial file where they belong."""

    copy: int
    path: Path
    holder: bytes
    rows: RowNumbers


@dataclass(frozen=True, eq=False)
class BlockDone:
    """What a worker says of a block: what reading each piece's block back found, and where the time went."""

    scans: list[BlockScan]
    seconds: float
    shares: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class RemoteBackbone:
    """A backbone on the workers, as far as who writes the file must know it."""

    taps: Mapping[str, tuple[int, ...]]
    batch_size: int

    def forward(self, images: Images) -> Features:
        """Never called here: the workers compute."""
        raise NotImplementedError(f"expected workers to compute these {len(images)} images")


# ---- on the workers


def describe_backbone(project: Project) -> RemoteBackbone:
    """Load the backbone, if it isn't yet, and say what it is."""
    backbone = _backbone(project)
    return RemoteBackbone(dict(backbone.taps), backbone.batch_size)


def compute_block(project: Project, split: str, pieces: Sequence[BlockRows]) -> BlockDone:
    """Decode and compute the rows of all pieces, an image that several copies need once, and write them durably.

    Raises:
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer what the manifest says.
        StorageError: the disk refused.
    """
    rows, spec = manifest_of(project).splits[split], project.settings.features
    gathered = [_Gathered() for _ in pieces]
    targets = [CopySink(piece.copy, piece.rows, kept.take) for piece, kept in zip(pieces, gathered, strict=True)]
    load = open_source(project.settings.dataset).load
    account = compute(rows, targets, load, spec, _backbone(project), Silent(), "")
    begun, scans = time.perf_counter(), []
    for piece, kept in zip(pieces, gathered, strict=True):
        with BlockWriter(piece.path, piece.holder, rows.ids) as writer:
            scans.append(writer.write(piece.rows, *kept.joined()))
    written, shares = time.perf_counter() - begun, account.shares()
    seconds = account.seconds + written
    parts = {name: share * account.seconds / seconds for name, share in shares.items()}
    return BlockDone(scans, seconds, parts | {"write": parts["write"] + written / seconds})


def examine_block(project: Project, split: str, pieces: Sequence[BlockRows]) -> str:
    """Find the image that ends the process which decodes it, by decoding all in another one; "" where none does."""
    rows = manifest_of(project).splits[split]
    numbers = np.unique(np.concatenate([piece.rows for piece in pieces])).tolist()
    images = [(rows.locations[row], rows.digests[row]) for row in numbers]
    dataset = project.settings.dataset
    path = str(dataset.path) if dataset.path is not None else None
    size = project.settings.features.image_size
    task = json.dumps({"source": dataset.source, "path": path, "size": size, "images": images})
    words = [sys.executable, "-m", "featcache.dataset.decoding.decode_check"]
    # a process of its own, and no child of multiprocessing: Dask's workers may have none
    done = subprocess.run(words, input=task, capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    at = int(["-1", *done.stdout.split()][-1])
    return "" if at in (-1, len(images)) else f"{rows.ids[numbers[at]]!r} of {split}"


class _Gathered:
    """A block's features in memory: it is written in one go, as each write waits for the disk."""

    def __init__(self) -> None:
        self._parts: list[tuple[Features, npt.NDArray[np.uint8]]] = []

    def take(self, rows: npt.NDArray[np.intp], features: Features, status: npt.NDArray[np.uint8]) -> None:
        """Keep a batch; they come in the order of their rows."""
        del rows
        self._parts.append((features, status))

    def joined(self) -> tuple[Features, npt.NDArray[np.uint8]]:
        """All batches' features and status."""
        names = self._parts[0][0]
        features = {name: np.concatenate([part[name] for part, _ in self._parts]) for name in names}
        return features, np.concatenate([status for _, status in self._parts])


def _backbone(project: Project) -> ForwardPass:
    with ONE_AT_A_TIME:
        return resolved_backbone(project, Silent())


# ---- in the process that holds the files


def remote_backbone(cluster: Cluster, terms: WorkerContract, progress: Progress) -> RemoteBackbone:
    """Have a worker load the backbone, and return what it says of it.

    Raises:
        BackboneError, WeightsError: the worker can't load it.
        ClusterError: the workers are gone.
    """
    jobs = [Job("the backbone", describe_backbone, ())]
    found: list[RemoteBackbone] = [value for _, value in cluster.run(terms, jobs, progress)]
    return found[0]


def remote_engine(cluster: Cluster, terms: WorkerContract) -> ExtractionEngine:
    """Return an engine for `featcache.features.extract.extract_copies` that computes on the workers."""

    def compute_there(
        copies: Sequence[CopyJob], load: Loader, backbone: ForwardPass, progress: Progress, what: str
    ) -> "_Together":
        del load, backbone  # the workers have their own
        together = _Together()
        progress.start(what, sum(len(copy.target.todo) for copy in copies), "images")
        try:
            for job, done in cluster.run(terms, _block_jobs(copies), progress):
                split, pieces = job.arguments
                del split
                for piece, scan in zip(pieces, done.scans, strict=True):
                    writer = next(copy.writer for copy in copies if copy.writer.partial.absolute() == piece.path)
                    writer.adopt(piece.rows, scan)
                together.add(done)
                progress.advance(sum(len(piece.rows) for piece in pieces), cluster.said())
        finally:
            progress.finish()
        together.close()
        return together

    return compute_there


def _block_jobs(copies: Sequence[CopyJob]) -> Iterator[Job]:
    """A job for each block that lacks rows; copies whose blocks are equally long share theirs."""
    for block_rows in sorted({copy.writer.block_rows for copy in copies}):
        alike = [copy for copy in copies if copy.writer.block_rows == block_rows and len(copy.target.todo)]
        wanted = [copy.target.todo.astype(np.int64) for copy in alike]
        lacking = [rows // block_rows for rows in wanted]
        for block in np.unique(np.concatenate(lacking)).tolist() if lacking else []:
            start, stop = block_range(block, block_rows, len(copies[0].job.rows))
            pieces = [
                BlockRows(copy.job.copy, copy.writer.partial.absolute(), copy.writer.holder, rows[slice(*bounds)])
                for copy, rows in zip(alike, wanted, strict=True)
                if np.diff(bounds := np.searchsorted(rows, (start, stop)))[0]
            ]
            split = alike[0].job.split
            several = f", {len(pieces)} copies" * (len(pieces) > 1)
            name = f"rows {start:,} to {stop - 1:,} of {split}{several}"
            yield Job(name, compute_block, (split, pieces), examine_block)


class _Together:
    """Where the workers' time went, as shares of it, and the seconds that passed here."""

    def __init__(self) -> None:
        self._begun, self._end = time.perf_counter(), 0.0
        self._spent = {"decode": 0.0, "forward": 0.0, "write": 0.0}

    def add(self, done: BlockDone) -> None:
        """Count a block."""
        for what, share in done.shares.items():
            self._spent[what] += share * done.seconds

    def close(self) -> None:
        """The work is done."""
        self._end = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""
        return max(self._end - self._begun, 1e-9)

    def shares(self) -> dict[str, float]:
        """Decode, forward and write as fractions of the workers' time, in 0..1, sum 1."""
        whole = sum(self._spent.values()) or 1.0
        return {what: round(seconds / whole, 4) for what, seconds in self._spent.items()}
