"""`featcache runs`: the remembered runs, what differed between them, and how much better one is than another."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from featcache.core.disk import disk, storage_errors, temporary_name
from featcache.core.formatting import Lines, Table, age_text, pluralize, printable
from featcache.core.texts import NOT_FOUND, index_of
from featcache.inspection.leaderboard import compared, score_names
from featcache.project import (
    Project,
    RememberedRows,
    RememberedRun,
    change_config,
    configured_project,
    configured_sections,
    find_run,
    remembered_runs,
    run_artifact,
    run_folder,
)
from featcache.settings import SECTIONS
from featcache.training import Judged, Metric, bootstrap, judge_parts, metric_spans

# The sections that decide results; the others say where and how to compute.
_DECIDING = ("Dataset", "Features", "Heads", "ConvNet", "Ensemble", "Submission")
_PLACE = "path"  # of the images, which decides nothing either


def runs_record(project: Project, names: Sequence[str], now: float) -> dict[str, Any]:
    """Return the remembered runs, the newest first, as JSON-able values.

    Args:
        project: whose.
        names: of two runs to compare. In place of one that isn't named it is that of the settings in force, or else the
            newest, and of both the newest beside that is what it is compared with.
        now: in seconds since the epoch.

    Returns:
        ``current``: the name of the settings in force, whether or not that run is there; ``runs``: ``run``, ``finished``,
        ``age_seconds``, ``metric``, ``scores`` (out of fold), ``seconds`` and ``changed`` (since the run before) of each;
        ``comparison``: what `compare_runs` returns, None where there is only one run.

    Raises:
        SettingsError: no such run.
        CacheFormatError: what is remembered is damaged.
    """
    found = remembered_runs(project)
    named = [find_run(project, name) for name in names]
    current = run_folder(project).name
    taken = [run.name for run in named]
    others = sorted((run for run in found if run.name not in taken), key=lambda run: run.name != current)
    pair = (named + others)[:2] if named else others[1::-1]
    return {
        "folder": str(project.folder),
        "current": current,
        "runs": [_entry(run, before, now) for run, before in zip(found, [*found[1:], None], strict=False)],
        "comparison": compare_runs(pair[0], pair[1]) if len(pair) == 2 else None,
    }


def _entry(run: RememberedRun, before: RememberedRun | None, now: float) -> dict[str, Any]:
    record = run.record
    finished = datetime.fromisoformat(record["finished"])
    return {
        "run": run.name,
        "finished": record["finished"],
        "age_seconds": round(now - finished.timestamp(), 3),
        "metric": record.get("metric"),
        "scores": record["scores"]["out of fold"],
        "seconds": round(sum(record["seconds"].values()), 3),
        "changed": changes(before, run) if before else [],
    }


def changes(first: RememberedRun, second: RememberedRun) -> list[str]:
    """Return what differs in settings, images, weights and version between two runs, ``Heads: dropout 0.5 -> 0.3``."""
    found = []
    for section in _DECIDING:
        texts = [
            {
                key: run.settings.get(section, {}).get(key, own.default)
                for key, own in SECTIONS[section].items()
                if key != _PLACE
            }
            for run in (first, second)
        ]
        parts = [f"{key} {then or 'unset'} -> {texts[1][key] or 'unset'}" for key, then in texts[0].items()
                 if then != texts[1][key]]  # fmt: skip
        found += [f"{section}: {', '.join(parts)}"] if parts else []
    found += ["other images or labels"] if first.record["images"] != second.record["images"] else []
    kinds = [
        " and ".join(str(each["weights"].get("kind")) for each in run.record["backbones"]) for run in (first, second)
    ]
    found += [f"weights: {kinds[0]} -> {kinds[1]}"] if kinds[0] != kinds[1] else []
    versions = [run.record["made_with"] for run in (first, second)]
    return [*found, *([f"featcache {versions[0]} -> {versions[1]}"] if versions[0] != versions[1] else [])]


def compare_runs(first: RememberedRun, second: RememberedRun, rows: RememberedRows | None = None) -> dict[str, Any]:
    """Return how the second run differs from the first, on the rows that both were scored on with the same label.

    `rows` are the second's, where they aren't stored yet.

    Returns:
        ``runs``: both names; ``changed``; ``rows``: how many both have; ``relabelled``: those of another label, which are
        left out. If there are rows, and the classes are the same: ``scores`` of both, and ``difference``: 95 % intervals
        of what the second's scores are above the first's, on the same draws of rows.
    """
    one, other = first.rows(), rows or second.rows()
    facts: dict[str, Any] = {"runs": [first.name, second.name], "changed": changes(first, second)}
    if one.class_names != other.class_names:
        return facts | {"rows": 0, "relabelled": 0}
    places = index_of(other.ids, one.ids)
    shared = np.flatnonzero(places != NOT_FOUND)
    same = one.labels[places[shared]] == other.labels[shared]
    both = shared[same.reshape(len(shared), -1).all(axis=1)]
    facts |= {"rows": len(both), "relabelled": len(shared) - len(both)}
    metric = second.record.get("metric") or first.record.get("metric")
    if not len(both):
        return facts
    groups = [other.groups[row] for row in both.tolist()] if len(other.groups) else ()
    judged = [_judged(one, places[both]), _judged(other, both)]
    by_row = [judge_parts([(slice(None), each.probabilities)], each.labels) for each in judged]
    scores: list[dict[str, Any]] = [asdict(each.scores()) for each in by_row]
    difference: dict[str, Any] = asdict(bootstrap([by_row[1].minus(by_row[0])], groups)[0])
    if metric and metric not in difference:
        for score, each in zip(scores, judged, strict=True):
            score[metric] = Metric(metric, each).value()
        _, (difference[metric],) = metric_spans(metric, judged[::-1], groups)
    return facts | {"metric": metric, "scores": scores, "difference": difference}


def _judged(rows: RememberedRows, some: Any) -> Judged:
    return Judged(rows.labels[some], rows.predicted[some], rows.probabilities[some].astype(np.float64))


def runs_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `runs_record` as lines and a table."""
    runs = record["runs"]
    if not runs:
        return [
            printable(f"{record['folder']}: no run is remembered yet: luigi --module pipeline Submit remembers one")
        ]
    names = score_names({"metric": next((run["metric"] for run in runs if run["metric"]), None)})
    rows = []
    for run in runs:
        cells = [run["run"] + "*" * (run["run"] == record["current"]), age_text(run["age_seconds"])]
        for name in names:
            score, span = run["scores"].get(name), run["scores"]["interval"].get(name)
            cells += ["" if score is None else f"{score:.4f}", "{:.4f} to {:.4f}".format(*span) if span else ""]
        rows.append([*cells, f"{run['seconds']:.1f} s", "; ".join(run["changed"])])
    columns = ["run", "age", *(text for title, _ in names.values() for text in (title, "95 %")), "time", "changed"]
    marked = any(run["run"] == record["current"] for run in runs)
    return [
        Table(rows, columns, optional=("95 %", "time")),
        *(["* the settings in force"] if marked else []),
        *(comparison_of_runs(record["comparison"]) if record["comparison"] else []),
    ]


