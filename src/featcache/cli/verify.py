"""`featcache verify`: whether artifacts are sound."""

from pathlib import Path

from featcache.cli.command import USAGE, Arguments, argument, command, print_result


@command(
    "whether caches and other artifacts are sound",
    argument("paths", type=Path, nargs="+", metavar="PATH", help="a cache, another artifact, or a folder"),
    argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a file may take, beside 1 s for each 10 MB; default: 60",
    ),
    error_code=USAGE,
)
def run(arguments: Arguments) -> int:
    """Check artifacts, and report every fault with its cause: disk, file or settings."""
    from featcache.inspection import exit_code, verify_lines, verify_records

    records = verify_records(arguments.paths, seconds=arguments.timeout)
    return print_result(arguments, records, verify_lines, exit_code(records))
