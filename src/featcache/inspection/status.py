"""`featcache status`: every stage, complete or not, its size and age, and in one line why it would run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core.formatting import Lines, Table, age_text, printable, size_text
from featcache.core.paths import is_file, is_folder
from featcache.dataset import Manifest, preview_images
from featcache.errors import SourceError
from featcache.inspection.changed_defaults import changed_defaults
from featcache.inspection.staleness import MISSING, cache_reason, manifest_reason, record_reason
from featcache.project import NEEDS, Artifact, Project, final_stages, needs
from featcache.settings import GROUP, IGNORE

_NO_TEST = "there are no test images"
COLUMNS = ("stage", "state", "size", "age", "what would make it run")


@dataclass(frozen=True)
class Finding:
    """What one stage makes, whether each artifact has its current key, and if not why.

    `reason` is "" where only results of stages `upstream` changed; `stored` means that the results are there, and only
    the files that are shown are not theirs.
    """

    artifacts: Sequence[Artifact]
    complete: bool = False
    reason: str = ""
    upstream: tuple[str, ...] = ()
    stored: bool = False


def status_record(project: Project) -> dict[str, Any]:
    """Return the state of every stage as JSON-able values; nothing is written, and only new files are read.

    Changed images are listed in memory, so that later stages are compared with what a run would find.

    Raises:
        SettingsError: no run could start with these settings.
    """
    indexed, project = _index(project)
    needless = _needless(project)
    others = {project.bag(tap, shape).path: f"{tap}-*/bag.json" for tap, shape in project.bags()}
    findings = {"IndexImages": indexed, "ExtractFeatures": _features(project, indexed=indexed.complete)}
    for stage, artifacts in _results(project).items():
        findings[stage] = Finding([], reason=needless[stage]) if stage in needless else _recorded(artifacts, others)
    incomplete = {stage for stage, found in findings.items() if not found.complete}
    running = _running({stage: findings[stage] for stage in incomplete - set(needless)}, project, not needless)
    now = time.time()
    stages = []
    for stage, found in findings.items():
        stats = [path.stat() for artifact in found.artifacts for path in _files(artifact)]
        newest = max((stat.st_mtime for stat in stats), default=None)
        stages.append(
            {
                "stage": stage,
                "complete": found.complete,
                "would_run": stage in running,
                "reason": "" if found.complete else _reason(stage, found, incomplete),
                "bytes": sum(stat.st_size for stat in stats),
                "age_seconds": None if newest is None else round(now - newest, 3),
                "paths": [str(artifact.shown or artifact.path) for artifact in found.artifacts],
            }
        )
    record = {"name": project.settings.dataset.name, "folder": str(project.folder), "stages": stages}
    record["corrections"] = ((project.listed() or {}).get("settings") or {}).get("corrections", "")
    return {**record, "changed_defaults": changed_defaults(project)}


def would_run(record: Mapping[str, Any]) -> bool:
    """Whether `luigi --module pipeline Submit` would do any work."""
    return any(stage["would_run"] for stage in record["stages"])


def status_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `status_record` as a line and a table."""
    rows = []
    for stage in record["stages"]:
        state = "complete" if stage["complete"] else "runs" if stage["would_run"] else "not needed"
        age = "" if stage["age_seconds"] is None else age_text(stage["age_seconds"])
        rows.append([stage["stage"], state, size_text(stage["bytes"]), age, stage["reason"]])
    in_force = [f"corrections in force: {record['corrections']}"] * bool(record["corrections"])
    return [printable(record["folder"]), Table(rows, COLUMNS), *in_force, *record["changed_defaults"]]


def _index(project: Project) -> tuple[Finding, Project]:
    """What was found of the manifest, and the project with the keys that it would have after indexing."""
    artifact = project.manifest()
    if artifact.is_complete():
        return Finding([artifact], complete=True), project
    try:
        now = preview_images(project.settings.dataset, project.folder, project.listing)
    except SourceError as error:
        return Finding([artifact], reason=str(error)), project
    return Finding([artifact], reason=manifest_reason(project.folder, now)), project.assuming(now)


