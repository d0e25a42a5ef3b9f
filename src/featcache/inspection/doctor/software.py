"""Python and the packages that featcache requires, in their ranges."""

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from featcache._version import __version__
from featcache.core.system import versions
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check

_NAMED = ("tensorflow", "keras", "numpy", "h5py", "luigi", "dask", "pillow")  # what a bug report must name


def software_checks() -> Iterator[Check]:
    """Yield checks of Python with the `luigi` that is on the PATH, and of the packages."""
    yield _python()
    yield _packages()


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("python", WARN, found, "featcache is tested on Linux alone; use one worker elsewhere")
    luigi, here = shutil.which("luigi"), Path(sys.executable).parent
    if luigi is None or Path(luigi).parent.resolve() != here.resolve():
        found += f"; luigi is {luigi}, of another installation" if luigi else "; luigi is not on the PATH"
        return Check("python", WARN, found, f"source {here / 'activate'}")
    return Check("python", PASS, found)


def _packages() -> Check:
    """Every requirement of featcache, without extras, is installed and in its range; so is Python."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        required, wanted = metadata.requires("featcache") or (), metadata.metadata("featcache")["Requires-Python"]
    except metadata.PackageNotFoundError:
        found = "featcache is on PYTHONPATH but not installed, so its requirements are unknown"
        return Check("packages", WARN, found, "pip install -e FOLDER, the folder with its setup.cfg")
    requirements = [Requirement(text) for text in required]
    requirements = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    installed = versions(tuple(each.name for each in requirements))
    faults = [f"{each.name} is missing" for each in requirements if each.name not in installed]
    faults += [
        f"{each.name} {installed[each.name]} is not {each.specifier}"
        for each in requirements
        if each.name in installed and not each.specifier.contains(installed[each.name], prereleases=True)
    ]
    if platform.python_version() not in SpecifierSet(wanted):
        faults.append(f"Python {platform.python_version()} is not {wanted}")
    if faults:
        return Check("packages", FAIL, "; ".join(faults), "pip install --upgrade featcache, or `make submit`")
    named = ", ".join(f"{name} {installed[name]}" for name in _NAMED if name in installed)
    return Check("packages", PASS, f"featcache {__version__}, {named}")
