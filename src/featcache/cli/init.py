"""`featcache init`: look at a folder of images and write the luigi.cfg that takes it."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result


@command(
    "look at a folder of images and write its luigi.cfg",
    argument(
        "path",
        type=Path,
        nargs="?",
        metavar="PATH",
        help="the folder, as it was downloaded and unpacked; without it the embedded digits, with every setting",
    ),
    argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write, which mustn't be there yet; default: luigi.cfg, or NAME.cfg where that is there",
    ),
    project=True,
)
def run(arguments: Arguments) -> int:
    """Show in a few lines what a folder is taken for, and write a commented luigi.cfg for it; no image is read whole."""
    from featcache.inspection import init_lines, init_record

    return print_result(arguments, init_record(arguments.path, arguments.overrides, arguments.output), init_lines)
