"""Where to compute, [Cluster] in luigi.cfg: in this process, or on workers of dask.distributed. In no key."""

import re
from dataclasses import dataclass

from featcache.errors import SettingsError
from featcache.settings.specs import at_least

ALONE, LOCAL = "none", "local"
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}")


@dataclass(frozen=True)
class ClusterSpec:
    """Where to compute; what each attribute means is in `SECTIONS`.

    Local workers listen on the loopback only, and no two of them see the same GPU.
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
        for name in ("workers", "threads", "gpus_per_worker"):
            at_least(f"[Cluster] {name}", getattr(self, name), 0)
        if self.scheduler not in (ALONE, LOCAL) and (self.threads or self.gpus_per_worker):
            name = "threads" if self.threads else "gpus_per_worker"
            advice = "set it where these workers are started"
            raise SettingsError(f"[Cluster] {name} must be 0 for scheduler={self.scheduler!r}: {advice}")
