"""Memory a row: what a listing, a loaded manifest and an extraction hold, measured in a process of its own without TensorFlow."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
FEW, MANY = 6_000, 12_000  # a split keeps four parsed chunks of 1,024 lines, whatever its length
ENVIRONMENT = {"PYTHONPATH": str(SOURCE), "FEATCACHE_BLOCK_BYTES": "8192"}  # several blocks of few rows, too

PROGRAM = """
import sys, tracemalloc
from pathlib import Path
import numpy as np
from featcache.extract import extract_features
from featcache.extraction import Extraction, row_settings
from featcache.progress import Silent
from featcache.rows import Rows
from featcache.sources.files import FileStat, FileStats
from featcache.sources.manifest import Manifest
from featcache.specs import FeaturesSpec, Tap
from featcache.texts import ComputedTexts, RepeatedText

folder, n = Path(sys.argv[1]), int(sys.argv[2])
ids = ComputedTexts(n, lambda row: f"class{row % 2}/image_{row:07d}.jpg")
none = RepeatedText("", n)

class Stub:
    batch_size, taps = 128, {"wide": (4,)}

    def forward(self, images):
        return {"wide": np.ones((len(images), 4), np.float32)}

def listing():
    return FileStats(FileStat(row_id, 1, 2, 3) for row_id in ids)

def extraction():
    manifest = Manifest.load(folder)
    spec = FeaturesSpec(taps=(Tap("wide"),), image_size=1)
    settings = row_settings(spec, {"backbone": "stub", "preprocessing": "none"}, "w" * 64, "float32", 0)
    job = Extraction("set", "train", 0, manifest.splits["train"], manifest.class_names, spec, settings)
    extract_features(folder / "features/a.h5", job, lambda *_: np.zeros((1, 1, 3), np.uint8), Stub, Silent())

digests = ComputedTexts(n, lambda row: f"{row:064x}")
rows = Rows(ids, np.arange(n, dtype=np.int32) % 2, none, digests, none, ids)
Manifest(("class0", "class1"), {"train": rows}, {}).save(folder)
del rows
tracemalloc.start()
for work in (listing, lambda: Manifest.load(folder), extraction):
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    kept = work()
    print(tracemalloc.get_traced_memory()[1] - before)
    del kept
"""


def peaks(folder, n):
    (folder / "features").mkdir(parents=True)
    words = [sys.executable, "-c", PROGRAM, str(folder), str(n)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return [int(line) for line in done.stdout.split()]


def test_bytes_a_row(tmp_path):
    few, many = peaks(tmp_path / "few", FEW), peaks(tmp_path / "many", MANY)
    listing, manifest, extraction = ((after - before) / (MANY - FEW) for before, after in zip(few, many, strict=True))
    # as Python texts they were 300 to 500
    assert listing < 90
    assert manifest < 60
    assert extraction < 60
