"""The main job on real data with trained weights: accuracy, and where the wall-clock goes.

    FEATCACHE_SHARED=PATH python benchmarks/main_job.py [digits hymenoptera mnist ...] [-- FLAGS OF LUIGI]

PATH holds ``data/<name>`` and ``weights/vgg16_imagenet_notop.h5``. Artifacts go to a temporary folder, so every stage runs.
Prints two Markdown tables for benchmarks/RESULTS.md. Where the time goes is read from what a run writes itself: the stages
from ``luigi.log``, what opening the network and its passes take from the caches' records.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import featcache

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ["FEATCACHE_SHARED"])
DIGITS = "digits"  # which featcache brings along
NAMES = (DIGITS, "hymenoptera", "mnist")
STAGE = re.compile(r"^(\S+ \S+) \d+ INFO luigi-interface: \[pid.* (running|done) +(\w+)\((.*)\)$", re.MULTILINE)
SHOWN = {
    "start": "Python, Luigi, featcache",
    "IndexImages": "index",
    "network": "TensorFlow, weights, network",
    "images": "decoding, forward pass, writing",
    "linear": "heads: regression",
    "lda": "heads: discriminant analysis",
    "dense": "heads: dense",
    "BuildEnsemble": "ensemble",
    "PredictRows": "predictions",
    "WriteSubmission": "submission",
    "FindDuplicates": "near duplicates",
    "WriteReport": "report",
    "rest": "the rest",
    "end": "the process' end",
}


def run(name: str, artifacts: Path, flags: list[str]) -> tuple[str, dict[str, float]]:
    """Run one example end to end; return its table row, and the seconds of each part."""
    command = [str(Path(sys.executable).parent / "luigi"), "--module", "pipeline", "Submit"]
    command += ["--Features-weights", str(SHARED / "weights" / "vgg16_imagenet_notop.h5")]
    command += ["--Paths-artifacts", str(artifacts), *flags]
    environment = dict(os.environ)
    if name != DIGITS:
        command += ["--Dataset-path", str(SHARED / "data" / name)]
        environment["LUIGI_CONFIG_PATH"] = f"examples/{name}.cfg"
    begun = time.time()
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    spent = seconds(artifacts / name, begun, time.time())
    record = json.loads((artifacts / name / "submission.json").read_text())
    test, train = record["scores"]["test"], record["scores"]["out of fold"]
    scores = f"{test['accuracy']:.4f} | {test['log_loss']:.4f} | {train['accuracy']:.4f} | {train['log_loss']:.4f}"
    return f"| {name} | {test['rows']:,} | {scores} | {sum(spent.values()):.0f} s |", spent


def seconds(folder: Path, begun: float, ended: float) -> dict[str, float]:
    """Part -> its seconds of a run that made `folder`, from its begin to its end by the clock."""
    spent, running, log = (
        defaultdict[str, float](float),
        dict[str, float](),
        (folder / "luigi.log").read_text("utf-8", "replace"),
    )
    lines = [moment(line[:23]) for line in log.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]
    spent["start"], spent["end"] = lines[0] - begun, ended - lines[-1]
    for at, what, stage, parameters in STAGE.findall(log):
        if what == "running":
            running[stage + parameters] = moment(at)
        elif stage in SHOWN or stage in ("TrainBag", "ExtractSplit"):
            bag = re.search(r"shape=(\w+)", parameters)
            spent[bag[1] if bag else stage] += moment(at) - running[stage + parameters]
    passes = 0.0
    for path in (folder / "features").glob("*.h5"):
        record = featcache.open(path).run
        passes += record["computed"] / record["images_per_second"] if record["computed"] else 0.0
    spent["images"], spent["network"] = passes, spent.pop("ExtractSplit") - passes
    spent["rest"] = ended - begun - sum(spent.values())
    return spent


def moment(text: str) -> float:
    """Seconds since the epoch of a time in ``luigi.log``."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()


def table(spent: dict[str, dict[str, float]]) -> str:
    """Where each data set's time went, as a Markdown table."""
    rows = [["seconds", *spent], ["---"] * (1 + len(spent))]
    rows += [[text, *(f"{each.get(part, 0.0):.1f}" for each in spent.values())] for part, text in SHOWN.items()]
    rows += [["whole", *(f"{sum(each.values()):.1f}" for each in spent.values())]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    words = sys.argv[1:]
    given = words.index("--") if "--" in words else len(words)
    with tempfile.TemporaryDirectory() as temporary:
        done = {name: run(name, Path(temporary), words[given + 1 :]) for name in words[:given] or NAMES}
    print("| data | test rows | test accuracy | test log-loss | oof accuracy | oof log-loss | whole |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(row for row, _ in done.values()))
    print(f"\n{table({name: spent for name, (_, spent) in done.items()})}")
