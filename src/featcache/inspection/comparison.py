"""What a comparison of backbones found, as a table and the setting to paste."""

from typing import Any

from featcache.core.formatting import Lines, Table, printable, size_text
from featcache.project import Project, comparison_artifact

_COLUMNS = ("backbone", "accuracy", "log-loss", "95 %", "images/s", "a row", "all images", "adds", "")


def comparison_lines(project: Project) -> Lines:
    """Return the current comparison as lines and a table; none while there is none."""
    artifact = comparison_artifact(project)
    if not artifact.is_complete():
        return []
    record: Any = artifact.record()
    rows = [_cells(entry) for entry in record["entries"]]
    weights = {spec.label: spec.weights for spec in project.settings.compare.backbones}
    kept = ", ".join(weights[entry["backbone"]] for entry in record["entries"] if entry["kept"])
    scored = f"{record['rows']:,} training rows, each scored by heads that were not trained on its fold"
    return [
        "",
        f"{scored}; adds: what the log-loss falls by where it is added to those that are kept above it",
        Table(rows, _COLUMNS, optional=("a row", "images/s", "95 %")),
        "",
        "[Features]",
        printable(f"backbone = {record['setting']}"),
        printable(f"weights = {kept}"),  # which may stand there for other backbones
    ]


def _cells(entry: dict[str, Any]) -> list[str]:
    rate, hours, adds = entry["images_per_second"], entry["hours"], entry["adds"]
    return [
        entry["backbone"],
        f"{entry['accuracy']:.4f}",
        f"{entry['log_loss']:.4f}",
        "{:.4f} to {:.4f}".format(*entry["interval"]["log_loss"]),
        f"{rate:,.1f}" if rate else "cached",
        size_text(entry["row_bytes"]),
        f"{hours:,.1f} h" if hours and hours >= 1 else f"{60 * hours:,.1f} min" if hours is not None else "unknown",
        "" if adds is None else f"{adds:+.4f}",
        "kept" if entry["kept"] else "",
    ]
