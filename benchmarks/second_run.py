"""What a second `luigi --module pipeline Submit` costs beyond importing Luigi, when everything is complete.

Runs the main job on the embedded digits once (into a temporary folder, unless --artifacts names one), then takes turns
between the complete Submit and `python -c "import luigi"`. Prints medians in seconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 0.5
RUNS = 10


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    begun, before = time.perf_counter(), os.times()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, help="artifacts folder of an earlier run on the digits")
    given = parser.parse_args().artifacts
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        submit = [sys.executable, "-m", "luigi", "--module", "pipeline", "Submit", "--Features-weights", "random"]
        submit += ["--Paths-artifacts", str(given.resolve() if given else folder / "artifacts")]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        subprocess.run(submit, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        measured = [
            (*seconds(submit, folder), *seconds([sys.executable, "-c", "import luigi"], folder)) for _ in range(RUNS)
        ]
    run, run_cpu, bare, bare_cpu = (statistics.median(column) for column in zip(*measured, strict=True))
    print(f"complete Submit  {run:.3f} s wall  {run_cpu:.3f} s CPU")
    print(f"import luigi     {bare:.3f} s wall  {bare_cpu:.3f} s CPU")
    print(f"difference       {run - bare:.3f} s wall  {run_cpu - bare_cpu:.3f} s CPU  (limit {LIMIT} s)")
    return int(run - bare >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
