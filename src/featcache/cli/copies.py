"""`featcache pack` and `unpack`: a compressed archive copy of a cache."""

import argparse
from pathlib import Path

from featcache.cli import output
from featcache.cli.command import Command, argument
from featcache.core.formatting import printable

_CACHE = argument("file", type=Path, metavar="FILE", help="a finished feature cache")


def _pack(arguments: argparse.Namespace) -> int:
    from featcache.cache import pack
    from featcache.core.formatting import size_text

    target = pack(arguments.file, arguments.codec, arguments.to)
    before, after = arguments.file.stat().st_size, target.stat().st_size
    line = printable(f"{target}: {size_text(after)} of {size_text(before)} ({after / before:.0%})")
    record = {"path": str(target), "bytes": after, "bytes_before": before}
    return output.print_result(arguments, record, lambda _: [line])


def _unpack(arguments: argparse.Namespace) -> int:
    from featcache.cache import unpack

    record = {"path": str(unpack(arguments.file, arguments.to))}
    return output.print_result(arguments, record, lambda record: [printable(record["path"])])


PACK = Command(
    "pack",
    "a compressed archive copy of a cache",
    "Write a compressed archive copy of a cache.",
    _pack,
    [
        _CACHE,
        argument("--codec", choices=("gzip", "zstd"), default="gzip", help="default: gzip; zstd needs hdf5plugin"),
        argument("--to", type=Path, metavar="PATH", help="the archive; default: FILE.packed"),
    ],
)
UNPACK = Command(
    "unpack",
    "the cache from its archive copy",
    "Restore a cache from its archive copy.",
    _unpack,
    [
        argument("file", type=Path, metavar="FILE", help="what featcache pack wrote"),
        argument("--to", type=Path, metavar="PATH", help="the cache; default: FILE without .packed"),
    ],
)
