"""`featcache verify`: which files are checked, one child process each, and their faults as records and lines."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.core.formatting import pluralize, printable
from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.inspection.child_process import run_child
from featcache.inspection.verify.checks import FILE, UNKNOWN, Fault, kind_of
from featcache.training import RECORD_FILE

SOUND, FAULTS, UNDETERMINED = 0, 1, 2
SECONDS = 60.0
_SLOWEST = 10e6  # bytes a second, of a network's disk


def verify_records(paths: Sequence[Path], *, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Check files and everything below folders.

    Args:
        paths: caches, other artifacts, or folders.
        seconds: how long the check of a file may take, beside the time that a slow disk takes to read it.

    Returns:
        One record a file: path, kind, and faults with cause, message and unreadable, as in `Fault`.
    """
    files = dict.fromkeys(path.absolute() for given in paths for path in _artifacts(given))
    return [
        {
            "path": str(path),
            "kind": kind_of(path) or "unknown",
            "faults": [asdict(fault) for fault in _faults(path, seconds)],
        }
        for path in files
    ]


def exit_code(records: Sequence[Mapping[str, Any]]) -> int:
    """0 where everything is sound, 1 where there are faults, 2 where something could not be determined."""
    causes = {fault["cause"] for record in records for fault in record["faults"]}
    if causes - {UNKNOWN}:
        return FAULTS
    return UNDETERMINED if causes or not records else SOUND


def verify_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `verify_records` as lines of text."""
    lines = []
    for record in records:
        faults = record["faults"]
        lines.append(f"{record['path']}: {record['kind']}, {pluralize(len(faults), 'fault') if faults else 'sound'}")
        lines += [f"  {fault['cause']:<9} {fault['message']}" for fault in faults]
    return [printable(line) for line in lines or ["nothing to verify"]]


def _artifacts(given: Path) -> Iterator[Path]:
    """The file itself, or every artifact below a folder; of a bag or a convnet its record; hidden files are skipped."""
    if not is_folder(given):
        yield given
        return
    for place, folders, names in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        whole = next((name for name in ("bag.json", RECORD_FILE) if name in names), None)
        for name in sorted(names):
            path = Path(place) / name
            if kind_of(path) and not name.startswith(".") and whole in (None, name):
                yield path


def _faults(path: Path, seconds: float) -> Iterator[Fault]:
    if not kind_of(path):
        yield Fault(UNKNOWN, "not an artifact by its name: *.h5, or a record such as manifest.json, bag.json")
        return
    if not is_file(path):
        found = what_is(path)
        yield Fault(UNKNOWN, "there is no such file" if found == NOTHING else f"{found}, not a file")
        return
    command = ("-m", "featcache.inspection.verify.checks", str(path))
    result = run_child(command, seconds + path.stat().st_size / _SLOWEST)
    for line in result.output.splitlines(keepends=True):
        if line.endswith("\n"):
            yield Fault(**json.loads(line))
    if result.failure:
        yield Fault(FILE, f"reading it {result.failure}", unreadable=True)
