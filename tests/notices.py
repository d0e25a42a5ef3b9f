"""A progress that keeps its notices, for tests."""

from featcache.core.progress import Silent


class Notices(Silent):
    """Keeps the notices in `messages`."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def notice(self, message: str) -> None:
        """Keep it."""
        self.messages.append(message)
