"""One page about a run, `report/index.html`: numbers, curves, likely label errors, a map of the features; no TensorFlow."""

from featcache.report.content import report_content
from featcache.report.page import render_page

__all__ = ["render_page", "report_content"]
