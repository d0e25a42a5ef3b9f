"""The report's page as a path that a notebook shows."""

from html import escape
from pathlib import Path, PosixPath

from featcache.core.paths import read_bytes


class ReportPage(PosixPath):
    """The path of a page, which is self-contained; what is made of it, such as its parent, is a plain path."""

    def with_segments(self, *parts: str) -> Path:
        """Paths made of this one, from Python 3.12 on."""
        return Path(*parts)

    def _repr_html_(self) -> str | None:
        """The page in a frame; None where it is gone."""
        if not self.is_file():
            return None
        page = escape(read_bytes(Path(self)).decode("utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:600px;border:1px solid #ccc"></iframe>'