def comparison_of_runs(facts: Mapping[str, Any]) -> list[str]:
    """Return what `compare_runs` found as lines."""
    first, second = facts["runs"]
    lines = [f"{second} against {first}: {'; '.join(facts['changed']) or 'the same settings'}"]
    if "scores" not in facts:
        return [*lines, "  no rows of the same classes and labels in common: the scores can't be compared"]
    baseline = {"scores": facts["scores"][0], "difference": facts["difference"]}
    left_out = f"; {pluralize(facts['relabelled'], 'row')} with another label left out" if facts["relabelled"] else ""
    words = compared(baseline, facts["scores"][1], score_names(facts))
    return [*lines, f"  on {pluralize(facts['rows'], 'row')} of both{left_out}: {words}"]


def use_run(project: Project, name: str) -> dict[str, Any]:
    """Write a remembered run's settings to luigi.cfg, in whose place in the file they are, with all its comments.

    Returns:
        ``run``, ``file``, ``written``: section, key, text before and now of each setting that was another one, and
        ``stored``: whether a run would compute nothing.

    Raises:
        SettingsError: no such run, or a luigi.cfg that can't be changed.
        StorageError: it can't be written.
    """
    run = find_run(project, name)
    wanted = {section: dict(run.settings.get(section, {})) for section in _DECIDING}
    if configured_sections().get("Dataset", {}).get(_PLACE):
        wanted["Dataset"].pop(_PLACE, None)  # where the images are now
    file, written = change_config(wanted)
    artifact = run_artifact(configured_project())
    return {
        "run": run.name,
        "file": str(file),
        "written": [dict(zip(("section", "key", "before", "now"), each, strict=True)) for each in written],
        "stored": artifact.key == run.record["key"] and artifact.is_stored(),
    }


def use_lines(record: Mapping[str, Any]) -> Lines:
    """Return what `use_run` did as a table and a line."""
    rows = [
        [f"[{each['section']}] {each['key']}", f"{each['before'] or 'unset'} -> {each['now'] or 'unset'}"]
        for each in record["written"]
    ]
    done = f"{record['file']} {'now has' if rows else 'already has'} the settings of run {record['run']}"
    stored = "luigi --module pipeline Submit computes nothing and shows its results"
    others = "images, weights or version are others than then: featcache status shows what would run"
    return [Table(rows), f"{done}; {stored if record['stored'] else others}"]


def forget_run(project: Project, name: str) -> dict[str, Any]:
    """Forget a remembered run: `featcache gc` may then remove what only it needs.

    Raises:
        SettingsError: no such run.
        StorageError: it can't be removed.
    """
    run = find_run(project, name)
    with storage_errors(run.folder, "could not remove"):
        aside = temporary_name(run.folder)  # a kill leaves a leftover, never half a run
        disk.replace(run.folder, aside)
        shutil.rmtree(aside)
    return {"run": run.name, "forgotten": True}
