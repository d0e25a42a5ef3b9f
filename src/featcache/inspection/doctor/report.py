"""`featcache doctor`: all checks, as a record and as lines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.formatting import Lines, Table
from featcache.core.progress import Progress
from featcache.inspection.doctor.check import FAIL, PASS, WARN, Check
from featcache.inspection.doctor.hardware import hardware_checks
from featcache.inspection.doctor.settings import configuration_check, images_check, weights_check
from featcache.inspection.doctor.software import software_checks
from featcache.inspection.doctor.storage import disk_check


def doctor_record(overrides: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Run all checks; nothing is changed but for a small file that is written to the disk and removed again.

    Args:
        overrides: settings beside luigi.cfg's.
        progress: shows what takes seconds.

    Returns:
        ``state``, the worst of all, and ``checks``: name, state, found and fix of each.
    """
    checks = list(_checks(overrides, progress))
    states = {check.state for check in checks}
    worst = next(state for state in (FAIL, WARN, PASS) if state in states)
    return {"state": worst, "checks": [vars(check) for check in checks]}


def _checks(overrides: Sequence[str], progress: Progress) -> Iterator[Check]:
    yield from software_checks()
    configuration, project = configuration_check(overrides)
    yield from hardware_checks(project.settings.features.precision if project else "auto", progress)
    yield disk_check(project.settings.artifacts if project else Path("artifacts"))
    yield configuration
    if project is not None:
        yield images_check(project.settings.dataset)
        yield weights_check(project.settings.features)


def failed(record: Mapping[str, Any]) -> bool:
    """Whether the main job can't run."""
    return bool(record["state"] == FAIL)


def doctor_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `doctor_record` as a table, each fix below its check, and a line of counts."""
    rows = []
    for check in record["checks"]:
        rows.append((check["state"], check["name"], check["found"]))
        if check["fix"]:
            rows.append(("", "", f"-> {check['fix']}"))
    count = Counter(check["state"] for check in record["checks"])
    counts = ", ".join(f"{count[state]} {state}" for state in (PASS, WARN, FAIL) if count[state])
    return [Table(rows, ("state", "what", "found")), "", counts]
