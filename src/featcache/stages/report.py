"""One page about the run: `WriteReport`."""

from datetime import UTC, datetime

from featcache.core.disk import replacing_folder
from featcache.core.formatting import pluralize, size_text
from featcache.core.json_records import write_json
from featcache.core.keys import bytes_digest
from featcache.core.progress import Progress
from featcache.project import Project
from featcache.report import render_page, report_content


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
    content = report_content(project, progress)
    page = render_page(content, datetime.now(UTC)).encode("utf-8")
    with replacing_folder(artifact.path.parent) as folder:
        (folder / artifact.content.name).write_bytes(page)
        record = {**artifact.record_header(project.run), "content_digest": bytes_digest(page)}
        write_json(folder / artifact.path.name, {**record, "files": {artifact.content.name: len(page)}})
    artifact.show()
    errors, duplicates = content["pictures"]["totals"]["errors"], content["pictures"]["duplicates"]["total"]
    found = f"{pluralize(errors, 'suspected label error')}, {pluralize(duplicates, 'duplicate')}"
    return f"report/index.html: {found} · {size_text(len(page))}"