def _results(project: Project) -> dict[str, list[Artifact]]:
    """The artifacts of each stage that records what it was made of; only of stages that there are."""
    convnets, report = project.convnets(), project.settings.report.enabled
    near = project.settings.dataset.near_duplicates
    ignored = near == IGNORE or (near != GROUP and not report)
    return {
        **({} if ignored else {"FindDuplicates": [project.duplicates()]}),
        "TrainHeads": [project.bag(*bag) for bag in project.bags()],
        **({"TrainConvNets": convnets} if convnets else {}),
        "PredictRows": [project.predictions(split) for split in project.scored_splits()],
        "BuildEnsemble": [project.ensemble()],
        "WriteSubmission": [project.submission()],
        **({"WriteReport": [project.report()]} if report else {}),
    }


def _needless(project: Project) -> dict[str, str]:
    """Stage -> why it has nothing to do, as far as the images are listed."""
    splits = project.splits()
    needless = {} if not splits or "test" in splits else {"WriteSubmission": _NO_TEST}
    return needless if not splits or project.scored_splits() else {**needless, "PredictRows": f"{_NO_TEST} to predict"}


def _features(project: Project, *, indexed: bool) -> Finding:
    whole = project.all_features()
    caches = [(cache, cache[0].cache(*cache[1:])) for cache in project.caches()]
    artifacts = [*(artifact for _, artifact in caches), whole]
    stale = [cache for cache, artifact in caches if not artifact.is_complete()]
    if not stale and whole.is_complete():
        return Finding(artifacts, complete=True)
    # Changed rows are the reason of IndexImages until it has run.
    manifest = Manifest.load(project.folder) if indexed and stale else None
    reasons = [cache_reason(project, *cache, manifest) for cache in stale]
    upstream = () if indexed else ("IndexImages",)
    found = list(dict.fromkeys(reason for reason in reasons if reason))
    if len(found) > 1 and MISSING in found:
        found.remove(MISSING)
    if not found and not upstream:
        found = ["its record is missing or of other features"]
    return Finding(artifacts, reason="; ".join(found), upstream=upstream)


def _recorded(artifacts: Sequence[Artifact], others: Mapping[Path, str]) -> Finding:
    stale = [artifact for artifact in artifacts if not artifact.is_complete()]
    if artifacts and not stale:
        return Finding(artifacts, complete=True)
    found = [record_reason(artifact, others.get(artifact.path, "")) for artifact in stale]
    reasons = dict.fromkeys(reason for reason, _ in found if reason)
    upstream = tuple(dict.fromkeys(name for _, names in found for name in names))
    stored = bool(artifacts) and all(artifact.is_stored() for artifact in artifacts)
    return Finding(artifacts, reason="; ".join(reasons), upstream=upstream, stored=stored)


def _reason(stage: str, found: Finding, incomplete: set[str]) -> str:
    """What changed in the stage itself, or the stage upstream that it waits for."""
    if found.reason:
        return found.reason
    # a second round of heads waits for the first, which is of the same stage
    waiting = [name for name in found.upstream if name in incomplete - {stage}] or list(found.upstream)
    waiting = waiting or [name for name in NEEDS[stage] if name in incomplete]
    return f"upstream: {waiting[0]}" if waiting else "its record is damaged"


def _running(incomplete: Mapping[str, Finding], project: Project, submits: bool) -> set[str]:
    """The stages that Submit would run: Luigi looks upstream of stages that are neither complete nor stored.

    Without a current manifest no key is known, so every incomplete stage runs.
    """
    if "IndexImages" in incomplete:
        return set(incomplete)
    running, groups = set[str](), project.settings.dataset.near_duplicates == GROUP
    asked = list(final_stages(test=submits, report=project.settings.report.enabled))
    while asked:
        stage = asked.pop()
        if stage in incomplete and stage not in running:
            running.add(stage)
            asked += () if incomplete[stage].stored else needs(stage, groups=groups)
    return running


def _files(artifact: Artifact) -> list[Path]:
    """The existing files of an artifact: of the manifest both, of results all in the folder that the key names."""
    path = artifact.path
    if path.name == "manifest.json":
        files = [path, path.with_name("manifest.arrow")]
    elif path.suffix == ".h5" or path.name in ("features.json", "duplicates.json"):
        files = [path]
    else:
        files = list(path.parent.glob("*")) if is_folder(path.parent) else []
    return [file for file in files if is_file(file)]
