"""Every member and the ensemble, best first: scores on held-out rows, with confidence intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from featcache.core.formatting import Lines, Table
from featcache.dataset import Manifest
from featcache.ensemble import (
    BEST_SINGLE,
    ENSEMBLE,
    Ensemble,
    baseline_records,
    judged_baseline,
    judged_members,
    judged_singles,
    metric_members,
    metric_rows,
)
from featcache.errors import TrainingError
from featcache.project import Artifact, Project, out_of_fold, split_predictions
from featcache.training import (
    Float64s,
    Metric,
    Predictions,
    RowNumbers,
    RowScores,
    Scores,
    bootstrap,
    judge_parts,
    metric_spans,
    stored_members,
)

_SCORES = {"accuracy": ("accuracy", 1), "log_loss": ("log-loss", -1)}  # what everything has: title, what is better
_NOTHING = {"tap": None, "seconds": None, "weight": None}
_NEXT = "run `luigi --module pipeline Submit`"


def leaderboard_record(project: Project, manifest: Manifest | None = None) -> dict[str, Any]:
    """Return the scores of the members of the current settings, as JSON-able values; `manifest` None is loaded.

    Returns:
        ``rows`` (scored out of fold), ``baselines`` (with the ensemble's differences from them), ``entries``: the ensemble
        and the best single member, both by nested score, baselines, then every member by out-of-fold log-loss. An entry has ``member``, ``tap`` (None for what has none), ``accuracy``,
        ``log_loss``, ``interval`` (95 %, by bootstrap over rows or groups), ``weight`` in the ensemble, ``seconds`` (of its
        bag), and ``splits``: split -> scores, where labels are known. Without a complete ensemble there are only members.
        With another metric than log-loss ``metric`` is its name, by which entries and intervals have it, too; members are
        in its order then.

    Raises:
        CacheFormatError: a file is damaged.
        TrainingError: the members aren't trained.
    """
    sources = [source for stage in project.member_sources().values() for source in stage]
    missing = next((source for source in sources if not source.is_complete()), None)
    if missing is not None or not sources:
        where = missing.path.parent if missing else project.folder
        raise TrainingError(f"no trained members of these settings in {where}: {_NEXT}")
    manifest = manifest or Manifest.load(project.folder)
    known = out_of_fold(project, manifest).scored()
    built = Ensemble.load(project.ensemble().path) if project.ensemble().is_complete() else None
    found: dict[str, Scores] = {}

    def judged() -> Iterator[RowScores]:
        for name, each in _judged(known, built):
            found[name] = each.scores()
            yield each  # and forget it: one is in memory after the other

    intervals = bootstrap(judged(), known.groups)
    on_splits, about = _on_splits(project, built, manifest), _about(sources, built)
    entries: list[dict[str, Any]] = [
        {
            "member": name,
            **about.get(name, _NOTHING),
            **asdict(score),
            "interval": asdict(interval),
            "splits": {split: scores[name] for split, scores in on_splits.items() if name in scores},
        }
        for (name, score), interval in zip(found.items(), intervals, strict=True)
    ]
    summed = 2 + len(built.baselines) if built else 0  # these stay first, in their order
    entries[summed:] = sorted(entries[summed:], key=lambda entry: entry["log_loss"])
    if built and built.decided:
        _add_metric(entries, summed, known, built)
    return {
        **({"metric": built.decided.metric} if built and built.decided else {}),
        "rows": len(known.ids),
        "method": built.whole.method if built else None,
        "best_single": built.best_single if built else None,
        "baselines": baseline_records(built) if built else [],
        "entries": entries,
    }


def _add_metric(entries: list[dict[str, Any]], summed: int, known: Predictions, built: Ensemble) -> None:
    """Give each entry the metric and its interval, and put the members in its order; `summed` entries stay first."""
    metric, by_name = built.decided.metric if built.decided else "", {entry["member"]: entry for entry in entries}
    rows = chain(metric_rows(known, built), zip(known.members, metric_members(known, metric), strict=True))
    for name, judged in rows:
        by_name[name][metric] = Metric(metric, judged).value()
        (by_name[name]["interval"][metric],), _ = metric_spans(metric, [judged], known.groups)
    entries[summed:] = sorted(entries[summed:], key=lambda entry: -entry[metric])


def score_names(record: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the scores that a record with a ``metric``, or without one, has: name -> title, 1 where higher is better.

    The metric is the first.
    """
    metric = record.get("metric")
    return ({metric: (metric, 1)} if metric and metric not in _SCORES else {}) | _SCORES


def leaderboard_lines(record: Mapping[str, Any]) -> Lines:
    """Return a `leaderboard_record` as lines and a table."""
    splits = list(dict.fromkeys(split for entry in record["entries"] for split in entry["splits"]))
    names = score_names(record)
    scores = [f"{split} {title}" for split in splits for title, _ in _SCORES.values()]
    columns = ["member", "tap", *(column for title, _ in names.values() for column in (title, "95 %")), *scores]
    chosen = f"ensemble ({record['method']}) and best single ({record['best_single']}) are selected per fold"
    return [
        f"{record['rows']:,} rows, each predicted by models that were not trained on its fold",
        Table(
            [_cells(entry, splits, names) for entry in record["entries"]],
            [*columns, "weight", "train"],
            optional=("train", "tap", *scores, "weight", "95 %"),
        ),
        *(
            f"ensemble and {each['name']}: {compared(each, record['entries'][0], names)}"
            for each in record["baselines"]
        ),
        chosen if record["method"] else f"there is no ensemble of these settings: {_NEXT}",
    ]


def compared(
    baseline: Mapping[str, Any], ensemble: Mapping[str, Any], names: Mapping[str, tuple[str, int]] = _SCORES
) -> str:
    """Return in words how much better or worse the ensemble with these scores is than one of its baselines.

    `names` are those of the scores, as `score_names` returns them.
    """
    texts = []
    for what, (title, sign) in names.items():
        gain = sign * (ensemble[what] - baseline["scores"][what])
        low, high = sorted(sign * bound for bound in baseline["difference"][what])
        if low > 0:
            texts.append(f"{title} better by {gain:.4f} ({low:.4f} to {high:.4f})")
        elif high < 0:
            texts.append(f"{title} worse by {-gain:.4f} ({-high:.4f} to {-low:.4f})")
        else:
            texts.append(f"no clear difference in {title} ({abs(low):.4f} worse to {abs(high):.4f} better)")
    return ", ".join(texts)


def _cells(entry: Mapping[str, Any], splits: Sequence[str], names: Iterable[str]) -> list[str]:
    cells = [entry["member"], entry["tap"] or ""]
    for what in names:
        cells += [f"{entry[what]:.4f}", "{:.4f} to {:.4f}".format(*entry["interval"][what])]
    for split in splits:
        score = entry["splits"].get(split)
        cells += [f"{score['accuracy']:.4f}", f"{score['log_loss']:.4f}"] if score else ["", ""]
    weight, seconds = entry["weight"], entry["seconds"]
    cells.append("" if weight is None else f"{weight:.2f}")
    cells.append("" if seconds is None else f"{seconds:.1f} s")
    return cells


def _judged(known: Predictions, built: Ensemble | None) -> Iterator[tuple[str, RowScores]]:
    """Yield (name, its scores by row), probabilities normalised to sum 1."""
    if built is not None:
        yield ENSEMBLE, _judged_parts(known, built, built.nested_parts(known))
        members = {fold: known.members.index(name) for fold, name in built.single_folds.items()}
        yield BEST_SINGLE, judged_singles(known, members)
        yield from ((each.name, judged_baseline(known, each.member)) for each in built.baselines)
    yield from zip(known.members, judged_members(known), strict=True)


def _judged_parts(
    known: Predictions, built: Ensemble, parts: Iterable[tuple[slice | RowNumbers, Float64s]]
) -> RowScores:
    return judge_parts(((rows, built.shares(part)) for rows, part in parts), known.labels)


def _on_splits(project: Project, built: Ensemble | None, manifest: Manifest) -> dict[str, dict[str, dict[str, float]]]:
    """Split -> name -> scores, of splits whose predictions are complete and whose labels are known."""
    found = {}
    complete = [split for split in project.scored_splits() if project.predictions(split).is_complete()]
    for split, predictions in split_predictions(project, complete, manifest).items():
        known = predictions.scored()
        if not known.ids:
            continue
        scores = {name: asdict(each.scores()) for name, each in zip(known.members, judged_members(known), strict=True)}
        if built is not None:
            ensemble = _judged_parts(known, built, built.parts(known)).scores()
            scores |= {ENSEMBLE: asdict(ensemble), BEST_SINGLE: scores[built.best_single]}
            for each in built.baselines:
                judged = judged_baseline(known, each.member, built.class_shares)
                scores[each.name] = asdict(judged.scores())
        found[split] = scores
    return found


def _about(sources: Sequence[Artifact], built: Ensemble | None) -> dict[str, dict[str, Any]]:
    """Member -> its tap, the seconds that its bag took, and its weight."""
    weights = dict(zip(built.members, built.weights, strict=True)) if built else {}
    about = {}
    for source in sources:
        record = source.record() or {}
        for name in stored_members(source.path):
            weight = weights.get(name, 0.0) if built else None
            about[name] = {"tap": record.get("tap"), "seconds": record.get("seconds"), "weight": weight}
    return about
