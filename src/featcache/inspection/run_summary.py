"""The summary at the end of a run, read from the artifacts' records; no TensorFlow, no features."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featcache.core.formatting import Lines, Table, pluralize
from featcache.core.json_records import read_json
from featcache.ensemble import Ensemble, score_record
from featcache.errors import CacheFormatError
from featcache.inspection.leaderboard import compared, score_names
from featcache.inspection.runs import compare_runs, comparison_of_runs
from featcache.project import (
    LOG_NAME,
    Project,
    notices,
    remembered_runs,
    run_folder,
    split_predictions,
    twins_summary,
    unlike_record,
)
from featcache.settings import PHOTO_SOURCES, has_own_weights
from featcache.training import curves_lines


def summary(project: Project) -> dict[str, Any]:
    """Collect the facts of the last submission, or of a run that has no test images, as JSON-able values.

    Returns:
        notices, rows per split, scores, seconds per stage, weights, precision and paths; missing parts are empty.
    """
    listed, dataset = project.listed() or {}, project.settings.dataset
    submits = "test" in project.splits()
    record: dict[str, Any] = (read_json(project.submission().path) or {}) if submits else _without_submission(project)
    return {
        "name": dataset.name,
        "notices": [*notices(project), *record.get("notices", [])],
        "classes": len(listed.get("class_names", ())),
        "several": project.several,
        "rows": {split: facts["rows"] for split, facts in listed.get("splits", {}).items()},
        "corrections": (listed.get("settings") or {}).get("corrections", ""),
        "rejected": (project.all_features().record() or {}).get("rejected", 0),
        **({"metric": record["metric"]} if "metric" in record else {}),
        "scores": record.get("scores", {}),
        "best_single": record.get("best_single"),
        "baselines": record.get("baselines", []),
        "members": record.get("members"),
        "bags": [
            {name: each[name] for name in ("tap", "shape", "curves")}
            for each in (project.bag(*bag).record() or {} for bag in project.bags())
            if "curves" in each
        ],
        "seconds": _seconds(project),
        "backbones": [
            {
                "backbone": backbone.label or backbone.spec.backbone,
                "weights": backbone.resolved("weights") or {},
                "precision": backbone.precision(),
            }
            for backbone in project.backbones
        ],
        "devices": (project.all_features().record() or {}).get("devices", []),
        "test": str((dataset.path or Path("PATH")) / ("test.csv" if dataset.source == "csv" else "test")),
        "submission": str(project.submission().shown) if submits else None,
        "submission_rows": record.get("rows"),
        "report": str(project.report().shown) if project.report().is_complete() else None,
        "columns": record.get("columns"),
        "features": str(project.all_features().path.parent),
        "log": str(project.folder / LOG_NAME),
    }


def summary_parts(project: Project) -> Lines:
    """Return the summary as an empty line and a table with one fact a row."""
    facts = summary(project)
    rows = " · ".join(f"{split} {count:,}" for split, count in facts["rows"].items())
    rejected = f" · {facts['rejected']:,} rejected (rejected.csv)" if facts["rejected"] else ""
    lines = [("notice", line) for line in facts["notices"]]
    corrected = f" · {facts['corrections']} by corrections" * bool(facts["corrections"])
    what = "labels" if facts["several"] else "classes"
    lines.append(("rows", f"{rows} · {facts['classes']} {what}{corrected}{rejected}"))
    names = score_names(facts)
    lines += [(split, _score(score, names)) for split, score in facts["scores"].items()]
    if facts["best_single"]:
        best = facts["best_single"]
        lines.append(("best single", f"{_score(best, names)}, selected per fold; best over all rows: {best['member']}"))
    for each in facts["baselines"]:
        gained = compared(each, facts["scores"]["out of fold"], names)
        lines.append(("baseline", f"{each['name']}: {_score(each['scores'], names)}; the ensemble: {gained}"))
    if duplicates := twins_summary(project):
        lines.append(("duplicates", f"{duplicates} (featcache duplicates)"))
    lines += [("unlike", line) for line in _unlike(project)]
    lines += [("run before", line.strip()) for line in _since_the_run_before(project)]
    lines += [("curves", line) for line in curves_lines(facts["bags"], project.settings.features)]
    lines += [("weights", _weights(each, facts)) for each in facts["backbones"]]
    lines.append(("time", " · ".join(f"{stage} {seconds:.1f} s" for stage, seconds in facts["seconds"].items())))
    lines.append(("submission", _submission(facts)))
    if facts["report"]:
        lines.append(("report", f"{_shown(facts['report'])} (open it in a browser)"))
    lines.append(("cache", f"{_shown(facts['features'])} (featcache ls, featcache show FILE)"))
    lines.append(("log", _shown(facts["log"])))
    lines += [("try next", hint) for hint in _hints(project, facts)]
    return [
        "",
        Table([("" if i and lines[i - 1][0] == title else title, text) for i, (title, text) in enumerate(lines)]),
    ]


def _unlike(project: Project) -> list[str]:
    """How many images are unlike anything seen in training, if that was looked for and there are any."""
    found = unlike_record(project)
    counts = Counter(split for split, *_ in found.get("rows", ()))
    each = " and ".join(f"{count:,} of {found['of'][split]:,} {split} images" for split, count in counts.items())
    return [f"{each}: far from every training image (the report shows them)"] if each else []


def _since_the_run_before(project: Project) -> list[str]:
    """What this run gained over the last one that is remembered, on rows that both have with the same label."""
    runs, name = remembered_runs(project), run_folder(project).name
    current = next((run for run in runs if run.name == name), None)
    before = next((run for run in runs if run.name != name), None)
    if before is None or current is None:
        return []
    known = current.record.get("compared")  # when it was remembered, with the last one of then
    try:
        return comparison_of_runs(known if known and known["runs"][0] == before.name else compare_runs(before, current))
    except CacheFormatError as error:
        return [str(error)]


def _without_submission(project: Project) -> dict[str, Any]:
    """The scores of a run without test images, as the record of a submission has them."""
    if not project.ensemble().is_complete():
        return {}
    return score_record(Ensemble.load(project.ensemble().path), split_predictions(project))


def _submission(facts: Mapping[str, Any]) -> str:
    if facts["submission"] is None:
        return f"none: no test images; put them into {facts['test']} and run the same command again"
    count, columns = facts["submission_rows"] or 0, ",".join(facts["columns"] or ())
    columns = columns if len(columns) <= 60 else f"{columns[:57]}..."
    return f"{_shown(facts['submission'])} ({pluralize(count, 'row')}: {columns})"


def _score(score: Mapping[str, Any], names: Iterable[str]) -> str:
    unusable = f"; {score['unusable']:,} more are unusable" if score.get("unusable") else ""
    right = f" ({score['right']:,} of {score['rows']:,}{unusable})" if "right" in score else ""
    spans = {name: f" ({low:.4f} to {high:.4f})" for name, (low, high) in score.get("interval", {}).items()}
    accuracy = f"accuracy {score['accuracy']:.4f}{right}{spans.get('accuracy', '')}"
    own = [f"{name} {score[name]:.4f}{spans.get(name, '')}, " for name in names if name not in ("accuracy", "log_loss")]
    return f"{''.join(own)}{accuracy}, log-loss {score['log_loss']:.4f}{spans.get('log_loss', '')}"


def _weights(backbone: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    weights, devices = backbone["weights"], " and ".join(facts["devices"])
    kind, setting = str(weights.get("kind", "unknown")), str(weights.get("setting"))
    missing = ", ImageNet weights unavailable" if setting == "auto" else ""
    kinds = {"random": f"RANDOM{missing} (good enough for trials, far behind on photos)", "file": setting}
    name = f"{backbone['backbone']}: " * (len(facts["backbones"]) > 1)
    return f"{name}{kinds.get(kind, kind)}, computed in {backbone['precision']}{f' on {devices}' * bool(devices)}"


def _seconds(project: Project) -> dict[str, float]:
    """Seconds of each stage's last real run; of a cache that was removed to save space, none."""
    convnets = project.convnets()
    stages = {
        "features": [backbone.cache(split, copy) for backbone, split, copy in project.caches()],
        "heads": [project.bag(*bag) for bag in project.bags()],
        **({"convnets": convnets} if convnets else {}),
        "predictions": [project.predictions(split) for split in project.scored_splits()],
        "ensemble": [project.ensemble()],
    }
    records = {stage: [artifact.record() or {} for artifact in artifacts] for stage, artifacts in stages.items()}
    records = {"index": [project.listed() or {}], **records}
    return {stage: sum(float(str(each.get("seconds", 0))) for each in some) for stage, some in records.items()}


