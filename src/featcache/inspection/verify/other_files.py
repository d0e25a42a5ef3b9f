"""The checks of what isn't a feature cache: manifest, bags, convnets, predictions, ensemble, submission, report."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from featcache.core import keys, paths
from featcache.core.json_records import read_json
from featcache.dataset import Manifest
from featcache.ensemble import Ensemble
from featcache.errors import FeatcacheError
from featcache.inspection.verify.faults import FILE, Fault, disk_error, reading_fault
from featcache.training import RECORD_FILE, load_bag, stored_probabilities, table_parts

_TOLERANCE = 1e-3  # probabilities are float32


def other_faults(path: Path) -> Iterator[Fault]:
    """Yield the faults of an artifact that `KINDS` knows by its name."""
    try:
        yield from KINDS[kind_of(path)](path)
    except FeatcacheError as error:
        failed = disk_error(error)
        yield reading_fault(path, failed) if failed else Fault(FILE, str(error).removeprefix(f"{path}: "))
    except OSError as error:
        yield reading_fault(path, error)


def kind_of(path: Path) -> str:
    """What an artifact is by its name; "" for what verify doesn't know."""
    known = {
        "predictions.json": "predictions",
        "manifest.json": "manifest",
        "bag.json": "bag",
        RECORD_FILE: "convnet",
        "ensemble.json": "ensemble",
    }
    known |= {"submission.json": "submission", "report.json": "report"}
    return known.get(path.name, "")


def _manifest(path: Path) -> Iterator[Fault]:
    Manifest.load(path.parent)  # holds its rows to its key
    yield from ()


def _bag(path: Path) -> Iterator[Fault]:
    yield from _record(path)
    bag = load_bag(path.parent)
    wrong = [name for name, array in bag.weights.items() if not np.isfinite(array).all()]
    if wrong:
        yield Fault(FILE, f"expected finite weights; {', '.join(wrong)} hold NaN or infinity")
    yield from _predictions(path)
    yield from _models(path.parent)


def _convnet(path: Path) -> Iterator[Fault]:
    yield from _record(path)
    yield from _predictions(path)
    named = (read_json(path) or {}).get("files")
    missing = [name for name in (named if isinstance(named, dict) else ()) if not paths.is_file(path.parent / name)]
    if missing:
        yield Fault(FILE, f"expected {', '.join(sorted(missing))} beside {path.name}; not there")
    yield from _models(path.parent)


def _models(folder: Path) -> Iterator[Fault]:
    for model in sorted(folder.glob("*.keras")):
        try:
            with open(model, "rb", opener=paths.regular) as stream, zipfile.ZipFile(stream) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            yield Fault(FILE, f"{model.name}: expected a Keras archive; {error}")
            continue
        if damaged:
            yield Fault(FILE, f"{model.name}: {damaged} does not match its checksum")


def _predictions(path: Path) -> Iterator[Fault]:
    wild = other = 0
    for _, said in table_parts(stored_probabilities(path)):
        values = said[~np.isnan(said).all(axis=2)]  # a row may have none of a member
        finite = np.isfinite(values).all(axis=1)
        wild += int((~finite).sum())
        other += int((np.abs(values[finite].sum(axis=1) - 1) > _TOLERANCE).sum())
    if wild:
        yield Fault(FILE, f"{path.name}: expected probabilities; got NaN or infinity in {wild} rows")
    if other:
        yield Fault(FILE, f"{path.name}: expected probabilities of sum 1; {other} rows have another")


def _ensemble(path: Path) -> Iterator[Fault]:
    yield from _record(path)
    Ensemble.load(path)


def _submission(path: Path) -> Iterator[Fault]:
    yield from _content(path, "submission.csv", "submission.csv.gz")


def _report(path: Path) -> Iterator[Fault]:
    yield from _content(path, "index.html")


def _content(path: Path, *names: str) -> Iterator[Fault]:
    """The faults of a record, and of the file that it vouches for, which has one of these names."""
    yield from _record(path)
    digest = (read_json(path) or {}).get("content_digest")
    files = [file for name in names if paths.is_file(file := path.with_name(name))]
    if not files:
        yield Fault(FILE, f"expected {' or '.join(names)} beside {path.name}; nothing is there")
    elif digest not in {keys.file_digest(file) for file in files}:
        yield Fault(FILE, f"{files[0].name} is not the one that was written: it doesn't match its SHA-256")


def _record(path: Path) -> Iterator[Fault]:
    open(path, "rb", opener=paths.regular).close()  # one that may not be read isn't damaged
    record = read_json(path)
    if record is None or not isinstance(record.get("key"), str):
        yield Fault(FILE, f"expected a JSON record with a key in {path.name}")


KINDS: dict[str, Callable[[Path], Iterator[Fault]]] = {
    "manifest": _manifest,
    "bag": _bag,
    "convnet": _convnet,
    "predictions": _predictions,
    "ensemble": _ensemble,
    "submission": _submission,
    "report": _report,
}
