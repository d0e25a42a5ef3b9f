"""One page about the run: `WriteReport`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import numpy as np

from featcache.core.disk import replacing_folder
from featcache.core.formatting import pluralize, size_text
from featcache.core.json_records import write_json
from featcache.core.keys import bytes_digest
from featcache.core.progress import Progress
from featcache.core.rows import Rows
from featcache.dataset import Loader
from featcache.errors import BackboneError, SettingsError, WeightsError
from featcache.project import Project
from featcache.report import Explained, render_page, report_content
from featcache.training import Predictions


def write_report(project: Project, progress: Progress, *, fresh: bool = False) -> str:
    """Gather the report from features, members and ensemble, and write it as one HTML file that needs nothing else.

    The same artifacts give the same bytes, but for the time of writing in its last line. What was written with these
    settings before is only shown again, unless `fresh`.

    Raises:
        CacheError: an artifact is absent, damaged or of other settings.
        SourceChangedError: an image is no longer what the manifest says.
        StorageError: the disk is full, read-only or not permitted.
    """
    artifact = project.report()
    if artifact.is_stored() and not fresh:
        artifact.show()
        return "report/index.html is again that of these settings"
    content = report_content(project, progress, partial(_explained, project, progress))
    page = render_page(content, datetime.now(UTC)).encode("utf-8")
    with replacing_folder(artifact.path.parent) as folder:
        (folder / artifact.content.name).write_bytes(page)
        record = {**artifact.record_header(project.run), "content_digest": bytes_digest(page)}
        write_json(folder / artifact.path.name, {**record, "files": {artifact.content.name: len(page)}})
    artifact.show()
    errors, duplicates = content["pictures"]["totals"]["errors"], content["pictures"]["duplicates"]["total"]
    found = f"{pluralize(errors, 'suspected label error')}, {pluralize(duplicates, 'duplicate')}"
    return f"report/index.html: {found} · {size_text(len(page))}"


def _explained(
    project: Project,
    progress: Progress,
    wanted: Mapping[tuple[str, int], int | None],
    splits: Mapping[str, Rows],
    load: Loader,
) -> Explained | None:
    """Where each of some rows, (split, row) -> class, speaks for the class, by heads that haven't seen its fold.

    None where the ensemble has no linear members, and of random weights, which see nothing that means anything.
    """
    kinds = {(backbone.resolved("weights") or {}).get("kind") for backbone in project.backbones}
    if "random" in kinds:
        return None
    from featcache.inference import Explainer, Wanted

    try:
        explainer = Explainer(project, progress, len(wanted))
    except SettingsError:  # it has none
        return None
    except (BackboneError, WeightsError) as error:
        progress.notice(f"the report has no evidence: {error}")
        return None
    source = next(iter(project.member_sources()["TrainHeads"]))
    folds = Predictions.load(source.path, splits["train"]).folds
    images = []
    for (split, row), label in wanted.items():
        rows, fold = splits[split], int(folds[row]) if split == "train" and folds is not None else None
        images.append(Wanted(partial(load, rows.locations[row], rows.digests[row]), label, fold))
    found, labels = {}, {}
    for place, explanation in zip(wanted, explainer.explain_all(images), strict=True):
        if explanation is not None:
            found[place], labels[place] = np.asarray(explanation.overlay()), explanation.label
    return Explained(found, labels, explainer.members, explainer.weight)
