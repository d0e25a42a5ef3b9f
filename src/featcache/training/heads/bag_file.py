"""A bag's arrays as one NumPy archive. NumPy only."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.paths import regular
from featcache.errors import CacheFormatError
from featcache.settings import Phase
from featcache.training.heads.bag import Bag, HeadId, History
from featcache.training.heads.presets import HeadPlan, Variant

BAG_FILE = "bag.npz"
RECORD_FILE = "bag.json"
_SCHEMA = 2


def write_bag(bag: Bag, path: Path) -> None:
    """Write the bag's arrays as one NumPy archive; the same bag gives the same bytes."""
    plan = {**bag.plan.settings(), "tap_shape": list(bag.tap_shape)}
    header = {"schema": _SCHEMA, "plan": plan, "heads": [[head.seed, head.fold] for head in bag.heads]}
    arrays: dict[str, npt.NDArray[Any]] = {f"weights/{name}": array for name, array in bag.weights.items()}
    arrays |= {f"history/{name}": array for name, array in bag.history.mappings().items()}
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    np.savez(path, allow_pickle=False, header=text, knows=bag.knows, **arrays)


def load_bag(folder: Path) -> Bag:
    """Read the bag that `featcache.training.heads.keras_models.save_bag` left in `folder`.

    Raises:
        CacheFormatError: there is none, or it is damaged.
    """
    path = folder / BAG_FILE
    try:
        with open(path, "rb", opener=regular) as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            left = {"header", "out_of_fold"}  # older bags have what now stands beside them alone
            arrays = {name: archive[name] for name in archive.files if name not in left}
        return _bag(header, arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise CacheFormatError(f"{path}: expected a bag of heads; {error}: run TrainHeads with --rerun") from error


def _bag(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Bag:
    if header["schema"] != _SCHEMA:
        raise ValueError(f"schema={header['schema']!r} is not the expected {_SCHEMA}")
    plan = dict(header["plan"])
    tap_shape = tuple(plan.pop("tap_shape"))
    del plan["training_version"]
    for name in ("hidden", "dropouts"):
        plan[name] = tuple(plan[name])
    plan["schedule"] = tuple(Phase(*phase) for phase in plan["schedule"])
    plan["variants"] = tuple(Variant(tuple(dropouts), rate) for dropouts, rate in plan["variants"])
    prefixed: dict[str, dict[str, npt.NDArray[Any]]] = {part: {} for part in ("weights", "history")}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        if rest:
            prefixed[part][rest] = array
    heads = tuple(HeadId(seed, fold) for seed, fold in header["heads"])
    history, knows = History(**prefixed["history"]), arrays["knows"]
    return Bag(HeadPlan(**plan), tap_shape, heads, prefixed["weights"], knows, history)
