"""Cores, memory and packages that this process has, on Linux and macOS."""

import os
import platform
import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

from featcache.core.formatting import pluralize


def core_numbers() -> list[int]:
    """Return the processor cores that this process may use, ascending; all of them where that can't be known (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def processor_name() -> str:
    """Return the processor's model where Linux names it, else its architecture, and how many cores may be used."""
    try:
        found = re.search(r"^model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        found = None
    return f"{found[1] if found else platform.machine()}, {pluralize(len(core_numbers()), 'core')}"


def child_environment() -> dict[str, str]:
    """Return the environment of a child process of this Python that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def peak_bytes() -> int:
    """Return the most memory that this process ever had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return package -> version of those that are installed, under that name or another (tensorflow-cpu, tf-nightly)."""
    found = {name: _version(name) for name in packages}
    return {name: version for name, version in found.items() if version}


def _version(package: str) -> str | None:
    """None where it isn't installed, or its metadata is damaged."""
    # here, as every command imports this module and few ask for versions
    from importlib.metadata import PackageNotFoundError, packages_distributions, version
    from importlib.util import find_spec

    try:
        return version(package)
    except PackageNotFoundError:
        if (
            find_spec(package) is None
        ):  # most often; the next line reads the file list of every distribution, for a second
            return None
        others = packages_distributions().get(package)
        return version(others[0]) if others else None
