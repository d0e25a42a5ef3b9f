"""What listing new JPEG files takes beyond reading and hashing them, and what a run that finds nothing new takes.

    python benchmarks/index.py [--files 100000] [--rounds 3] [--folder FOLDER] [--submit]

Writes small photos, each different, in ten class folders of a temporary folder. Takes turns, with the files in memory:
`cat` of them all to /dev/null and the SHA-256 of each in one process; listing them as new ones; IndexImages from the start
of Python to its end, on new files and when nothing has changed; with --submit also Submit when all is complete, after one
with a small network and few heads, which takes minutes. Modules are compiled, as where they are installed. Prints a
Markdown table of medians.
"""

import argparse
import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLASSES, PHOTOS, SIDE = 10, 500, 64
SETTLED_SECONDS = 3  # until then a listing reads the files again
COMMENT = b"\xff\xfe\x00\x0a"  # begins a segment of 8 bytes, in which each file has its number
SMALL = [
    *("--Features-backbone", "mobilenetv3small", "--Features-image-size", "32", "--Features-weights", "random"),
    *("--Heads-preset", "recipe", "--Heads-schedule", "1e-3x1", "--Heads-seeds", "1", "--Heads-folds", "2"),
    *("--Dataset-near-duplicates", "ignore"),  # there are 500 different ones
]
LISTING = """
from pathlib import Path
from featcache.dataset import list_images
from featcache.settings import DatasetSpec
import sys, time
begun = time.perf_counter()
list_images(DatasetSpec("set", "folder", Path("photos")), Path("listed")).save(Path("listed"))
print(time.perf_counter() - begun)
"""


def build(folder: Path, count: int) -> None:
    """Write `count` files of about 2 kB: noise laid over gradients."""
    import numpy as np
    from PIL import Image

    draw, contents = np.random.default_rng(0), []
    slope = np.linspace(0, 200, SIDE)[:, None, None]
    for _ in range(PHOTOS):
        pixels = slope * draw.random(3) + 30 * draw.random((SIDE, SIDE, 1))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=int(draw.integers(60, 95)))
        contents.append(file.getvalue())
    for number in range(CLASSES):
        (folder / f"train/class{number}").mkdir(parents=True)
    for number in range(count):
        content = contents[number % PHOTOS]
        own = content[:2] + COMMENT + number.to_bytes(8, "big") + content[2:]
        (folder / f"train/class{number % CLASSES}/image_{number}.jpg").write_bytes(own)
    time.sleep(SETTLED_SECONDS)


def read_and_hash(folder: Path) -> float:
    """Seconds of `cat` and of hashing what it read."""
    begun = time.perf_counter()
    command = "find photos -type f -print0 | xargs -0 cat > /dev/null"
    subprocess.run(command, shell=True, cwd=folder, check=True)  # noqa: S602 - our own words
    seconds = time.perf_counter() - begun
    contents = [path.read_bytes() for path in folder.glob("photos/train/*/*")]
    begun = time.perf_counter()
    for content in contents:
        hashlib.sha256(content).digest()
    return seconds + time.perf_counter() - begun


def python(folder: Path, *words: str) -> tuple[float, float, str]:
    """Seconds by the clock and of the processor of a Python, and what it printed."""
    begun, before = time.perf_counter(), os.times()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    done = subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True, env=environment)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, used, done.stdout.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--submit", action="store_true", help="also measure a Submit that has nothing to do")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        build(folder / "photos", given.files)
        settings = ["--Dataset-source", "folder", "--Dataset-path", "photos", "--Dataset-name", "set"]
        luigi = ["-m", "luigi", "--module", "pipeline"]
        stage = [*luigi, "IndexImages", *settings]
        submit = [*luigi, "Submit", *settings, *SMALL, "--Paths-artifacts", "submitted"]
        python(folder, *(submit if given.submit else stage))
        measured: dict[str, list[float]] = {}

        def note(what: str, seconds: float) -> None:
            measured.setdefault(what, []).append(seconds)

        for _ in range(given.rounds):
            for made in ("artifacts", "listed"):
                shutil.rmtree(folder / made, ignore_errors=True)
            note("cat and SHA-256", read_and_hash(folder))
            note("new files, listed and saved", float(python(folder, "-c", LISTING)[2]))
            note("new files, the whole IndexImages", python(folder, *stage)[0])
            seconds, used, _ = python(folder, *stage)
            note("nothing new, the whole IndexImages", seconds)
            note("the same, of the processor", used)
            if given.submit:
                note("nothing new, the whole Submit", python(folder, *submit)[0])
            note("import luigi", python(folder, "-c", "import luigi")[0])
    least = statistics.median(measured["cat and SHA-256"])
    print(f"| {given.files:,} files | seconds | of cat and SHA-256 |")
    print("| --- | --- | --- |")
    for what, rounds in measured.items():
        print(f"| {what} | {statistics.median(rounds):.2f} | {statistics.median(rounds) / least:.2f} |")


if __name__ == "__main__":
    main()
