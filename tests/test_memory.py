"""Memory a row: what a listing, a loaded manifest and an extraction hold, measured in a process of its own without TensorFlow."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
# Far apart: which buffers are in use at once is a matter of threads and moves the peak by up to half a megabyte.
FEW, MANY = 20_000, 60_000
ENVIRONMENT = {"PYTHONPATH": str(SOURCE), "FEATCACHE_BLOCK_BYTES": "8192"}  # several blocks of few rows, too

PROGRAM = """
import sys, tracemalloc
from pathlib import Path
import numpy as np
from featcache.features.extract import extract_copies
from featcache.features.extraction_job import Extraction, row_settings
from featcache.core.progress import Silent
from featcache.core.rows import Rows
from featcache.dataset.file_stats import FileStat, FileStats
from featcache.dataset.manifest import Manifest
from featcache.features.devices import processor
from featcache.settings.specs import FeaturesSpec, Tap
from featcache.core.texts import ComputedTexts, ConstantText

folder, n = Path(sys.argv[1]), int(sys.argv[2])
ids = ComputedTexts(n, lambda row: f"class{row % 2}/image_{row:07d}.jpg")
none = ConstantText("", n)

class Stub:
    batch_size, taps, device = 128, {"wide": (4,)}, processor()

    def forward(self, images):
        return {"wide": np.ones((len(images), 4), np.float32)}

def listing():
    return FileStats(FileStat(row_id, 1, 2, 3) for row_id in ids)

def extraction():
    manifest = Manifest.load(folder)
    spec = FeaturesSpec(taps=(Tap("wide"),), image_size=1)
    settings = row_settings(spec, {"backbone": "stub", "preprocessing": "none"}, "w" * 64, "float32", 0)
    job = Extraction("set", "train", 0, manifest.splits["train"], manifest.class_names, spec, settings)
    extract_copies({folder / "features/a.h5": job}, lambda *_: np.zeros((1, 1, 3), np.uint8), Stub, Silent())

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
assert "pandas" not in sys.modules, "pyarrow imports it wherever it makes an array of a list"
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
    assert listing < 80
    assert manifest < 30
    assert extraction < 60


TABLES = """
import json, sys, tracemalloc
from pathlib import Path
import numpy as np
from featcache.core.rows import Rows
from featcache.ensemble import select_ensemble
from featcache.training.predictions import Predictions, joined_members
from featcache.core.texts import ComputedTexts, ConstantText

folder, n, classes = Path(sys.argv[1]), int(sys.argv[2]), 40
draw, labels = np.random.default_rng(0), np.arange(n, dtype=np.int32) % classes
ids, none = ComputedTexts(n, lambda row: f"{row:08d}"), ConstantText("", n)
rows = Rows(ids, labels, none, none, none)
for number in range(3):
    said = draw.random((1, n, classes), np.float32)
    said[0, np.arange(n), labels] += 5
    said /= said.sum(axis=2, keepdims=True)
    place, names = folder / str(number), tuple(map(str, range(classes)))
    place.mkdir()
    members = Predictions(ids, labels, (f"m{number}",), said, names, labels % 2, rows_key=rows.key)
    (place / "bag.json").write_text(json.dumps({"predictions": members.save(place)}))
del members
del said
tracemalloc.start()
known = joined_members([Predictions.load(folder / f"{number}/bag.json", rows) for number in range(3)])
built = select_ensemble(known, "mean")
total = sum(said.sum() for _, said in built.nested_parts(known))
assert round(total) == n
print(tracemalloc.get_traced_memory()[1])
"""


def test_an_ensemble_is_built_without_its_members_tables_in_memory(tmp_path):
    """They are tens of gigabytes where there are many classes and rows; here they are 480 bytes a row."""
    found = []
    for n in (110_000, 170_000):
        (tmp_path / str(n)).mkdir()
        words = [sys.executable, "-c", TABLES, str(tmp_path / str(n)), str(n)]
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(int(done.stdout))
    a_row = (found[1] - found[0]) / 60_000
    assert a_row < 120, f"{a_row:.0f} bytes a row, {found[1] / 1e6:.0f} MB"
