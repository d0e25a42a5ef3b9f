"""Features in bfloat16 against float32: how alike the rows are, and what an ensemble reaches on either.

    FEATCACHE_SHARED=PATH python benchmarks/precision.py [flowers5 hymenoptera ...]

PATH holds ``data/`` and ``weights/vgg16_imagenet_notop.h5``. Prints Markdown for benchmarks/RESULTS.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import featcache

SHARED = Path(os.environ["FEATCACHE_SHARED"])
SIZE = 96
PRECISIONS = ("float32", "bfloat16")


def run(name: str, precision: str, artifacts: Path) -> dict[str, Any]:
    """Take a data set to its submission; return the submission's record."""
    settings = {
        "Dataset-name": name,
        "Dataset-source": "folder",
        "Dataset-path": SHARED / "data" / name,
        "Features-weights": SHARED / "weights" / "vgg16_imagenet_notop.h5",
        "Features-image-size": SIZE,
        "Features-taps": "block5_pool",
        "Features-precision": precision,
        "Paths-artifacts": artifacts,
    }
    words = [f"--{key}={value}" for key, value in settings.items()]
    command = [str(Path(sys.executable).with_name("luigi")), "--module", "pipeline", "Submit", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = json.loads((artifacts / name / "submission.json").read_text())
    return record


def cosines(name: str, folders: list[Path]) -> np.ndarray:
    """(n,) the cosine of each row's features in either precision, both splits."""
    found = []
    for split in ("train", "test"):
        pair = []
        for folder in folders:
            reader = featcache.open(next((folder / name / "features").glob(f"{split}-*.h5")))
            rows = reader["block5_pool"][reader.status == 1].astype(np.float64)
            pair.append(rows.reshape(len(rows), -1))
        norms = np.linalg.norm(pair[0], axis=1) * np.linalg.norm(pair[1], axis=1)
        found.append((pair[0] * pair[1]).sum(axis=1) / norms)
    return np.concatenate(found)


def told(scores: dict[str, float]) -> str:
    """Accuracy / log-loss."""
    return f"{scores['accuracy']:.4f} / {scores['log_loss']:.4f}"


def main() -> None:
    """Measure and print."""
    print("| data | lowest cosine a row | median | out of fold, float32 | bfloat16 | test, float32 | bfloat16 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or ("flowers5", "hymenoptera"):
        with tempfile.TemporaryDirectory() as folder:
            folders = [Path(folder) / precision for precision in PRECISIONS]
            records = [run(name, precision, path) for precision, path in zip(PRECISIONS, folders, strict=True)]
            alike = cosines(name, folders)
        scores = [told(record["scores"][split]) for split in ("out of fold", "test") for record in records]
        cells = [f"{alike.min():.5f}", f"{np.median(alike):.5f}", *scores]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
