"""`featcache export`: a cache as plain files, predictions as one table."""

from pathlib import Path

from featcache.cli.command import Arguments, argument, command, print_result
from featcache.core.formatting import printable
from featcache.errors import SettingsError

_TABLES = ("csv", "parquet")


@command(
    "a cache as plain NumPy files, predictions as a table",
    argument("file", type=Path, metavar="FILE", help="a finished feature cache, or predictions.json, bag.json"),
    argument("--to", choices=("npy", *_TABLES), help="the form; default: npy for a cache, csv for predictions"),
    argument("target", type=Path, metavar="TARGET", help="the new folder, or the table's file"),
)
def run(arguments: Arguments) -> int:
    """Write a cache as .npy files and rows.csv, or predictions as a table with ids."""
    is_predictions = arguments.file.suffix == ".json"
    form = arguments.to or ("csv" if is_predictions else "npy")
    if is_predictions != (form in _TABLES):
        raise SettingsError(
            f"--to={form} is not for {arguments.file}: npy is for caches, csv and parquet for predictions"
        )
    if is_predictions:
        from featcache.inspection import export_predictions

        paths = [export_predictions(arguments.file, arguments.target, form)]
    else:
        from featcache.cache import export_npy

        paths = export_npy(arguments.file, arguments.target)
    record = {"files": [str(path) for path in paths]}
    return print_result(arguments, record, lambda record: list(map(printable, record["files"])))