def _hints(project: Project, facts: Mapping[str, Any]) -> list[str]:
    """The command to repeat, with at most three additions that fit this run: those that gained most when measured, first."""
    settings = project.settings
    spec, source = settings.features, settings.dataset.source
    photos, several = source in PHOTO_SOURCES, len(facts["backbones"]) > 1
    weights = facts["backbones"][0]["weights"]
    kind, unavailable = weights.get("kind"), weights.get("setting") == "auto"  # random then: it was just tried
    small = spec.image_size < 224 and not has_own_weights(spec.backbone) and not several  # whose size may be fixed
    vgg, auto_taps = not several and spec.backbone.lower() in ("vgg16", "vgg19"), "taps" in settings.unset
    one_tap = len(spec.taps) == 1 and settings.heads.preset not in ("recipe", "wide")
    additions = [
        (source == "digits", "own images", "--Dataset-source folder --Dataset-path FOLDER --Dataset-name NAME"),
        (kind == "random" and not unavailable, "trained weights", "--Features-weights imagenet"),
        (
            kind == "random" and unavailable,
            "trained weights",
            "--Features-weights FILE, a copy of a file from elsewhere",
        ),
        (small and photos, "more pixels", "--Features-image-size 224"),
        (one_tap and vgg, "pooled layers", "--Features-taps auto"),
        (not photos and settings.convnet.members == 0, "convnets", "--ConvNet-members 1"),
        (source == "folder", "more images", "in train/<class>; only these cost a forward pass"),
        (photos and not spec.mirror, "mirrored images", "--Features-mirror true"),
        (photos and vgg and auto_taps and kind == "imagenet", "another network", "--Features-backbone efficientnetb0"),
    ]
    fitting = [(name, flags) for fits, name, flags in additions if fits][:3]
    width = max((len(name) for name, _ in fitting), default=0)
    lines = [f"  {name:<{width}}  {flags}" for name, flags in fitting]
    return ["luigi --module pipeline Submit, and one of", *lines] if lines else []


def _shown(path: str) -> str:
    """The path relative to the current folder, if it is below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
