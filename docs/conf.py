"""How Sphinx builds the documentation: `make docs`, with every warning an error."""

import os
from pathlib import Path

from featcache import __version__
from featcache.core.keras_import import import_keras

import_keras(Path(os.devnull))  # some packages export what needs it; what TensorFlow prints is no news here

project = "featcache"
author = "the featcache developers"
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # docs/notebooks.py runs them, and CI their code
exclude_patterns = ["_build"]
nitpicky = True

# docs/api.rst: what the packages' __init__ export; types stand in the signatures, exceptions are cross-references.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_use_ivar = True
napoleon_use_rtype = False
# Types are those of inner modules and other libraries, which the page doesn't hold.
nitpick_ignore_regex = [(r"py:(class|data|obj)", r".*")]

html_theme = "furo"
html_title = f"featcache {__version__}"
html_static_path: list[str] = []
html_show_copyright = False
