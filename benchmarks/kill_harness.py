"""Kill `luigi --module pipeline Submit` a hundred times, and compare every next run with an undisturbed one.

Each kill starts from nothing or from what an earlier kill left: at every block boundary, before and after every rename,
and at random moments; the whole process group or only Luigi itself; one worker or two. After each kill nothing
half-written may look done, and the run after it must give the same bytes of features, predictions and submission.

    python benchmarks/kill_harness.py [--kills 100] [--seed 0] [--folder /tmp/kills]
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "src")]

import kills  # noqa: E402  # from tests/


def main() -> None:
    """Run the harness and print one line for benchmarks/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=100, help="how many; those beyond the boundaries are at random moments"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="kill-harness-"))
    begun, counts = time.perf_counter(), collections.Counter[str]()
    whole = kills.undisturbed(folder / "undisturbed", report=True)
    print(f"undisturbed: {whole.seconds:.1f} s, {len(whole.contents)} datasets and files", flush=True)
    draw = random.Random(wanted.seed)  # moments, not secrets
    for number, moment in enumerate(_moments(wanted.kills, draw, whole.seconds)):
        project = whole.fresh(folder / f"kill-{number}")
        workers, whom = 1 + number % 2, draw.choice(["group", "parent"])
        kind = "random" if isinstance(moment, float) else moment.partition(":")[0]
        attempts = _kill(project, whole, moment, whom, workers)
        unfinished = kills.check_leftovers(project, whole)
        said = kills.run_to_the_end(project, whole, workers)
        counts.update(
            {kind: 1, f"{workers} workers": 1, whom: 1, "unfinished caches": unfinished, "resumed": "resumed" in said}
        )
        print(f"{number:3} {moment} {whom} {workers}: same bytes ({attempts} tries)", flush=True)
        kills.discard(project)
    shutil.rmtree(folder)
    shares = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{wanted.kills} kills, all byte-identical ({shares}); {time.perf_counter() - begun:.0f} s")


def _moments(count: int, draw: random.Random, seconds: float) -> list[str | float]:
    """Every boundary once, then random moments; a short count takes some of each."""
    fixed = [*kills.BOUNDARIES, *kills.RENAMES]
    if count < len(fixed) * 2:
        fixed = draw.sample(fixed, count // 2)
    return [*fixed, *(draw.uniform(0.1, 1.1) * seconds for _ in range(count - len(fixed)))]


def _kill(project, whole, moment, whom, workers) -> int:
    """Kill once, again with an earlier moment where the run was over before it."""
    for attempt in range(1, 6):
        if isinstance(moment, float):
            if kills.kill_after(project, moment * (1.6 if workers == 2 else 1) / attempt, whom, workers):
                return attempt
            kills.discard(project)
            project.folder.mkdir()
        elif kills.kill_at(project, moment, whom, workers):
            return attempt
    raise AssertionError(f"the run was never killed at {moment}")


if __name__ == "__main__":
    main()
