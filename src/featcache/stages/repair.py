"""Damaged feature caches made whole: sound rows are copied, the others computed anew, and the result replaces the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.cache import open_cache
from featcache.core.folder_lock import folder_lock
from featcache.core.formatting import pluralize, printable
from featcache.core.progress import Progress
from featcache.errors import FeatcacheError
from featcache.inspection import SETTINGS, UNKNOWN, verify_records
from featcache.project import Project, configured_project
from featcache.stages.features import extract_split

SOUND, REPAIRED, REFUSED, UNSAID = "sound", "repaired", "not repaired", "can't say"
_RUN = "luigi --module pipeline Submit"


def repair_records(paths: Sequence[Path], overrides: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """Verify files, and repair the feature caches among them that are damaged.

    A published file is never changed: a new one is written as in any run, from the rows of sound blocks and the images
    of the others, and takes the name. So it needs the settings that the file was made with.

    Args:
        paths: caches, or folders with some.
        overrides: settings beside luigi.cfg's.
        progress: is told of what is computed.

    Returns:
        One record a file: path, outcome and detail.

    Raises:
        SettingsError: luigi.cfg is wrong.
    """
    project = configured_project(overrides)
    outcomes = []
    for record in verify_records(paths, overrides):
        try:
            outcome, detail = _repaired(record, project, progress)
        except FeatcacheError as error:
            outcome, detail = REFUSED, str(error)
        outcomes.append({"path": record["path"], "outcome": outcome, "detail": detail})
    return outcomes


def repair_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `repair_records` as lines of text."""
    lines = [
        f"{record['path']}: {record['outcome']}{', ' * bool(record['detail'])}{record['detail']}" for record in records
    ]
    return [printable(line) for line in lines or ["nothing to repair there"]]


def exit_code(records: Sequence[Mapping[str, Any]]) -> int:
    """0 where everything is sound now, 1 where something stays damaged, 2 where nothing can be said of something."""
    outcomes = {record["outcome"] for record in records}
    return 1 if REFUSED in outcomes else 2 if UNSAID in outcomes or not records else 0


def _repaired(record: Mapping[str, Any], project: Project, progress: Progress) -> tuple[str, str]:
    path, faults = Path(record["path"]), record["faults"]
    if not faults:
        return SOUND, ""
    said = "; ".join(fault["message"] for fault in faults[:3])
    if any(fault["cause"] == UNKNOWN for fault in faults):
        return UNSAID, said
    if record["kind"] != "feature cache":
        return REFUSED, f"{said}: only feature caches can be repaired; remove it and run again ({_RUN})"
    if any(fault["cause"] == SETTINGS for fault in faults):
        return REFUSED, f"{said}: it is not what settings and images ask for now; run again ({_RUN})"
    if any(fault["unreadable"] for fault in faults):
        return REFUSED, f"{said}: nothing can be taken from it; remove it and run again ({_RUN})"
    return _recomputed(path, project, progress)


def _recomputed(path: Path, project: Project, progress: Progress) -> tuple[str, str]:
    """Make the file again as the stage does; what stands in its sound blocks is found there and copied."""
    asked = {project.features(split, copy).path: (split, copy) for split, copy in project.caches()}
    if path not in asked:
        known = "unfinished; the next run goes on from its sound blocks" if path.name.endswith(".partial.h5") else ""
        return (
            REFUSED,
            known or f"luigi.cfg's settings don't ask for it: run where its luigi.cfg is, or use --set ({_RUN})",
        )
    with folder_lock(project.folder, "repair", progress.notice):
        split, copy = asked[path]
        extract_split(project, split, progress, [copy])
    run = open_cache(path).run
    return REPAIRED, f"{pluralize(run['computed'], 'row')} computed, {run['copied']:,} copied"
