"""The main job on real data with trained weights: accuracy and the time of each stage.

    FEATCACHE_SHARED=PATH python benchmarks/main_job.py [hymenoptera mnist ...]

PATH holds ``data/<name>`` and ``weights/vgg16_imagenet_notop.h5``. Artifacts go to a temporary folder, so every stage runs.
Prints a Markdown table row per data set for benchmarks/RESULTS.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ["FEATCACHE_SHARED"])
NAMES = ("hymenoptera", "mnist")


def run(name: str, folder: Path) -> str:
    """Run one example end to end and return its table row."""
    command = [
        *(str(Path(sys.executable).parent / "luigi"), "--module", "pipeline", "Submit"),
        *("--Dataset-path", str(SHARED / "data" / name)),
        *("--Features-weights", str(SHARED / "weights" / "vgg16_imagenet_notop.h5")),
        *("--Paths-artifacts", str(folder)),
    ]
    environment = {**os.environ, "LUIGI_CONFIG_PATH": f"examples/{name}.cfg"}
    begun = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    whole = time.perf_counter() - begun
    record = json.loads((folder / name / "submission.json").read_text())
    test, train = record["scores"]["test"], record["scores"]["out of fold"]
    scores = f"{test['accuracy']:.4f} | {test['log_loss']:.4f} | {train['accuracy']:.4f} | {train['log_loss']:.4f}"
    return f"| {name} | {test['rows']:,} | {scores} | {whole:.0f} s |"


if __name__ == "__main__":
    names = sys.argv[1:] or NAMES
    with tempfile.TemporaryDirectory() as temporary:
        rows = [run(name, Path(temporary)) for name in names]
    print("| data | test rows | test accuracy | test log-loss | oof accuracy | oof log-loss | whole |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
