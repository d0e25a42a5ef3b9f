"""What the child process runs: ``python -m featcache.inspection.verify.child``, a task as JSON on its standard input.

It writes one JSON value a line: where it is, each fault, and at last that it came to the end. So the parent can tell
work from a hang, and a crash from silence.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from featcache.core.paths import is_file
from featcache.errors import FeatcacheError
from featcache.inspection.verify.faults import UNKNOWN, Fault

# A damaged size must end in an error here, not in swapping everything else out.
_MEMORY_BYTES = 16 << 30
_REPORT_SECONDS = 1.0


def main() -> None:
    """Read the task, check, report."""
    task = json.loads(sys.stdin.read())
    paths = [Path(path) for path in task["paths"]]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "darwin":  # which maps hundreds of gigabytes into every process and refuses such a limit
        _limit_memory(_MEMORY_BYTES + _mapped_bytes(paths))
    if task["what"] == "files":
        _check_file(paths[0])
    else:
        _check_demands(paths, task["overrides"], deep=task["deep"])
    _say({"done": True})


def _limit_memory(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _mapped_bytes(paths: list[Path]) -> int:
    """The size of all files beside `paths`: they are mapped, and what is mapped counts although it isn't memory."""
    folders = {path.parent for path in paths}
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir() if is_file(file))


def _check_file(path: Path) -> None:
    from featcache.inspection.verify.cache_file import cache_faults
    from featcache.inspection.verify.other_files import other_faults

    said = 0.0

    def alive(where: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _REPORT_SECONDS or not where.startswith("block"):
            said = time.monotonic()
            _say({"at": where})

    for fault in cache_faults(path, alive) if path.suffix == ".h5" else other_faults(path):
        _say({"path": str(path), "fault": fault.record()})


def _check_demands(paths: list[Path], overrides: list[str], *, deep: bool) -> None:
    from featcache.inspection.verify.against import demand_faults
    from featcache.project import configured_project

    try:
        for path, fault in demand_faults(paths, configured_project(overrides), deep=deep):
            _say({"path": str(path), "fault": fault.record()})
    except FeatcacheError as error:
        for path in paths:
            _say({"path": str(path), "fault": Fault(UNKNOWN, str(error)).record()})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
