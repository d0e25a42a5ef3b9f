"""What this process has of the machine, where systems differ in how they tell."""

import os
import resource
import sys


def core_numbers() -> list[int]:
    """Return the processor cores that this process may use, ascending; all of them where nobody can say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def peak_bytes() -> int:
    """Return the most memory that this process ever had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def reserves() -> bool:
    """Return whether the system can reserve a file's space (`os.posix_fallocate`; macOS has none)."""
    return hasattr(os, "posix_fallocate")
