"""How long work reports its progress; the library itself never prints."""


class Progress:
    """Receives the progress of one long piece of work, and ignores it where a subclass does nothing with it."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Work on `total` `unit`s begins, e.g. ("train: vgg16", 1437, "images")."""

    def advance(self, count: int, status: str = "") -> None:
        """`count` more units are done; `status` is a short free text, e.g. "forward 92 % · decode 6 %"."""

    def finish(self) -> None:
        """The work is over, done or not."""

    def notice(self, message: str) -> None:
        """Something that nobody may miss, in one line or in few short ones."""


class Silent(Progress):
    """Ignores everything."""
