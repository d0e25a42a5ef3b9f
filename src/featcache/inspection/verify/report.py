"""`featcache verify`: which files, one child process each, and what came of it as records and lines."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.core.formatting import printable
from featcache.core.paths import NOTHING, is_file, is_folder, what_is
from featcache.inspection.verify.faults import DISK, FILE, UNKNOWN, Fault
from featcache.inspection.verify.other_files import kind_of
from featcache.training import RECORD_FILE

SOUND, FAULTS, CANNOT_SAY = 0, 1, 2
SILENT_SECONDS = 60.0  # how long a child may say nothing before it counts as hung
_SOURCE_SECONDS = 3600.0  # reading a whole data set again says nothing meanwhile


def verify_records(
    paths: Sequence[Path], overrides: Sequence[str] = (), *, deep: bool = False, seconds: float = SILENT_SECONDS
) -> list[dict[str, Any]]:
    """Check files and everything below folders.

    Args:
        paths: caches, other artifacts, or folders.
        overrides: settings beside luigi.cfg's.
        deep: also read every image of the source again.
        seconds: how long reading a file may show no progress.

    Returns:
        One record a file: path, kind, and its faults as `Fault.record` gives them.
    """
    found: dict[Path, list[Fault]] = {}
    for path in dict.fromkeys(path.absolute() for given in paths for path in _artifacts(given)):
        found[path] = list(_file_faults(path, seconds))
    sound = [
        path for path, faults in found.items() if not any(f.cause in (DISK, UNKNOWN) or f.block is None for f in faults)
    ]
    if sound:
        for path, fault in _demand_faults(
            sound, overrides, deep=deep, seconds=max(seconds, _SOURCE_SECONDS if deep else 0)
        ):
            found[path].append(fault)
    return [
        {"path": str(path), "kind": _kind(path) or "unknown", "faults": [fault.record() for fault in faults]}
        for path, faults in found.items()
    ]


def exit_code(records: Sequence[Mapping[str, Any]]) -> int:
    """0 where everything is sound, 1 where there are faults, 2 where nothing can be said of something."""
    causes = {fault["cause"] for record in records for fault in record["faults"]}
    if causes - {UNKNOWN}:
        return FAULTS
    return CANNOT_SAY if causes or not records else SOUND


def verify_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `verify_records` as lines of text."""
    lines = []
    for record in records:
        faults = record["faults"]
        count = f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "sound"
        lines.append(f"{record['path']}: {record['kind']}, {count}")
        lines += [f"  {fault['cause']:<9} {fault['message']}" for fault in faults]
    if not records:
        lines.append("nothing to verify there")
    return [printable(line) for line in lines]


def _kind(path: Path) -> str:
    return "feature cache" if path.suffix == ".h5" else kind_of(path)


def _artifacts(given: Path) -> Iterator[Path]:
    """The file itself, or every artifact below a folder; hidden ones are nobody's."""
    if not is_folder(given):
        yield given
        return
    for place, folders, names in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        whole = next((name for name in ("bag.json", RECORD_FILE) if name in names), None)
        for name in sorted(names):
            path = Path(place) / name
            if _kind(path) and not name.startswith(".") and whole in (None, name):
                yield path


def _file_faults(path: Path, seconds: float) -> Iterator[Fault]:
    if not _kind(path):
        yield Fault(
            UNKNOWN,
            "expected a feature cache (*.h5), manifest.json, bag.json, convnet.json, predictions.json, ensemble.json, submission.json or report.json",
        )
        return
    if not is_file(path):
        what = what_is(path)
        yield Fault(UNKNOWN, "there is no such file" if what == NOTHING else f"expected a file; got {what}")
        return
    at = ""
    for value in _child({"what": "files", "paths": [str(path)]}, seconds):
        at = value.get("at", at)
        if "fault" in value:
            yield Fault.of(value["fault"])
        if "ended" in value:
            cause = DISK if at.startswith(("rows", "block")) and value["hung"] else FILE
            yield Fault(cause, f"reading it {value['ended']}" + (f" at: {at}" if at else ""), unreadable=True)


def _demand_faults(
    paths: Sequence[Path], overrides: Sequence[str], *, deep: bool, seconds: float
) -> Iterator[tuple[Path, Fault]]:
    task = {"what": "demands", "paths": [str(path) for path in paths], "overrides": list(overrides), "deep": deep}
    for value in _child(task, seconds):
        if "fault" in value:
            yield Path(value["path"]), Fault.of(value["fault"])
        if "ended" in value:
            for path in paths:
                yield path, Fault(UNKNOWN, f"comparing it with manifest and settings {value['ended']}")


def _child(task: Mapping[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what a child says of a task; at last how it ended, if it did not come to its end by itself."""
    command = [sys.executable, "-m", "featcache.inspection.verify.child"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(  # noqa: S603 - this very interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    done = hung = False
    try:
        with child.stdin:  # type: ignore[union-attr]  # both are pipes
            child.stdin.write(json.dumps(task).encode())  # type: ignore[union-attr]  # a pipe
        for line in _lines(child.stdout.fileno(), seconds):  # type: ignore[union-attr]  # a pipe
            value = json.loads(line)
            done = done or "done" in value
            yield value
        child.wait(seconds)
    except (TimeoutError, subprocess.TimeoutExpired):
        hung = True
    finally:
        child.kill()
        code = child.wait()
        child.stdout.close()  # type: ignore[union-attr]  # a pipe
    if hung:
        yield {"ended": f"showed no progress for {seconds:.0f} s", "hung": True}
    elif not done:
        how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        yield {"ended": how, "hung": False}


def _lines(descriptor: int, seconds: float) -> Iterator[bytes]:
    """Yield the lines that come from a pipe until its end.

    Raises:
        TimeoutError: none came for so long.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(seconds):
                raise TimeoutError
            content = os.read(descriptor, 1 << 16)
            if not content:
                return
            *lines, rest = (rest + content).split(b"\n")
            yield from lines
