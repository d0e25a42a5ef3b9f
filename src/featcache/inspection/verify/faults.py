"""What a check finds wrong, and whose fault it is."""

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

DISK, FILE, SETTINGS, UNKNOWN = "disk", "file", "settings", "unknown"

# The disk's own failures, apart from a file that is gone or may not be read, of which nothing can be said.
_DISK_ERRORS = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO})


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        cause: ``disk`` (it can't be read), ``file`` (it is damaged), ``settings`` (it is sound, but not what settings
            or images demand now) or ``unknown`` (nothing can be said of it).
        message: one line: what was expected, what is there.
        block: the damaged block of a feature cache, if it is one.
        unreadable: whoever reads the file hangs or crashes, so nothing can be taken from it.
    """

    cause: str
    message: str
    block: int | None = None
    unreadable: bool = False

    def record(self) -> dict[str, object]:
        """The fault as JSON-able values."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, object]) -> "Fault":
        """The inverse of `record`."""
        block = record["block"]
        number = block if isinstance(block, int) else None
        return cls(str(record["cause"]), str(record["message"]), number, bool(record["unreadable"]))


def reading_fault(path: Path, error: OSError) -> Fault:
    """Turn what the operating system said about reading `path` into a fault of the disk, or one of nobody's."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    cause = DISK if error.errno in _DISK_ERRORS else UNKNOWN
    return Fault(cause, f"{path.name} can't be read: {reason}")


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the disk's failure among an error and its causes; HDF5 wraps what the system told it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None
