"""What the report of 10,000 photos costs: time to write it, its bytes, and how soon a browser shows it.

    FEATCACHE_SHARED=PATH python benchmarks/report.py [--folder FOLDER]

Crops of the shared flowers, drawn at random, are taken through the main job once (into FOLDER, which is then kept and used again, or
a temporary one). Then the report is written three times, and opened ten times in a headless Chromium; medians are printed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from featcache.core.progress import Silent
from featcache.project.project import Project
from featcache.report.content import report_content
from featcache.report.render import render_page
from featcache.settings.parsing import parse_settings
from featcache.stages import find_duplicates

ROOT = Path(__file__).parent.parent
IMAGES, TEST, SIDE = 10_000, 500, 160
MOST_BYTES, MOST_SECONDS = 5_000_000, 2.0
WRITTEN, OPENED = 3, 10


def write_crops(photos: Path, folder: Path) -> None:
    """Write `IMAGES` training and `TEST` test crops, all classes alike often."""
    random = np.random.default_rng(0)
    paths = sorted((photos / "train").glob("*/*"))
    for number in range(IMAGES + TEST):
        path = paths[number % len(paths)]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        side = min(image.size) * random.uniform(0.5, 0.9)
        left, top = (random.uniform(0, length - side) for length in image.size)
        split = "train" if number < IMAGES else "test"
        target = folder / split / path.parent.name / f"{number}-{path.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.resize((SIDE, SIDE), box=(left, top, left + side, top + side)).save(target, quality=85)


def settings(folder: Path) -> dict[str, dict[str, str]]:
    return {
        "Dataset": {"name": "crops", "source": "folder", "path": str(folder / "photos")},
        "Features": {"weights": "random", "image_size": "32", "taps": "block3_pool:avg"},
        "Heads": {"preset": "fast", "seeds": "1"},
        "Report": {"enabled": "false"},
        "Paths": {"artifacts": str(folder / "artifacts")},
    }


def run_main_job(folder: Path) -> None:
    flags = [
        word
        for section, values in settings(folder).items()
        for key, text in values.items()
        for word in (f"--{section}-{key.replace('_', '-')}", text)
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    subprocess.run(
        [sys.executable, "-m", "luigi", "--module", "pipeline", "Submit", *flags],
        cwd=folder,
        env=environment,
        check=True,
    )


def written(project: Project) -> tuple[float, str]:
    begun = time.perf_counter()
    page = render_page(report_content(project, Silent()), datetime.now(UTC))
    return time.perf_counter() - begun, page


def opened(path: Path) -> list[float]:
    """Seconds until everything on the page was loaded and drawn, each time in a fresh tab."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        for _ in range(OPENED):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            begun = time.perf_counter()
            page.goto(path.as_uri(), wait_until="load")
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found.append(time.perf_counter() - begun)
            page.close()
        browser.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="kept, and used again if it has a finished run")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.resolve() if given else Path(temporary)
        if not (folder / "artifacts/crops/submission.csv").exists():
            write_crops(Path(os.environ["FEATCACHE_SHARED"]) / "data/flowers5", folder / "photos")
            run_main_job(folder)
        project = Project(parse_settings(settings(folder)))
        find_duplicates(project, Silent())
        times, page = zip(*(written(project) for _ in range(WRITTEN)), strict=True)
        path = folder / "report.html"
        path.write_text(page[0], encoding="utf-8")
        size, shown = path.stat().st_size, statistics.median(opened(path))
    print(f"written  {times[0]:.1f} s the first time, with imports; then {statistics.median(times[1:]):.1f} s")
    print(f"bytes    {size:,} (limit {MOST_BYTES:,})")
    print(f"opened   {shown:.2f} s (limit {MOST_SECONDS} s)")
    return int(size >= MOST_BYTES or shown >= MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
