"""The client's half of extraction: a block of rows is a job for a worker, and the journal is written here."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from featcache.cache import block_range
from featcache.core.progress import Progress
from featcache.features import CopyJob, ExtractionEngine, ForwardPass, Loader
from featcache.stages.workers.client import Cluster
from featcache.stages.workers.extraction_worker import (
    BlockDone,
    BlockRows,
    RemoteBackbone,
    compute_block,
    describe_backbone,
    examine_block,
)
from featcache.stages.workers.job_queue import Job
from featcache.stages.workers.worker import WorkerContract


def remote_backbone(cluster: Cluster, contract: WorkerContract, progress: Progress) -> RemoteBackbone:
    """Have a worker load the backbone, and return its description.

    Raises:
        BackboneError, WeightsError: the worker can't load it.
        ClusterError: the workers are gone.
    """
    jobs = [Job("the backbone", describe_backbone, ())]
    found: list[RemoteBackbone] = [value for _, value in cluster.run(contract, jobs, progress)]
    return found[0]


def remote_engine(cluster: Cluster, contract: WorkerContract) -> ExtractionEngine:
    """Return an engine for `featcache.features.extract.extract_copies` that computes on the workers."""

    def compute_there(
        copies: Sequence[CopyJob], load: Loader, backbone: ForwardPass, progress: Progress, what: str
    ) -> "_WorkersTime":
        del load, backbone  # the workers have their own
        time_spent = _WorkersTime()
        writers = {copy.writer.partial.absolute(): copy.writer for copy in copies}
        progress.start(what, sum(len(copy.target.todo) for copy in copies), "images")
        try:
            for job, done in cluster.run(contract, _block_jobs(copies), progress):
                _, pieces = job.arguments
                for piece, checksum in zip(pieces, done.checksums, strict=True):
                    writers[piece.path].accept_block(piece.rows, checksum)
                time_spent.add(done)
                progress.advance(sum(len(piece.rows) for piece in pieces), cluster.summary())
        finally:
            progress.finish()
        time_spent.close()
        return time_spent

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
            yield Job(
                f"rows {start:,} to {stop - 1:,} of {split}{several}", compute_block, (split, pieces), examine_block
            )


class _WorkersTime:
    """Where the workers' time went, as shares of it, and the seconds that passed here."""

    def __init__(self) -> None:
        self._begun, self.seconds = time.perf_counter(), 0.0
        self._spent = {"decode": 0.0, "forward": 0.0, "write": 0.0}

    def add(self, done: BlockDone) -> None:
        """Count a block."""
        for what, share in done.shares.items():
            self._spent[what] += share * done.seconds

    def close(self) -> None:
        """The work is done: `seconds` of wall-clock time have passed."""
        self.seconds = max(time.perf_counter() - self._begun, 1e-9)

    def shares(self) -> dict[str, float]:
        """Decode, forward and write as fractions of the workers' time, in 0..1, sum 1."""
        whole = sum(self._spent.values()) or 1.0
        return {what: round(seconds / whole, 4) for what, seconds in self._spent.items()}
