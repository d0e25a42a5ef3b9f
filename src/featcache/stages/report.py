"""One page about the run: `WriteReport`."""

from datetime import UTC, datetime

from featcache.core import disk, keys
from featcache.core.formatting import pluralize, size_text
from featcache.core.json_records import write_json
from featcache.core.progress import Progress
from featcache.project import Project
from featcache.report import render_page, report_content


def write_report(project: Project, progress: Progress) -> str:
    """Gather the report from features, members and ensemble, and write it as one HTML file that needs nothing else.

    The same artifacts give the same bytes, but for the time of writing in its last line.

    Raises:
        CacheError: an artifact is missing, damaged or of other settings.
        SourceChangedError: an image is no longer what the manifest says.
        StorageError: the disk is full, read-only or not permitted.
    """
    content, artifact = report_content(project, progress), project.report()
    page = render_page(content, datetime.now(UTC)).encode("utf-8")
    path = artifact.content or artifact.path.with_name("index.html")
    disk.write_bytes(path, page)
    write_json(artifact.path, {**artifact.record_header(project.run), "content_digest": keys.file_digest(path)})
    errors, duplicates = content["pictures"]["totals"]["errors"], content["pictures"]["duplicates"]["total"]
    found = f"{pluralize(errors, 'suspected label error')}, {pluralize(duplicates, 'duplicate')}"
    return f"{path.parent.name}/{path.name}: {found} · {size_text(len(page))}"
