"""Where to compute, [Cluster] in luigi.cfg: in this process, or on workers of dask.distributed. In no key."""

import re
from dataclasses import dataclass

from featcache.errors import SettingsError
from featcache.settings.specs import at_least

ALONE, LOCAL = "none", "local"
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}")


@dataclass(frozen=True)
class ClusterSpec:
    """Where to compute ([Cluster] in luigi.cfg).

    Attributes:
        scheduler: ``none`` (this process, without dask.distributed), ``local`` (worker processes on this machine, on the
            loopback), or the address of a running scheduler, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.
        workers: of ``local``, how many processes, 0: one for each GPU, or one for every four cores; of an address,
            how many must be connected before the work begins, 0: one.
        threads: of ``local``, the cores of each worker; 0: all cores, evenly divided.
        gpus_per_worker: of ``local``, the GPUs that each worker sees, and no other worker does.
    """

    scheduler: str = ALONE
    workers: int = 0
    threads: int = 0
    gpus_per_worker: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.scheduler not in (ALONE, LOCAL) and not _ADDRESS.fullmatch(self.scheduler):
            allowed = "none, local, tcp://HOST:PORT or tls://HOST:PORT"
            raise SettingsError(f"[Cluster] scheduler={self.scheduler!r} is not {allowed}")
        at_least("[Cluster] workers", self.workers, 0)
        at_least("[Cluster] threads", self.threads, 0)
        at_least("[Cluster] gpus_per_worker", self.gpus_per_worker, 0)
        if self.scheduler not in (ALONE, LOCAL) and (self.threads or self.gpus_per_worker):
            name = "threads" if self.threads else "gpus_per_worker"
            advice = "set it where these workers are started"
            raise SettingsError(f"[Cluster] {name} must be 0 for scheduler={self.scheduler!r}: {advice}")
