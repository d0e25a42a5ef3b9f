"""`featcache export`, `pack` and `unpack`: a cache in other forms."""

import argparse
from pathlib import Path

from featcache.commands import OK, screen


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache export`."""
    parser = commands.add_parser(
        "export", help="a cache as plain NumPy files", description="Write a cache as .npy files and rows.csv."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a finished feature cache")
    parser.add_argument("--to", choices=("npy",), default="npy", help="the form; default: npy")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that isn't there yet")
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from featcache.describe import printable
    from featcache.export import export_npy

    screen.show([printable(str(path)) for path in export_npy(arguments.file, arguments.folder)])
    return OK


def add_pack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache pack`."""
    parser = commands.add_parser(
        "pack", help="a compressed archive copy of a cache", description="Write a compressed archive copy of a cache."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a finished feature cache")
    parser.add_argument(
        "--codec", choices=("gzip", "zstd"), default="gzip", help="default: gzip; zstd needs hdf5plugin"
    )
    parser.add_argument("--to", type=Path, metavar="PATH", help="the archive; default: FILE.packed")
    parser.set_defaults(command=_pack)


def _pack(arguments: argparse.Namespace) -> int:
    from featcache.describe import printable, size_text
    from featcache.pack import pack

    target = pack(arguments.file, arguments.codec, arguments.to)
    before, after = arguments.file.stat().st_size, target.stat().st_size
    screen.show([printable(f"{target}: {size_text(after)} of {size_text(before)} ({after / before:.0%})")])
    return OK


def add_unpack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `featcache unpack`."""
    parser = commands.add_parser(
        "unpack", help="the cache from its archive copy", description="Restore a cache from its archive copy."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what featcache pack wrote")
    parser.add_argument("--to", type=Path, metavar="PATH", help="the cache; default: FILE without .packed")
    parser.set_defaults(command=_unpack)


def _unpack(arguments: argparse.Namespace) -> int:
    from featcache.describe import printable
    from featcache.pack import unpack

    screen.show([printable(str(unpack(arguments.file, arguments.to)))])
    return OK
