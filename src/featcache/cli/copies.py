"""`featcache export`: a cache as plain NumPy files."""

import argparse
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import Command, argument
from featcache.core.formatting import printable

_CACHE = argument("file", type=Path, metavar="FILE", help="a finished feature cache")


def _export(arguments: argparse.Namespace) -> int:
    from featcache.cache import export_npy

    record = {"files": [str(path) for path in export_npy(arguments.file, arguments.folder)]}
    return output.print_result(arguments, record, lambda record: list(map(printable, record["files"])))


EXPORT = Command(
    "export",
    "a cache as plain NumPy files",
    "Write a cache as .npy files and rows.csv.",
    _export,
    [
        _CACHE,
        argument("--to", choices=("npy",), default="npy", help="the form; default: npy"),
        argument("folder", type=Path, metavar="DIR", help="a folder that isn't there yet"),
    ],
)
