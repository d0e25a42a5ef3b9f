"""`featcache export`: a cache as plain files."""

import argparse
from pathlib import Path

from featcache.cli.command import Command, argument
from featcache.cli.output import print_result
from featcache.core.formatting import printable


def _export(arguments: argparse.Namespace) -> int:
    from featcache.cache import export_npy

    record = {"files": [str(path) for path in export_npy(arguments.file, arguments.folder)]}
    return print_result(arguments, record, lambda record: list(map(printable, record["files"])))


COMMAND = Command(
    "export",
    "a cache as plain NumPy files",
    "Write a cache as .npy files and rows.csv.",
    _export,
    [
        argument("file", type=Path, metavar="FILE", help="a finished feature cache"),
        argument("--to", choices=("npy",), default="npy", help="the form; default: npy"),
        argument("folder", type=Path, metavar="DIR", help="the new folder"),
    ],
)
