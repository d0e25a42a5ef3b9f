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
        CacheError: an artifact is absent, damaged or of other settings.
        SourceChangedError: an image is no longer what the manifest says.
        StorageError: the disk is full, read-only or not permitted.
    """
    content, artifact = report_content(project, progress), project.report()
    page = render_page(content, datetime.now(UTC)).encode("utf-8")
    path = artifact.content or artifact.path.with_name("index.html")
    disk.write_bytes(path, page)
    write_json(artifact.path, {**artifact.record_header(project.run), "content_digest": keys.file_digest(path)})
    found, copies = content["pictures"]["totals"]["errors"], content["pictures"]["copies"]["total"]
    said = (
        f"{pluralize(found, 'label')} to look at, {pluralize(copies, 'image')} that {'stands' if copies == 1 else 'stand'} twice"
        if found or copies
        else "nothing suspicious"
    )
    return f"{path.parent.name}/{path.name}: {said} · {size_text(len(page))}"
