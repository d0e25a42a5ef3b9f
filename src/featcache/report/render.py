"""From the report's content to one HTML file with everything inside: templates by Jinja2, charts by Chart.js."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from featcache.ensemble import MAJORITY

if TYPE_CHECKING:
    from jinja2 import Environment

_ABSENT = "–"
_UNITS = ((3600, "h"), (60, "min"), (1, "s"))


def render_page(content: Mapping[str, Any], written: datetime) -> str:
    """Return the page of a `report_content`, which decides all of it but the last line, the time when it was `written`."""
    return _environment().get_template("report.html.j2").render(content, written=written)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("featcache.report", "templates"),
        autoescape=True,  # names of classes and files are the user's, or worse
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    environment.filters |= {"percent": _percent, "number": _number, "seconds": _seconds, "thousands": "{:,}".format}
    environment.filters["baseline_row"] = lambda entry: ("baseline", entry, "")
    environment.globals["majority"] = MAJORITY
    assets = resources.files("featcache.report") / "assets"
    environment.globals["asset"] = lambda name: Markup((assets / name).read_text("utf-8"))  # noqa: S704 - our own files
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _percent(share: float | None, digits: int = 1) -> str:
    return _ABSENT if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _seconds(seconds: float) -> str:
    unit, name = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    return f"{seconds / unit:.1f}\N{NO-BREAK SPACE}{name}"
