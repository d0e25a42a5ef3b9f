"""`pipeline` on a system without what only Linux has, as far as Python tells: ``luigi --module without_linux Submit``."""

import os

import runs

for name in runs.LINUX_ALONE:
    if hasattr(os, name):
        delattr(os, name)

import numpy_run  # noqa: E402, F401  # its stages are what runs
