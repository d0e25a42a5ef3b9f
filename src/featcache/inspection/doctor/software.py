"""Versions of what featcache stands on, and whether `luigi` on the PATH is the one of this installation."""

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from featcache._version import __version__
from featcache.core.system import versions
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check

# What a report of trouble must name; the others are held to their ranges, too, and told where they are outside.
_NAMED = ("tensorflow", "keras", "numpy", "h5py", "luigi", "dask", "pillow")


def software_checks() -> Iterator[Check]:
    """Yield checks of Python, of the packages, and of the commands."""
    yield _python()
    yield _packages()
    yield _commands()


def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    try:
        wanted = metadata.metadata("featcache")["Requires-Python"]
    except metadata.PackageNotFoundError:
        wanted = ""  # `_packages` tells it
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.python_version() not in SpecifierSet(wanted):
        return Check("python", FAIL, f"{found}; expected {wanted}", "make PYTHON=python3.12 submit makes another one")
    if platform.system() != "Linux":
        return Check("python", WARN, found, "featcache is tested on Linux alone; use one worker elsewhere")
    return Check("python", PASS, found)


def _packages() -> Check:
    """Every requirement of featcache's own, without extras: installed, and inside its range."""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires("featcache") or ()
    except metadata.PackageNotFoundError:
        told = "featcache is not installed here, it was found on PYTHONPATH: nobody has looked at what it needs"
        return Check("packages", WARN, told, "pip install -e FOLDER, with the folder that has its setup.cfg")
    faults: list[str] = []
    found: dict[str, str] = {}
    for text in required:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = versions((wanted.name,))
        found |= there
        if not there:
            faults.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(found[wanted.name], prereleases=True):
            faults.append(f"{wanted.name} {found[wanted.name]} is not {wanted.specifier}")
    if faults:
        return Check(
            "packages", FAIL, "; ".join(faults), "pip install --upgrade featcache (or `make submit` in its folder)"
        )
    named = ", ".join(f"{name} {found[name]}" for name in _NAMED if name in found)
    return Check("packages", PASS, f"featcache {__version__}, {named}")


def _commands() -> Check:
    """A `luigi` of another installation doesn't find the stages, or finds others."""
    here, found = Path(sys.executable).parent, shutil.which("luigi")
    if found is None:
        return Check("commands", WARN, "luigi is not on the PATH", f"source {here / 'activate'}")
    if Path(found).parent.resolve() != here.resolve():
        return Check("commands", WARN, f"luigi is {found}, of another installation", f"source {here / 'activate'}")
    return Check("commands", PASS, f"luigi is {found}")
