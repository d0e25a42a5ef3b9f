"""`featcache verify`: which files are checked, in a child process, and their faults as records and lines."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any

from featcache.core.formatting import pluralize, printable
from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.inspection.child_process import environment, failure
from featcache.inspection.verify.checks import DONE, FILE, UNKNOWN, Fault, kind_of
from featcache.training import RECORD_FILE

SOUND, FAULTS, UNDETERMINED = 0, 1, 2
SECONDS = 60.0
_SLOWEST = 10e6  # bytes a second, of a network's disk
_AT_ONCE = 1000  # files a child, whose command line is limited


def verify_records(paths: Sequence[Path], *, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Check files and everything below folders, each for at most `seconds` and the time that a slow disk takes to read it.

    Returns:
        One record a file: path, kind, and faults with cause, message and unreadable, as in `Fault`.
    """
    files = list(dict.fromkeys(path.absolute() for given in paths for path in _artifacts(given)))
    faults = {path: _unchecked(path) for path in files}
    left = [path for path, found in faults.items() if not found]
    while left:  # a file that crashes or hangs the child ends it, and the next child goes on after it
        for path, found in _checked(left, seconds):
            faults[path] = found
        left = left[1 + left.index(path) :]
    return [
        {"path": str(path), "kind": kind_of(path) or "unknown", "faults": [asdict(fault) for fault in faults[path]]}
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


def _unchecked(path: Path) -> list[Fault]:
    """Why a file isn't checked at all."""
    if not kind_of(path):
        return [Fault(UNKNOWN, "not an artifact by its name: *.h5, or a record such as manifest.json, bag.json")]
    if is_file(path):
        return []
    found = what_is(path)
    return [Fault(UNKNOWN, "there is no such file" if found == NOTHING else f"{found}, not a file")]


def _checked(files: Sequence[Path], seconds: float) -> Iterator[tuple[Path, list[Fault]]]:
    """Yield each file with its faults, checked by one child process; it ends with the file that crashes or hangs it."""
    command = [sys.executable, "-m", "featcache.inspection.verify.checks", *map(str, files[:_AT_ONCE])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment(), **pipes) as child:  # noqa: S603 - this very interpreter
        try:
            for path in files[:_AT_ONCE]:
                limit = seconds + path.stat().st_size / _SLOWEST
                faults, ended = _faults_of_next(child, limit)
                yield path, faults
                if ended:
                    return
        finally:
            child.kill()


def _faults_of_next(child: "subprocess.Popen[bytes]", seconds: float) -> tuple[list[Fault], bool]:
    """The faults that a child finds in its next file, and whether it ended before it was done."""
    faults: list[Fault] = []
    begun, timer = time.perf_counter(), Timer(seconds, child.kill)
    timer.start()
    try:
        for line in child.stdout or ():
            if line == DONE:
                return faults, False
            if line.endswith(b"\n"):
                faults.append(Fault(**json.loads(line)))
    finally:
        timer.cancel()
    late = time.perf_counter() - begun >= seconds
    how = f"took longer than {seconds:.0f} s" if late else failure(child.wait())
    return [*faults, Fault(FILE, f"reading it {how}", unreadable=True)], True
