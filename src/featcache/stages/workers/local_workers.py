"""Worker processes on this machine, each with its own cores and GPUs, on the loopback. Imported by `client`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.core.gpu import VISIBLE, visible_gpus
from featcache.core.system import core_numbers
from featcache.errors import ClusterError
from featcache.settings import ClusterSpec
from featcache.stages.workers.worker import CPUS_VARIABLE, LOG_VARIABLE

if TYPE_CHECKING:
    from distributed import SpecCluster

_LOOPBACK = "127.0.0.1"
_SLOTS = 2  # jobs at once: while one ends, the next one's images are decoded
_CORES = 4  # of a worker, where nothing is asked for


def start_workers(spec: ClusterSpec, log: Path) -> "SpecCluster":
    """Start a scheduler in this process, and worker processes that a nanny each starts again when they die.

    What they print goes to `log`. A `ClusterError` if fewer GPUs are visible than asked for.
    """
    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    places = deal_out(spec, core_numbers(), visible_gpus())
    options = {
        "nthreads": _SLOTS,
        "memory_limit": MEMORY_LIMIT // len(places),
        "host": _LOOPBACK,
        "dashboard": False,
        "dashboard_address": f"{_LOOPBACK}:0",
        "preload": ["featcache.stages.workers.worker"],
        "silence_logs": logging.WARNING,
    }
    workers = {
        number: {"cls": Nanny, "options": {**options, "env": {**place, LOG_VARIABLE: str(log.absolute())}}}
        for number, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {"host": _LOOPBACK, "port": 0, "dashboard_address": f"{_LOOPBACK}:0"}}
    threads = str(len(places[0][CPUS_VARIABLE].split(",")))
    before = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": before}):
        return SpecCluster(workers, scheduler=scheduler, silence_logs=False)


def deal_out(spec: ClusterSpec, cores: list[int], gpus: list[str]) -> list[dict[str, str]]:
    """Return each worker's environment, its cores and any GPUs, or raise a `ClusterError` if there are too few of these.

    Where nothing is asked for it is a worker a GPU; more workers than GPUs share them.
    """
    each = spec.gpus_per_worker
    count = spec.workers or (max(1, len(gpus) // (each or 1)) if gpus or each else max(1, len(cores) // _CORES))
    if count * each > len(gpus):
        needed = f"{count} workers need {count * each} GPUs"
        raise ClusterError(f"[Cluster] gpus_per_worker = {each}: {needed}, {len(gpus)} are visible: ask for fewer")
    threads = spec.threads or max(1, len(cores) // count)
    places = []
    for number in range(count):
        mine = [cores[(number * threads + i) % len(cores)] for i in range(min(threads, len(cores)))]
        place = {CPUS_VARIABLE: ",".join(map(str, mine))}
        if gpus:
            place[VISIBLE] = ",".join(gpus[number * each : (number + 1) * each]) or gpus[number % len(gpus)]
        places.append(place)
    return places
