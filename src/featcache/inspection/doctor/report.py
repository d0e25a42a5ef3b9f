"""`featcache doctor`: all checks, as a record and as lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.formatting import Lines, Table
from featcache.core.progress import Progress
from featcache.inspection.doctor import checks
from featcache.inspection.doctor.checks import FAIL, PASS, WARN
from featcache.inspection.doctor.hardware import hardware_checks


def doctor_record(overrides: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Run all checks; nothing is changed but for a small file that is written to the disk and removed again.

    Returns:
        ``state``, the worst of all, and ``checks``: name, state, found and fix of each.
    """
    found = [checks.python_check(), checks.packages_check()]
    configuration, project = checks.configuration_check(overrides)
    found += hardware_checks(project.settings.features.precision if project else "auto", progress)
    found += [checks.disk_check(project.settings.artifacts if project else Path("artifacts")), configuration]
    if project is not None:
        found.append(checks.images_check(project.settings.dataset))
        found += [checks.weights_check(spec) for spec in project.settings.backbones]
    states = {check.state for check in found}
    worst = next(state for state in (FAIL, WARN, PASS) if state in states)
    return {"state": worst, "checks": [vars(check) for check in found]}


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
