"""How Sphinx builds the documentation: `make docs`, with every warning an error."""

from featcache import __version__

project = "featcache"
author = "the featcache developers"
release = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"featcache {__version__}"
html_static_path: list[str] = []
html_show_copyright = False
