"""What every stage is to Luigi: artifacts that carry the keys they must, and work that one run at a time does."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import luigi

from featcache.core.folder_lock import folder_lock
from featcache.errors import CacheMismatchError
from featcache.project import Artifact, needs
from featcache.settings import GROUP
from pipeline.config import Scope, current_project
from pipeline.stage_progress import StageProgress

# What stages hold while they work, as Luigi counts it; where luigi.cfg's [resources] doesn't say otherwise there is one of each.
CORES = {"cores": 1}
GPU = {**CORES, "gpu": 1}
_PR_SET_PDEATHSIG = 1


@dataclass(eq=False)
class ArtifactTarget(luigi.Target):
    """An artifact as Luigi sees it: it exists when it carries the key that settings and inputs demand now.

    With `run`, only one that this run of the program made counts.
    """

    artifact: Artifact
    run: str | None = None

    def exists(self) -> bool:
        """Whether the artifact is complete; never whether a path exists."""
        return self.artifact.is_complete(self.run)

    def __str__(self) -> str:
        """The artifact's path, for Luigi's messages."""
        return str(self.artifact.path)


class Stage(luigi.Task):
    """Artifacts and the work that makes them. Luigi's `resources` let one stage at a time have the cores."""

    scope = Scope(description="set by featcache: digest of the artifacts folder and all settings")
    rerun = luigi.BoolParameter(default=False, description="run exactly this stage again")
    resources = CORES
    known: ClassVar[dict[str, type["Stage"]]] = {}

    def __init_subclass__(cls) -> None:
        """Make it known by its name, by which others need it."""
        Stage.known[cls.__name__] = cls

    @abstractmethod
    def artifacts(self) -> list[Artifact]:
        """The stage's artifacts and the keys that they must carry now."""

    @abstractmethod
    def work(self, progress: StageProgress) -> str:
        """Make the artifacts; return the result in one line."""

    def requires(self) -> list[luigi.Task]:
        """The stages that it needs: none where what is stored only has to be shown."""
        return [] if self.is_stored() else [Stage.known[name]() for name in self.needed()]

    def needed(self) -> tuple[str, ...]:
        """The names of the stages that the settings make it need."""
        return needs(self.task_family, groups=current_project().settings.dataset.near_duplicates == GROUP)

    def output(self) -> list[ArtifactTarget]:
        """The artifacts as Luigi sees them; a rerun wants those of this very run."""
        run = current_project().run if self.rerun else None
        return [ArtifactTarget(artifact, run) for artifact in self.artifacts()]

    def complete(self) -> bool:
        """Whether there are artifacts, and each carries the key it must."""
        targets = self.output()
        return bool(targets) and all(target.exists() for target in targets)

    @contextmanager
    def exclusive(self, inputs: list[luigi.Task]) -> Iterator[StageProgress | None]:
        """Lock the artifacts folder, after waiting for whoever holds it; None if there is nothing left to do by then.

        Raises:
            CacheMismatchError: another run replaced one of the `inputs` by one of other settings.
        """
        _die_with_parent()
        progress = StageProgress(self)
        try:
            with folder_lock(current_project().folder, self.task_family, progress.notice):
                if self.complete():
                    yield None
                    return
                changed = next((task.task_family for task in inputs if not task.complete()), None)
                if changed:
                    raise CacheMismatchError(
                        f"the results of {changed} changed during this run (images, weights, settings, or another run): "
                        "run the same command again; finished work is kept"
                    )
                progress.show()  # waiting for another run is no work
                yield progress
        finally:
            progress.finish()

    def is_stored(self) -> bool:
        """Whether the results are there, and only the copies that are shown may not be theirs."""
        shown = [artifact for artifact in self.artifacts() if artifact.shown is not None]
        return bool(shown) and not self.rerun and all(artifact.is_stored() for artifact in shown)

    def run(self) -> Iterator[list[luigi.Task]] | None:
        """Work, unless another run did it since the scheduling."""
        with self.exclusive(self.deps()) as progress:
            if progress is not None:
                progress.result(self.work(progress))
        return None


def _die_with_parent() -> None:
    """In a process that Luigi forked (``--workers 2``), have the kernel kill it as soon as Luigi itself is dead.

    Otherwise the child of a killed Luigi would go on writing, and the next run would wait for it. Linux only; elsewhere
    the child finishes its stage.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        why = os.strerror(ctypes.get_errno())
        logging.getLogger("luigi-interface").warning("this process may outlive Luigi: prctl: %s", why)
    if os.getppid() != parent.pid:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)
