"""Peak memory of every stage and command, from 10,000 to 1,000,000 training rows and a tenth of test rows.

    python benchmarks/memory.py [--rows 10000 100000 1000000] [--classes 10] [--folder FOLDER]

The images are links to some thousand small PNG files. Each measurement is a process of its own, on what those before it left.
Its peak is that of its anonymous memory, or of a child's that it starts, looked at every 5 ms; pages of mapped files, which
the kernel takes back when others need memory, are told apart. A stub takes the backbone's place and no image is
decoded, so that only what featcache itself holds is seen: it returns 512 values a row at once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

WIDTH, BATCH = 512, 64
FEW_CLASSES = 100  # of more, a regression would take hours; then the recipe's heads alone are trained
SETTLED_SECONDS = 3  # until then a listing reads the files again
SETTINGS = """[Dataset]
name = set
source = folder
path = photos
[Features]
image_size = 32
taps = block5_pool
[Heads]
preset = {preset}
hidden = 8
schedule = 1e-3x1
batch_size = 1024
seeds = 2
folds = 2
"""


def build(folder: Path, n: int, classes: int) -> None:
    """Lay out n training and n / 10 test images, and settle weights and precision without a backbone."""
    import numpy as np
    from PIL import Image

    distinct = max(1000, 4 * classes)
    pixels = np.random.default_rng(0).integers(0, 256, (2 * distinct, 8, 8, 3), dtype=np.uint8)
    (folder / "pool").mkdir(parents=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"pool/{number}.png")
    for i in range(classes):
        (folder / f"photos/train/class{i}").mkdir(parents=True)
    (folder / "photos/test").mkdir()
    for i in range(n):
        train, test = (folder / f"pool/{i % distinct + number}.png" for number in (0, distinct))
        os.link(train, folder / f"photos/train/class{i % classes}/image_{i:07d}.png")
        if i < n // 10:
            os.link(test, folder / f"photos/test/image_{i:07d}.png")
    (folder / "luigi.cfg").write_text(SETTINGS.format(preset="recipe" if classes > FEW_CLASSES else "fast"))
    time.sleep(SETTLED_SECONDS)


def project():  # featcache.project.project.Project, imported where it is measured
    """The project in the present folder."""
    from featcache.project.config_file import configured_project

    found = configured_project([])
    weights = {"setting": "auto", "backbone": "vgg16", "kind": "random", "digest": "d" * 64, "note": "", "stat": None}
    if not (found.folder / "resolved.json").exists():
        found.backbones[0].record_resolved("weights", weights)
        found.backbones[0].record_resolved("precision", {"setting": "auto", "value": "float32", "reason": "none"})
    return found


def stage(name: str, *arguments: str) -> Callable[[], None]:
    """One function of `featcache.stages`."""

    def work() -> None:
        from featcache import stages
        from featcache.core.progress import Silent

        getattr(stages, name)(project(), *arguments, Silent())

    return work


def index() -> None:
    """List the images: stat, read, digest; whether PIL could decode them isn't asked."""
    from featcache.dataset import decoding

    decoding.header_fault = lambda *_: ""
    stage("index_images")()


def extract() -> None:
    """Cache both splits."""
    import numpy as np

    from featcache import stages
    from featcache.core.progress import Silent
    from featcache.dataset.sources.folder import FolderSource
    from featcache.features import processor
    from featcache.stages import features

    class Stub:
        device = processor()
        batch_size, taps = BATCH, {"block5_pool": (1, 1, WIDTH)}

        def forward(self, images):
            drawn = np.random.default_rng(len(images)).random((len(images), 1, 1, WIDTH), np.float32)
            return {"block5_pool": drawn}

    black = np.zeros((32, 32, 3), np.uint8)
    FolderSource.load = lambda *_: black  # type: ignore[method-assign]
    features.resolved_backbone = lambda *_: Stub()  # type: ignore[attr-defined,assignment]
    found = project()
    for split in ("train", "test"):
        stages.extract_split(found, split, Silent(), [0])
    stages.finish_features(found, Silent())


