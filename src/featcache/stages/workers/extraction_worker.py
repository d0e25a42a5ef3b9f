"""The worker's half of extraction: compute a block of rows and write its features straight into the one file that will be the cache.

Workers write rows and make them durable; the journal, which decides what counts, is written only by the process that holds the
file. What travels over the network is row numbers and checksums.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.cache import write_block
from featcache.core.progress import Silent
from featcache.features import CopySink, Device, Features, ForwardPass, compute
from featcache.project import Project, image_loader, keeping_reasons, resolved_backbone
from featcache.stages.workers.worker import ONE_AT_A_TIME, manifest_of

Batch = tuple[Features, npt.NDArray[np.uint8]]  # features of some rows, and their status


@dataclass(frozen=True, eq=False)
class BlockRows:
    """Rows of one block of one copy: (k,) int64, ascending, and the partial file where they belong."""

    copy: int
    path: Path
    holder: bytes
    rows: npt.NDArray[np.int64]


class BackboneFacts(NamedTuple):
    """What the process that holds the files must know of the workers' backbone, which alone has a forward pass."""

    taps: Mapping[str, tuple[int, ...]]
    batch_size: int
    device: Device


def describe_backbone(project: Project, label: str) -> BackboneFacts:
    """Load the backbone, if it isn't yet, and describe it."""
    backbone = worker_backbone(project, label)
    return BackboneFacts(dict(backbone.taps), backbone.batch_size, backbone.device)


def compute_block(
    project: Project, label: str, split: str, pieces: Sequence[BlockRows]
) -> tuple[list[bytes], dict[str, float]]:
    """Decode and compute the rows of all pieces, an image that several copies need once, and write them durably.

    Returns the checksum of each piece's block as read back, and the seconds of decode, forward and write.

    Raises:
        FeatureValueError: a feature is not finite or beyond float16.
        SourceChangedError: an image is no longer the one in the manifest.
        StorageError: the disk refused.
    """
    rows, spec = manifest_of(project).splits[split], project.backbone(label).spec
    kept: list[list[Batch]] = [[] for _ in pieces]
    sinks = [CopySink(piece.copy, piece.rows, partial(_keep, own)) for piece, own in zip(pieces, kept, strict=True)]
    load = keeping_reasons(project.folder, image_loader(project))
    spent = compute(rows, sinks, load, spec, worker_backbone(project, label), Silent(), "")
    begun, checksums = time.perf_counter(), []
    for piece, batches in zip(pieces, kept, strict=True):  # in one go, as each write waits for the disk
        features = {name: np.concatenate([part[name] for part, _ in batches]) for name in batches[0][0]}
        status = np.concatenate([part for _, part in batches])
        checksums.append(write_block(piece.path, piece.holder, rows.ids, piece.rows, features, status))
    seconds = {what: share * spent.seconds for what, share in spent.shares.items()}
    seconds["write"] += time.perf_counter() - begun
    return checksums, seconds


def _keep(kept: list[Batch], _: npt.NDArray[np.intp], features: Features, status: npt.NDArray[np.uint8]) -> None:
    kept.append((features, status))


def examine_block(project: Project, label: str, split: str, pieces: Sequence[BlockRows]) -> str:
    """Find the image that crashes the decoder, by decoding all in another process; "" where none does."""
    rows = manifest_of(project).splits[split]
    numbers = np.unique(np.concatenate([piece.rows for piece in pieces])).tolist()
    task = {
        "dataset": asdict(project.settings.dataset),
        "size": project.backbone(label).spec.image_size,
        "images": [(rows.locations[row], rows.digests[row]) for row in numbers],
    }
    command = [sys.executable, "-m", "featcache.dataset.decoding.decode_check"]
    # a process of its own, and no child of multiprocessing: Dask's workers may have none
    done = subprocess.run(command, input=json.dumps(task, default=str), capture_output=True, text=True, check=False)  # noqa: S603  # our own words
    at = int(["-1", *done.stdout.split()][-1])
    return "" if at in (-1, len(numbers)) else f"{rows.ids[numbers[at]]!r} of {split}"


def worker_backbone(project: Project, label: str) -> ForwardPass:
    """The project's backbone of that label, loaded once a process."""
    with ONE_AT_A_TIME:
        return resolved_backbone(project.backbone(label), Silent())
