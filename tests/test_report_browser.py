"""The report in a browser: nothing missing, nothing wider than the page, the numbers of the run."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator

import pytest
from synthetic_run import OMEGAS, add_curve, extractor, make_reference, make_run

from eval import report, score

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: on Debian and Ubuntu 'apt install chromium' gives one"
)
LONG = "a_very_long_word_without_any_space_" * 4
PROMPTS = ["a <script>alert(1)</script> & \"quotes\" 'too'", "größe 猫", LONG, "a red circle"]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", prompts=PROMPTS, seeds=(0, 1))
    make_reference(folder.parent / "reference.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "extractor_for", lambda *_: (extractor(), {}))
        score.score(folder, reference=str(folder.parent / "reference.npz"), bootstrap=40)
    add_curve(folder)
    report.report(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator:
    # A browser's own sandbox does not work for root, which containers often run as.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, run):
    """Open the report in a size and a colour scheme; fail on any complaint of the browser."""
    complaints, pages = [], []

    def open_in(size: str = "desktop", scheme: str = "light"):
        width, height = SIZES[size]
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:80]}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto((run / "report.html").as_uri())
        pages.append(page)
        return page

    yield open_in
    for page in pages:
        page.close()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_page(opened, size, scheme):
    page = opened(size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    shown = page.locator("figure:visible svg")
    assert shown.count() == 7  # one of the two fronts
    for place in range(shown.count()):
        assert shown.nth(place).bounding_box()["width"] > 250
    loaded = "[...document.images].every(image => image.naturalWidth > 0)"
    assert page.evaluate(loaded) and page.evaluate("document.images.length") >= 3 * len(PROMPTS)


def test_the_numbers_are_those_of_results_json(opened, run):
    cells = json.loads((run / "results.json").read_text())["cells"]
    rows = opened().locator("#scores table").first.locator("tbody tr")
    seen = {}
    for row in rows.all():
        arm, omega, _scale, clip, fid, *_ = row.locator("th, td").all_inner_texts()
        seen[f"{arm}@w{omega}"] = clip, fid
    assert seen.keys() == cells.keys() and len(seen) == 3 * len(OMEGAS)
    for key, cell in cells.items():
        clip, fid = seen[key]
        assert re.fullmatch(rf"{cell['clip']:.2f} ± {cell['clip_half_interval']:.2f}", clip)
        shown, n = re.fullmatch(r"([\d.]+) \[(\d+)\]", fid).groups()
        assert int(n) == cell["n"]
        assert float(shown) == pytest.approx(cell["fid"], abs=0.6 * 10 ** -len(shown.split(".")[1]))


def test_prompts_are_text(opened):
    page = opened()
    shown = page.locator(".gallery tbody th[scope=row]").all_inner_texts()
    for prompt in PROMPTS:
        assert any(text.endswith(prompt) for text in shown)


def test_colours_follow_the_scheme(opened):
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    light, dark = (opened(scheme=scheme).evaluate(ink) for scheme in ("light", "dark"))
    assert light == "rgb(29, 31, 35)" and dark == "rgb(231, 230, 227)"


def test_a_sampler_comes_forward_by_keyboard(opened):
    page = opened()
    page.locator(".legend button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("[aria-pressed=true]").count() == page.locator(".legend").count()
    visible = page.locator("figure:visible .arm-0").first
    hidden = page.locator("figure:visible .arm-1").first
    page.wait_for_function("e => getComputedStyle(e).opacity < 0.2", arg=hidden.element_handle())
    assert float(visible.evaluate("e => getComputedStyle(e).opacity")) > 0.9
    page.keyboard.press("Enter")
    assert page.locator("[aria-pressed=true]").count() == 0
