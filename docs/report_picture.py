"""Make docs/images/report.png and report-images.png: parts of a finished run's report, as Chromium shows them.

pip install playwright
python docs/report_picture.py artifacts/digits/report/index.html /usr/bin/chromium
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1200, 800
COLOURS = 255


def main(report: Path, chromium: str) -> None:
    """Take the first screen, and the images with the map; both in few colours, to stay small."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(report.resolve().as_uri())
        keep(page.screenshot(), "report")
        page.locator("[data-tab=gallery-errors]").click()
        page.locator("#theme").click()
        page.locator("#marked").evaluate("each => { each.style.position = 'static' }")  # a picture has no bottom
        parts = [part(page, "#images", 560), part(page, "#map", 760)]
        whole = Image.new("RGB", (WIDTH, sum(each.height for each in parts)))
        top = 0
        for each in parts:
            whole.paste(each, (0, top))
            top += each.height
        buffer = io.BytesIO()
        whole.save(buffer, "PNG")
        keep(buffer.getvalue(), "report-images")
        browser.close()


def part(page: Page, selector: str, height: int) -> Image.Image:
    """The first `height` pixels of a section, as wide as the page."""
    top = page.locator(selector).evaluate("each => each.getBoundingClientRect().top + scrollY")
    box = {"x": 0, "y": top, "width": WIDTH, "height": height}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=box))).convert("RGB")


def keep(content: bytes, name: str) -> None:
    image = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS)
    image.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
