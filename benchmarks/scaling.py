"""One worker against two on the same cores, and what a job costs beside its work.

    FEATCACHE_SHARED=PATH python benchmarks/scaling.py

PATH holds ``data/mnist``. Each worker has one core for itself, so two have twice what one has; 3,072 of MNIST's images are
extracted at 48 pixels by VGG16 with random weights, in blocks of 64 rows, by one worker and by two in turn (A B B A). Then
500 jobs that do nothing tell what scheduling one takes. Prints Markdown for benchmarks/RESULTS.md, and the costs that
benchmarks/scaling_table.py computes with.
"""

import gzip
import os
import statistics
import struct
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache import stages
from featcache.cache.reader import open_cache
from featcache.core.progress import Silent
from featcache.project.project import Project
from featcache.settings.parsing import parse_settings
from featcache.settings.specs import ClusterSpec
from featcache.stages.workers.client import Cluster, connect, verified_workers
from featcache.stages.workers.extraction_worker import worker_backbone
from featcache.stages.workers.job_queue import run_jobs
from featcache.stages.workers.worker import Job

SHARED = Path(os.environ["FEATCACHE_SHARED"])
ROWS, BLOCK_BYTES, JOBS = 3072, 64 * 1024, 500


def project_in(folder: Path) -> Project:
    """Some of MNIST, listed and resolved."""
    images = gzip.decompress((SHARED / "data/mnist/train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((SHARED / "data/mnist/train-labels-idx1-ubyte.gz").read_bytes())
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, ROWS, 28, 28) + images[16:][: ROWS * 784])
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, ROWS) + labels[8:][:ROWS])
    dataset = {"name": "mnist", "source": "idx", "path": str(folder)}
    features = {"weights": "random", "image_size": "48"}
    project = Project(parse_settings({"Dataset": dataset, "Features": features, "Paths": {"artifacts": str(folder)}}))
    stages.index_images(project, Silent())
    stages.resolve_features(project, Silent())
    return project


def workers(project: Project, count: int) -> Cluster:
    """`count` workers of one core each, who have loaded the backbone."""
    project.settings = replace(project.settings, cluster=ClusterSpec("local", workers=count, threads=1))
    found = connect(project)
    assert found is not None
    return found


def extraction(project: Project) -> tuple[float, dict[str, float]]:
    """Images a second of all workers, computing every row anew, and where the workers' time went."""
    begun = time.perf_counter()
    stages.extract_split(project, "train", Silent(), fresh=True)
    run = open_cache(project.backbones[0].cache("train", 0).path).run
    return run["images_per_second"], {**run["shares"], "whole": time.perf_counter() - begun}


def overhead(project: Project, cluster: Cluster) -> float:
    """Seconds of a job that does nothing, as many at once as there would be."""
    jobs = [Job(f"nothing {number}", str, ()) for number in range(JOBS)]
    with verified_workers(cluster, project, weights=False) as terms:
        begun = time.perf_counter()
        assert sum(1 for _ in run_jobs(cluster, terms, jobs, Silent())) == JOBS
        return (time.perf_counter() - begun) / JOBS


def main() -> None:
    """Measure and print."""
    os.environ["FEATCACHE_BLOCK_BYTES"] = str(BLOCK_BYTES)
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares: dict[str, float] = {}
    starts = []
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent / "artifacts") as folder:
        project = project_in(Path(folder))
        for count in (1, 2, 2, 1):
            begun = time.perf_counter()
            cluster = workers(project, count)
            if not rates[count] or count == 1:  # freshly started: the backbone is loaded before the clock runs
                load_backbones(project, cluster)
                starts.append(round(time.perf_counter() - begun, 1))
            rate, shares = extraction(project)
            rates[count].append(rate)
        cluster = workers(project, 2)
        each = overhead(project, cluster)
        cluster.close()
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    print("| workers of one core | images/s | efficiency |\n| --- | --- | --- |")
    print(f"| 1 | {one:,.0f} | 1 |\n| 2 | {two:,.0f} | {two / (2 * one):.3f} |\n")
    print(f"one job beside its work: {each * 1e3:.2f} ms; rounds {rates}; shares {shares}; starts {starts}")


def load_backbones(project: Project, cluster: Cluster) -> None:
    """Have every worker load and compile its backbone: more jobs than they do at once."""
    jobs = [Job(f"backbone {number}", compute_nothing, ()) for number in range(4 * len(cluster.workers))]
    with verified_workers(cluster, project, weights=True) as terms:
        list(run_jobs(cluster, terms, jobs, Silent()))


def compute_nothing(project: Project) -> None:
    """On a worker: what it does once, and one forward pass."""
    from featcache.features.backbone import Backbone

    backbone = worker_backbone(project, "")
    assert isinstance(backbone, Backbone)
    backbone.settle()  # else it would compile again during the measurement
    backbone.forward(np.zeros((backbone.batch_size, 48, 48, 3), np.uint8))


if __name__ == "__main__":
    main()
