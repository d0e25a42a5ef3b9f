"""An artifact as Luigi sees it."""

import luigi

from featcache.project import Artifact


class ArtifactTarget(luigi.Target):
    """Exists when the artifact carries the key that settings and inputs demand now."""

    def __init__(self, artifact: Artifact, run: str | None = None) -> None:
        """Wrap `artifact`; with `run`, only one that this run of the program made will do."""
        self.artifact = artifact
        self.run = run

    def exists(self) -> bool:
        """Whether the artifact is complete; never whether a path exists."""
        return self.artifact.is_complete(self.run)

    def __str__(self) -> str:
        """The artifact's path, for Luigi's messages."""
        return str(self.artifact.path)
