"""Make docs/images/luigid.png: luigid's own page while features are extracted, as Chromium shows it.

    pip install playwright
    python docs/luigid_picture.py /usr/bin/chromium

Runs a luigid and the main job in a temporary folder, and opens the status line of the running stage.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
TARGET = ROOT / "docs/images/luigid.png"
PORT = "18082"
PAGE = f"http://127.0.0.1:{PORT}/static/visualiser/index.html"
_JOB = ["--Features-weights", "random", "--Features-copies", "4"]  # long enough to be looked at


def main(chromium: str) -> None:
    """Start both, wait until extraction is well under way, take the picture, end both."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "luigi.cfg").write_text((ROOT / "luigi.cfg").read_text())
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

        def start(*words: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                words, cwd=temporary, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
            )

        luigid = start("luigid", "--address", "127.0.0.1", "--port", PORT, "--state-path", f"{temporary}/state")
        time.sleep(3)
        job = start(
            "luigi", "--module", "pipeline", "Submit", "--scheduler-host", "127.0.0.1", "--scheduler-port", PORT, *_JOB
        )
        try:
            while not _halfway():
                time.sleep(0.5)
            _shoot(chromium)
        finally:
            job.kill()
            luigid.kill()


def _halfway() -> bool:
    query = urllib.request.quote(json.dumps({"status": "RUNNING", "upstream_status": ""}))
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/task_list?data={query}", timeout=10) as response:
        running = json.load(response)["response"].values()
    return any(task["name"] == "ExtractSplit" and (task["progress_percentage"] or 0) >= 40 for task in running)


def _shoot(chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto(PAGE)
        page.locator("td:has-text('ExtractSplit')").first.wait_for()
        page.locator("button.statusMessage").first.click()
        page.wait_for_timeout(2500)
        page.screenshot(path=str(TARGET))
        browser.close()
    with Image.open(TARGET) as image:
        image.convert("RGB").quantize(128).save(TARGET, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
