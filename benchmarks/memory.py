"""Peak memory of extraction, training and looking at a cache, from 10,000 to 1,000,000 rows of 512 float16.

    python benchmarks/memory.py [--rows 10000 100000 1000000] [--folder /tmp/memory]

Each measurement is a process of its own. Its peak is that of its anonymous memory, looked at every 5 ms; pages of a
mapped cache, which the kernel takes back when others need memory, are told apart. The backbone is a stub that
returns 512 values a row at once, so that only what featcache itself holds is seen.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

WIDTH, BATCH = 512, 64


def make_rows(n: int):  # featcache.rows.Rows, imported where it is measured
    """N rows as a manifest lists them."""
    import numpy as np

    from featcache.rows import Rows

    ids = [f"class{i % 10}/image_{i:07d}.jpg" for i in range(n)]
    digests = [hashlib.sha256(row_id.encode()).hexdigest() for row_id in ids]
    return Rows(ids, np.arange(n, dtype=np.int32) % 10, [""] * n, digests, [""] * n, ids)


def rows(path: Path, n: int) -> None:
    """Hold the manifest's rows alone, as every stage must."""
    made = make_rows(n)
    assert len(made.key) == 64


def extract(path: Path, n: int) -> None:
    """Cache n rows."""
    import numpy as np

    from featcache.extract import extract_features
    from featcache.extraction import Extraction, row_settings
    from featcache.progress import Silent
    from featcache.specs import FeaturesSpec, Tap

    class Stub:
        batch_size, taps = BATCH, {"wide": (WIDTH,)}

        def forward(self, images):
            return {"wide": np.random.default_rng(int(images[0, 0, 0, 0])).random((len(images), WIDTH), np.float32)}

    spec = FeaturesSpec(taps=(Tap("wide"),), image_size=8)
    settings = row_settings(spec, {"backbone": "stub", "preprocessing": "none"}, "w" * 64, "float32", 0)
    job = Extraction("set", "train", 0, make_rows(n), tuple("abcdefghij"), spec, settings)
    black = np.zeros((8, 8, 3), np.uint8)
    extract_features(path, job, lambda *_: black, Stub, Silent())


def train(path: Path, n: int) -> None:
    """Train a bag of two small heads on the cache, one epoch."""
    import numpy as np

    import featcache
    from featcache.batches import Examples
    from featcache.folds import assign_folds
    from featcache.parts import by_folds
    from featcache.presets import resolve
    from featcache.progress import Silent
    from featcache.specs import HeadsSpec
    from featcache.training import train_bag

    reader = featcache.open(path)
    spec = HeadsSpec(hidden=(8,), schedule=((1e-3, 1),), batch_size=1024, folds=2, seeds=1)
    folds = assign_folds(reader.labels, reader.groups, 2, 0, reader.class_names)
    plan = resolve(spec, "fast", WIDTH, n, 10)
    examples = Examples([reader["wide"]], reader.labels, by_folds(folds, np.ones(n, bool)))
    train_bag(examples, plan, range(1), Silent())


def verify(path: Path, n: int) -> None:
    """Check every block's checksum."""
    import featcache

    assert featcache.open(path).durable.all()


def show(path: Path, n: int) -> None:
    """`featcache show`."""
    from featcache.cli import main

    main(["show", str(path)])


class Peak(threading.Thread):
    """Looks at this process' memory until it ends, in MB."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0.0
        self.start()

    def run(self) -> None:
        """Look every 5 ms."""
        while True:
            text = Path("/proc/self/status").read_text()
            found = {
                line.split(":")[0]: int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Rss")
            }
            self.anonymous = max(self.anonymous, found["RssAnon"])
            self.mapped = max(self.mapped, found["RssFile"])
            time.sleep(0.005)


SUBJECTS = {"rows alone": rows, "extract": extract, "train": train, "verify": verify, "featcache show": show}


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    wanted = parser.parse_args()
    print("| | " + " | ".join(f"{n:,} rows" for n in wanted.rows) + " |", flush=True)
    print("| --- |" + " --- |" * len(wanted.rows))
    paths = {n: wanted.folder / f"memory-{n}.h5" for n in wanted.rows}
    for name in SUBJECTS:
        cells = []
        for n, path in paths.items():
            words = [sys.executable, __file__, "--measure", name, str(path), str(n)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            cells.append(done.stdout.splitlines()[-1])
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for path in paths.values():
        path.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        begun, peak = time.perf_counter(), Peak()
        SUBJECTS[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))
        seconds = time.perf_counter() - begun
        print(f"{peak.anonymous:,.0f} MB (+ {peak.mapped:,.0f} mapped), {seconds:.1f} s")
    else:
        main()
