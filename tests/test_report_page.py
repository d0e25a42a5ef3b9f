"""The report in a real browser: it loads alone and without a fault, and what can be clicked does what it says."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from report_data import COPY, HOSTILE, PLANTED

from featcache.core.progress import Silent
from featcache.dataset.corrections import read_corrections
from featcache.report.class_metrics import class_table
from featcache.report.content import report_content
from featcache.report.image_sections import Explained
from featcache.report.predictions import EnsemblePredictions
from featcache.report.render import render_page
from pipeline.config import current_project

SCREENSHOTS = Path(__file__).parent.parent / "artifacts" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Opened:
    """One page, and everything that it asked for or complained of."""

    def __init__(self, browser, path, **options):
        self.complaints, self.requests = [], []
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def keep(self, name, **options):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, **options)


@pytest.fixture(scope="module")
def path(reported):
    return reported.artifacts / "report/index.html"


@pytest.fixture
def opened(browser, path):
    page = Opened(browser, path)
    yield page.page
    page.context.close()
    assert page.complaints == []


def test_it_loads_alone_without_a_fault_and_every_image(browser, path):
    opened = Opened(browser, path)
    opened.keep("report-desktop")
    sizes = opened.page.evaluate("[...document.images].filter(each => each.src).map(each => each.naturalWidth)")
    assert len(sizes) > 50
    assert min(sizes) > 0
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    opened.context.close()
    assert opened.complaints == []


def test_names_are_shown_as_they_are_and_never_run(opened):
    assert opened.locator("#scores-train tbody th", has_text=HOSTILE).count() == 1
    assert opened.locator("#map-classes button", has_text=HOSTILE).count() == 1
    assert opened.evaluate("[...document.images].filter(each => each.getAttribute('src') === 'x').length") == 0


def test_hovering_a_point_of_the_map_shows_its_image(opened):
    opened.locator("#feature-map").scroll_into_view_if_needed()
    place = opened.evaluate("""() => {
        const chart = Chart.getChart("feature-map"), point = chart.getDatasetMeta(1).data[0], box = chart.canvas.getBoundingClientRect();
        return [box.left + point.x, box.top + point.y];
    }""")
    assert opened.locator("#hover").is_hidden()
    opened.mouse.move(*place)
    opened.locator("#hover").wait_for(state="visible")
    image, words = opened.locator("#hover img"), opened.locator("#hover").inner_text()
    assert image.evaluate("each => each.naturalWidth") == 40
    assert any(name in words for name in ("disc", "square", "triangle", "onerror"))
    assert ".png" in words


def shown_classes(page):
    return page.evaluate("Chart.getChart('feature-map').data.datasets.slice(1).map(each => !each.hidden)")


def test_the_map_is_filtered_by_class_and_laid_out_anew(opened):
    chips = opened.locator("#map-classes button")
    assert shown_classes(opened) == [True] * 4
    chips.nth(1).click()
    assert shown_classes(opened) == [False, True, False, False]
    chips.nth(2).click()
    assert shown_classes(opened) == [False, True, True, False]
    opened.locator("#all-classes").click()
    assert shown_classes(opened) == [True] * 4
    first = "Chart.getChart('feature-map').data.datasets[1].data[0].x"
    before = opened.evaluate(first)
    opened.locator("[data-layout=pca]").click()
    assert opened.evaluate(first) != before


def test_galleries_are_tabs_and_filtered(opened):
    opened.locator("[data-tab=gallery-errors]").click()
    shots = opened.locator("#gallery-errors .shot")
    assert shots.count() == 1
    assert PLANTED in shots.first.inner_text()
    assert opened.locator("#gallery-wrong").is_hidden()
    opened.locator("[data-tab=gallery-unsure]").click()
    everything = opened.locator("#gallery-unsure .shot")
    opened.locator("#gallery-unsure [data-pick=split]").select_option("valid")
    assert {each.get_attribute("data-split") for each in everything.all() if each.is_visible()} == {"valid"}


def test_images_are_marked_by_touch_and_keys_and_saved_as_a_file_of_corrections(browser, path, tmp_path):
    opened = Opened(browser, path, viewport=PHONE, is_mobile=True, has_touch=True, accept_downloads=True)
    page, saved = opened.page, tmp_path / "corrections.csv"
    page.locator("[data-tab=gallery-errors]").tap()
    planted = page.locator("#gallery-errors .shot").first
    planted.locator("[data-mark=wrong]").tap()
    assert planted.locator("select").input_value() == "disc", "the suggested class"
    planted.locator("select").select_option(HOSTILE)
    page.locator("[data-tab=gallery-wrong]").tap()
    twin = page.locator("#gallery-wrong .shot").filter(has_text=PLANTED)
    assert twin.locator("[data-mark=wrong][aria-pressed=true]").count() == 1, "the same image in another tab"
    page.locator("[data-tab=gallery-unsure]").tap()
    first = page.locator("#gallery-unsure .shot[data-split=train]").filter(has_not_text=PLANTED).first
    name = first.locator(".marks").get_attribute("data-id")
    first.locator("[data-mark=right]").focus()
    page.keyboard.press("d")
    assert first.locator("[data-mark=drop][aria-pressed=true]").count() == 1
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('.shot') !== null")
    page.reload()
    assert page.locator("#marked [role=status]").inner_text() == "2 marked", "they survive it"
    opened.keep("report-marks-phone")
    with page.expect_download() as download:
        page.locator("#save-marks").click()
    download.value.save_as(saved)
    assert [*map(tuple, read_corrections(saved))] == [(PLANTED, HOSTILE, "train"), (name, "drop", "train")]
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.locator("#clear-marks").click()
    assert page.locator("#marked [role=status]").inner_text() == "0 marked"
    opened.context.close()
    assert opened.complaints == []


def test_the_leaderboard_is_sorted_and_filtered(opened):
    losses = "[...document.querySelectorAll('#members tbody tr')].map(each => Number(each.cells[3].dataset.value))"
    head = opened.locator("#members th", has_text="log-loss").first
    head.click()
    assert opened.evaluate(losses) == sorted(opened.evaluate(losses), reverse=True)
    head.click()
    assert opened.evaluate(losses) == sorted(opened.evaluate(losses))
    opened.locator("[data-filter=members]").fill("linear")
    assert opened.locator("#members tbody tr:visible").count() == 1


def test_dark_is_what_the_system_asks_for_or_the_button(browser, path, opened):
    dark = Opened(browser, path, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert dark.page.evaluate(ground) == "rgb(15, 20, 25)"
    dark.keep("report-dark")
    dark.context.close()
    light = opened.evaluate(ground)
    opened.locator("#theme").click()
    assert opened.evaluate(ground) == "rgb(15, 20, 25)" != light


def test_a_phone_never_scrolls_sideways(browser, path):
    phone = Opened(browser, path, viewport=PHONE, is_mobile=True, has_touch=True)
    phone.keep("report-phone")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert phone.page.evaluate("visualViewport.scale") == 1
    phone.context.close()


def test_printed_it_is_light_and_holds_every_panel(browser, path):
    dark = Opened(browser, path, color_scheme="dark")
    dark.page.emulate_media(media="print")
    assert dark.page.locator("#gallery-errors").is_visible()
    assert dark.page.locator("nav").is_hidden()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    printed = dark.page.pdf(path=SCREENSHOTS / "report.pdf", format="A4", print_background=True)
    assert printed.startswith(b"%PDF")
    assert dark.page.evaluate("document.documentElement.dataset.theme") == "dark", "afterwards it is as before"
    dark.context.close()


def test_settings_are_copied(browser, path):
    opened = Opened(browser, path)
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.locator("[data-copy=settings-text]").click()
    opened.page.locator("[data-copy=settings-text]", has_text="copied").wait_for()
    assert "[Heads]\npreset = fast" in opened.page.evaluate("navigator.clipboard.readText()")
    opened.context.close()


def test_of_120_classes_the_most_confused_are_shown_and_the_others_are_found_by_name(browser, reported, tmp_path):
    names = tuple(f"breed number {i}" for i in range(120))
    labels = np.repeat(np.arange(120), 4).astype(np.int32)
    probabilities = np.random.default_rng(0).dirichlet(np.full(120, 0.05), len(labels))
    probabilities[np.arange(len(labels)), labels] += 0.4
    with reported.in_force():
        content = report_content(current_project(), Silent())
    content["names"] = list(names)
    content["classes"] = {
        "train": class_table(
            EnsemblePredictions("train", list(map(str, labels)), labels, probabilities, probabilities), names
        )
    }
    path = tmp_path / "many.html"
    path.write_text(render_page(content, datetime.now(UTC)), "utf-8")
    phone = Opened(browser, path, viewport=PHONE, is_mobile=True)
    assert phone.page.locator("#classes-train .matrix thead th").count() == 21
    assert "100 others" in phone.page.locator("#classes-train .matrix").inner_text()
    assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    phone.page.locator("[data-filter=scores-train]").fill("number 117")
    assert phone.page.locator("#scores-train tbody tr:visible").count() == 1
    phone.context.close()
    assert phone.complaints == []


def test_images_open_larger_by_keys_alone_with_their_names_and_neighbours(opened):
    opened.locator("[data-tab=gallery-unsure]").focus()
    opened.keyboard.press("Enter")
    shots = opened.locator("#gallery-unsure .shot")
    shots.first.locator(".open").first.focus()
    opened.keyboard.press("Enter")
    names = [shots.nth(i).locator(".id").get_attribute("title") for i in range(2)]
    name, large = opened.locator("#large-name"), opened.locator("#large .views img")
    assert names[0] in name.inner_text()
    assert large.evaluate("each => each.clientWidth") > 2 * 112
    assert large.evaluate("each => each.naturalWidth") >= 112
    assert opened.locator("#large .near li .name").count() == 5
    assert opened.locator("#large [data-step='-1']").is_disabled()
    opened.keyboard.press("ArrowRight")
    assert names[1] in name.inner_text()
    opened.keyboard.press("Escape")
    assert opened.locator("#large").is_hidden()
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == f"{name.text_content()}, larger"


def test_duplicates_show_every_file_name(opened):
    copied = opened.locator("#duplicates .group", has_text=COPY)
    assert {each.inner_text() for each in copied.first.locator(".name").all()} == {"disc/0.png", COPY}


def test_every_bar_of_an_interval_has_a_scale_and_the_baseline_is_on_the_first_screen(browser, path):
    phone = Opened(browser, path, viewport=PHONE, is_mobile=True)
    for table in phone.page.locator("table:has(.whisker)").all():
        assert table.locator(".scale").count() == 1
        ends = table.locator(".scale span").all_inner_texts()
        assert len({*ends}) == 3 or ends[0] == ends[2]
    assert phone.page.locator(".versus tr", has_text="baseline").count() == 2
    box = phone.page.locator(".headline p", has_text="Regression on").bounding_box()
    assert box["y"] + box["height"] <= PHONE["height"]
    phone.context.close()


def test_evidence_is_beside_its_image_and_names_its_members(browser, reported, tmp_path):
    def explain(wanted, splits, load):
        assert all(load(splits[split].locations[row], splits[split].digests[row], 32).shape for split, row in wanted)
        images = {place: np.full((32, 32, 3), 90, np.uint8) for place in wanted}
        return Explained(images, {place: label or 0 for place, label in wanted.items()}, ["pooled/lda/seed0"], 0.25)

    with reported.in_force():
        content = report_content(current_project(), Silent(), explain)
    explained = [card for card in content["pictures"]["cards"]["wrong"] if card["evidence"]]
    assert explained
    assert [card["evidence"]["label"] for card in explained] == [card["predicted"] for card in explained]
    path = tmp_path / "explained.html"
    path.write_text(render_page(content, datetime.now(UTC)), "utf-8")
    opened = Opened(browser, path)
    assert "pooled/lda/seed0: 25" in opened.page.locator("#images > .lead").inner_text()
    shot = opened.page.locator("#gallery-wrong .shot").first
    assert shot.locator(".main img").count() == 2
    shot.locator(".open").first.click()
    assert opened.page.locator("#large .views img").count() == 2
    opened.context.close()
    assert opened.complaints == []
