"""How long work reports its progress; the library itself never prints."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one long piece of work."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Work on `total` `unit`s begins, e.g. ("train: vgg16", 1437, "images")."""

    def advance(self, count: int, status: str = "") -> None:
        """`count` more units are done; `status` is a short free text, e.g. "forward 92 % · decode 6 %"."""

    def finish(self) -> None:
        """The work is over, done or not."""

    def notice(self, message: str) -> None:
        """Something that nobody may miss, in one line."""


class Silent:
    """Ignores everything."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Ignore it."""

    def advance(self, count: int, status: str = "") -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""

    def notice(self, message: str) -> None:
        """Ignore it."""