def copied() -> None:
    """Cache train again where another cache has all its rows."""
    path = project().backbones[0].cache("train", 0).path
    path.rename(path.with_name("train-copy0-other.h5"))
    extract()
    path.with_name("train-copy0-other.h5").unlink()


def touched() -> None:
    """`featcache status` when a file has a new time stamp."""
    os.utime("photos/train/class0/image_0000000.png")
    command("status")()


def train() -> None:
    """Train the bag of dense heads, or the recipe's."""
    stage("train_bag", *project().bags()[0])()


def command(*words: str) -> Callable[[], None]:
    """`featcache WORDS`; CACHE is the cache of train."""

    def work() -> None:
        from featcache.cli import main

        cache = str(next(Path("artifacts/set/features").glob("train-*.h5"), ""))
        main([word.replace("CACHE", cache) for word in words])

    return work


LINEAR, LDA = "TrainHeads, linear", "TrainHeads, lda"
SUBJECTS = {
    "IndexImages": index,
    "featcache plan": command("plan"),
    "ExtractFeatures": extract,
    "ExtractFeatures, train copied": copied,
    "TrainHeads": train,
    LINEAR: stage("train_bag", "block5_pool", "linear"),
    LDA: stage("train_bag", "block5_pool", "lda"),
    "PredictRows": stage("predict_rows"),
    "BuildEnsemble": stage("build_ensemble"),
    "WriteSubmission": stage("write_submission"),
    "WriteReport": stage("write_report"),
    "featcache status": command("status"),
    "featcache status, a file touched": touched,
    "featcache verify": command("verify", "artifacts"),
    "featcache du": command("du"),
    "featcache gc": command("gc"),
    "featcache leaderboard": command("leaderboard"),
    "featcache show": command("show", "CACHE"),
    "featcache stats": command("stats", "CACHE"),
    "featcache pca": command("pca", "CACHE", "--csv", "pca.csv"),
    "featcache neighbours": command("neighbours", "CACHE", "class0/image_0000000.png"),
    "featcache export": command("export", "CACHE", "exported"),
}


class Peak(threading.Thread):
    """Looks at the memory of this process and its children until it ends, in MB: the largest of them."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0.0
        self.start()

    def run(self) -> None:
        """Look every 5 ms."""
        while True:
            for process in ("self", *_children()):
                found = _memory(process)
                self.anonymous = max(self.anonymous, found.get("RssAnon", 0.0))
                self.mapped = max(self.mapped, found.get("RssFile", 0.0))
            time.sleep(0.005)


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        try:
            yield from (task / "children").read_text().split()
        except OSError:
            continue  # a thread that just ended


def _memory(process: str) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "featcache-memory")
    wanted = parser.parse_args()
    subjects = [name for name in SUBJECTS if name not in (LINEAR, LDA) or wanted.classes <= FEW_CLASSES]
    cells: dict[str, list[str]] = {name: [] for name in subjects}
    for n in wanted.rows:
        folder = wanted.folder / str(n)
        build(folder, n, wanted.classes)
        for name in subjects:
            words = [sys.executable, str(Path(__file__).absolute()), "--measure", name]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
            cells[name].append(done.stdout.splitlines()[-1])
            print(f"{n:,} rows, {name}: {cells[name][-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    print("| | " + " | ".join(f"{n:,} rows" for n in wanted.rows) + " |")
    print("| --- |" + " --- |" * len(wanted.rows))
    for name, found in cells.items():
        print(f"| {name} | " + " | ".join(found) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        begun, peak = time.perf_counter(), Peak()
        SUBJECTS[sys.argv[2]]()
        seconds = time.perf_counter() - begun
        print(f"{peak.anonymous:,.0f} MB (+ {peak.mapped:,.0f} mapped), {seconds:.1f} s")
    else:
        main()
