"""Repair of damaged feature caches: extraction copies the sound rows, computes the others and replaces the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.cache import PARTIAL_SUFFIX, open_cache
from featcache.core.folder_lock import folder_lock
from featcache.core.formatting import pluralize, printable
from featcache.core.progress import Progress
from featcache.errors import FeatcacheError
from featcache.inspection import CACHE, SETTINGS, UNKNOWN, verify_records
from featcache.project import Project, configured_project
from featcache.stages.features import extract_split

SOUND, REPAIRED, NOT_REPAIRED, UNDETERMINED = "sound", "repaired", "not repaired", "could not be determined"
_RUN = "luigi --module pipeline Submit"


def repair_records(paths: Sequence[Path], overrides: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """Verify caches and folders, and repair the damaged caches of the current settings (`overrides` beside luigi.cfg's).

    A published file is never changed: extraction writes a new one, which replaces it. Returns a record for each file:
    path, outcome and detail.

    Raises:
        SettingsError: luigi.cfg is wrong.
    """
    project, records = configured_project(overrides), []
    for record in verify_records(paths):
        try:
            outcome, detail = _repaired(record, project, progress)
        except FeatcacheError as error:
            outcome, detail = NOT_REPAIRED, str(error)
        records.append({"path": record["path"], "outcome": outcome, "detail": detail})
    return records


def repair_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `repair_records` as lines of text."""
    lines = [
        f"{record['path']}: {record['outcome']}{', ' * bool(record['detail'])}{record['detail']}" for record in records
    ]
    return [printable(line) for line in lines or ["nothing to repair"]]


def exit_code(records: Sequence[Mapping[str, Any]]) -> int:
    """0 where everything is sound now, 1 where something stays damaged, 2 where something could not be determined."""
    outcomes = {record["outcome"] for record in records}
    return 1 if NOT_REPAIRED in outcomes else 2 if UNDETERMINED in outcomes or not records else 0


def _repaired(record: Mapping[str, Any], project: Project, progress: Progress) -> tuple[str, str]:
    """Outcome and detail for one file."""
    path, faults = Path(record["path"]), record["faults"]
    causes, messages = {fault["cause"] for fault in faults}, "; ".join(fault["message"] for fault in faults[:3])
    if not faults:
        return SOUND, ""
    if UNKNOWN in causes:
        return UNDETERMINED, messages
    if SETTINGS in causes:
        return NOT_REPAIRED, f"{messages}: run again ({_RUN})"
    if record["kind"] != CACHE or any(fault["unreadable"] for fault in faults):
        return NOT_REPAIRED, f"{messages}: remove it and run again ({_RUN})"
    if path.name.endswith(PARTIAL_SUFFIX):
        return NOT_REPAIRED, "unfinished: the next run resumes from its sound blocks"
    caches = {each.cache(split, copy).path: (each.label, split, copy) for each, split, copy in project.caches()}
    if path not in caches:
        detail = "not used by the current settings, or images changed: run where its luigi.cfg is, or use --set"
        return NOT_REPAIRED, f"{detail} ({_RUN})"
    label, split, copy = caches[path]
    with folder_lock(project.folder, "repair", progress.notice):
        extract_split(project, split, progress, [copy], label)
    run = open_cache(path).run
    return REPAIRED, f"{pluralize(run['computed'], 'row')} computed, {run['copied']:,} copied"
