"""The client's half of extraction: a block of rows is a job for a worker, and the journal is written here."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from featcache.cache import block_range
from featcache.core.progress import Progress
from featcache.features import CopyJob, ExtractionEngine, ForwardPass, TimeSpent
from featcache.stages.workers.client import Cluster
from featcache.stages.workers.extraction_worker import BlockRows, compute_block, describe_backbone, examine_block
from featcache.stages.workers.job_queue import run_jobs
from featcache.stages.workers.worker import Job, WorkerContract


def remote_backbone(cluster: Cluster, contract: WorkerContract, label: str, progress: Progress) -> ForwardPass:
    """Have a worker load the backbone, and return its `BackboneFacts`: enough where an engine computes there.

    Raises:
        BackboneError, WeightsError: the worker can't load it.
        ClusterError: the workers are gone.
    """
    jobs = [Job("the backbone", describe_backbone, (label,))]
    found: list[ForwardPass] = [value for _, value in run_jobs(cluster, contract, jobs, progress)]
    return found[0]


def remote_engine(cluster: Cluster, contract: WorkerContract, label: str) -> ExtractionEngine:
    """Return an engine for `featcache.features.extract.extract_copies` that computes with that backbone on the workers."""

    def compute_there(copies: Sequence[CopyJob], progress: Progress, what: str) -> TimeSpent:
        begun, spent = time.perf_counter(), Counter({"decode": 0.0, "forward": 0.0, "write": 0.0})
        writers = {copy.writer.partial.absolute(): copy.writer for copy in copies}
        progress.start(what, sum(len(copy.target.todo) for copy in copies), "images")
        try:
            for job, (checksums, seconds) in run_jobs(cluster, contract, _block_jobs(copies, label), progress):
                *_, pieces = job.arguments
                for piece, checksum in zip(pieces, checksums, strict=True):
                    writers[piece.path].accept_block(piece.rows, checksum)
                spent.update(seconds)
                progress.advance(sum(len(piece.rows) for piece in pieces), cluster.summary())
        finally:
            progress.finish()
        return TimeSpent.of(time.perf_counter() - begun, spent)

    return compute_there


def _block_jobs(copies: Sequence[CopyJob], label: str) -> Iterator[Job]:
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
                f"rows {start:,} to {stop - 1:,} of {split}{several}",
                compute_block,
                (label, split, pieces),
                examine_block,
            )
