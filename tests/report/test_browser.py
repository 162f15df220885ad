"""The page in a browser: drawn without a complaint, searched, compared, kept fresh; hostile text stays text."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.report import RunFolder, build_comparison, build_report, live
from evolvedirector.report.build import write_page
from tests.report_runs import HOSTILE, RunBuilder, small_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium-driver"
    ),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,900",
)  # fmt: skip
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}

PLOTS = """return [...document.querySelectorAll('.plot')].map((box) => {
  const frame = box.getBoundingClientRect(), plot = box.querySelector('.nsewdrag').getBoundingClientRect();
  const isCut = ({ width, left, right, top, bottom }) =>
    width && (left < frame.left - 1 || right > frame.right + 1 || top < frame.top - 1 || bottom > frame.bottom + 1);
  const cut = [...box.querySelectorAll('text')].filter((text) => isCut(text.getBoundingClientRect()));
  return [box.dataset.chart, plot.width, plot.height, cut.map((text) => text.textContent)];
})"""
"""Of each chart: its id, width and height of what is drawn between the axes in px, and texts that its box cuts off."""


class Browser:
    """A headless browser, with the few things that these tests ask of it."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))

    def open(self, address: str, scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(address)

    def scroll_through(self) -> None:
        """Bring everything into view once, as a reader would."""
        self.wait("return document.readyState === 'complete'")
        height = self.run("return document.documentElement.scrollHeight")
        for top in range(0, height, 500):
            self.run(
                f"scrollTo(0, {top}); return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))"
            )

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def wait(self, script: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60, 0.1).until(lambda driver: driver.execute_script(script))

    def type(self, control: str, words: str) -> None:
        self.run(
            f"const it = document.getElementById('{control}'); it.value = {words!r}; "
            "it.dispatchEvent(new Event('input', { bubbles: true }))"
        )

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.driver.quit()


@pytest.fixture(autouse=True)
def _desktop(browser: Browser) -> Iterator[None]:
    yield
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plain runs, one with hostile text, and their pages."""
    folder = tmp_path_factory.mktemp("runs")
    one = small_run(folder / "one")
    two = RunBuilder(folder / "two").seeds("tone 1").round("tone 5").film("tone 1").curves()
    distance = {"value": 63.92, "interval": [59.99, 67.86], "of": 8, "unit": "prompts"}
    two.summary(accuracy_mean=0.75, suites={"space": {"distance": distance}}).close()
    bad = (
        RunBuilder(folder / "bad", skill=HOSTILE[0], teacher=HOSTILE[2]).seeds("tone 1").round(*HOSTILE).round("tone 2")
    )
    bad.summary().film(*HOSTILE).curves().config(note=HOSTILE).close()
    for name in ("one", "bad"):
        write_page(folder / f"{name}.html", build_report(RunFolder.open(folder / name)))
    write_page(folder / "comparison.html", build_comparison([RunFolder.open(one), RunFolder.open(folder / "two")]))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "comparison"])
def test_every_chart_is_drawn_without_a_complaint(browser: Browser, runs: Path, name: str, scheme: str) -> None:
    browser.open(f"file://{runs / name}.html", scheme)
    browser.scroll_through()
    count = browser.run("return document.querySelectorAll('.plot').length")
    for place in range(count):
        browser.run(f"document.querySelectorAll('.plot')[{place}].scrollIntoView()")
        browser.wait(f"return document.querySelectorAll('.plot')[{place}].querySelector('svg .trace path')")
    assert count >= 4
    for place in range(browser.run("return document.querySelectorAll('main > section').length")):
        browser.run(f"document.querySelectorAll('main > section')[{place}].scrollIntoView()")
        browser.wait(
            f"return [...document.querySelectorAll('main > section')[{place}].querySelectorAll('img.pic')]"
            ".filter((image) => image.checkVisibility()).every((image) => image.naturalWidth > 0)"
        )
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(19, 22, 27)") == (scheme == "dark")
    assert browser.complaints() == []


def test_nothing_is_wider_than_a_phone(browser: Browser, runs: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    for name in ("one", "bad", "comparison"):
        browser.open(f"file://{runs / name}.html")
        browser.scroll_through()
        assert browser.run("return document.documentElement.scrollWidth") <= 390, name
        for chart, width_px, height_px, cut in browser.run(PLOTS):
            # the rest of 324 px is for names and numbers
            assert width_px >= 180 and height_px >= 60 and not cut, (name, chart, width_px, height_px, cut)


def test_search_finds_pairs(browser: Browser, runs: Path) -> None:
    browser.open(f"file://{runs / 'one.html'}")
    shown = "[...document.querySelectorAll('#pair-list .text')].map((box) => box.textContent)"
    assert browser.wait(f"return {shown}.length === 3")
    browser.type("pair-search", "TONE 21")
    browser.wait(f"return {shown}.join() === 'tone 21'")
    assert browser.run("return document.getElementById('pair-count').textContent") == "1 of 3"
    browser.type("pair-search", "nothing like it")
    browser.wait(f"return {shown}.length === 0")
    browser.type("pair-search", "")
    browser.type("pair-round", "1")
    browser.wait(f"return {shown}.sort().join() === 'tone 11,tone 12'")


def test_search_opens_the_family_tree(browser: Browser, runs: Path) -> None:
    browser.open(f"file://{runs / 'one.html'}")
    marked = "[...document.querySelectorAll('#tree mark')].map((box) => box.textContent)"
    browser.wait("return document.querySelectorAll('#tree .family').length === 2")
    assert browser.run(f"return {marked}.length") == 0
    browser.type("tree-search", "tone 21")
    browser.wait(f"return {marked}.join() === 'tone 21'")
    open_path = (
        "return [...document.querySelectorAll('#tree details[open] > summary .text')].map((box) => box.textContent)"
    )
    assert browser.run(open_path) == ["tone 2", "tone 12"], "its ancestors are open"
    browser.type("tree-search", "")
    browser.type("tree-state", "mastered")
    browser.wait(f"return {marked}.join() === 'tone 12'")


def test_another_film_strip_is_chosen(browser: Browser, runs: Path) -> None:
    browser.open(f"file://{runs / 'one.html'}")
    first = browser.wait("return document.querySelector('#film-strip img').alt")
    browser.run(
        "const it = document.getElementById('film-choice'); it.value = it.value === '0' ? '1' : '0'; "
        "it.dispatchEvent(new Event('change'))"
    )
    assert browser.wait("return document.querySelector('#film-strip img').alt") != first


def test_runs_are_hidden_and_measured_against_each_other(browser: Browser, runs: Path) -> None:
    browser.open(f"file://{runs / 'comparison.html'}")
    browser.scroll_through()
    heads = "return [...document.querySelectorAll('#run-table th')].map((cell) => cell.textContent)"
    assert browser.wait(heads) == ["", "one (baseline)", "two"]
    table = browser.run("return document.getElementById('run-table').textContent")
    assert "+25 points" in table and "[25–75]" in table and "63.92 [59.99–67.86]" in table
    browser.run("const it = document.getElementById('baseline'); it.value = '1'; it.dispatchEvent(new Event('change'))")
    assert "-25 points" in browser.run("return document.getElementById('run-table').textContent")
    lines = "return document.querySelector('.plot[data-chart=loss]').querySelectorAll('.scatterlayer .trace').length"
    assert browser.run(lines) == 2
    browser.run("document.querySelector('#run-choice button').click()")
    assert browser.run(heads) == ["", "two (baseline)"]
    assert browser.wait(lines.replace("return ", "return 1 === "))
    browser.run("document.querySelector('#run-choice button').click()")
    assert len(browser.run(heads)) == 3
    assert browser.complaints() == []


def test_hostile_text_is_only_text(browser: Browser, runs: Path) -> None:
    browser.open(f"file://{runs / 'bad.html'}")
    for control in ("pair-search", "tree-search"):
        browser.type(control, "script")
    browser.scroll_through()
    shown = browser.wait("return [...document.querySelectorAll('#pair-list .text')].map((box) => box.textContent)")
    assert HOSTILE[0] in shown and HOSTILE[1] in shown
    browser.type("pair-search", "")
    browser.type("tree-search", "")
    browser.scroll_through()
    assert browser.run("return window.hacked ?? null") is None
    strange = "img:not(.pic), svg:not(.main-svg, #js-plotly-tester)"
    assert browser.run(f"return document.querySelectorAll('{strange}').length") == 0
    assert browser.run("return document.scripts.length") == 3
    assert browser.run("return document.querySelectorAll('a[href]:not([href^=\"#\"])').length") == 0
    assert browser.complaints() == []


def test_the_live_page_follows_the_run_and_keeps_what_was_typed(browser: Browser, tmp_path: Path) -> None:
    builder = RunBuilder(tmp_path / "run").seeds("tone 1").round("tone 2").summary()
    page = live.LivePage(RunFolder.open(builder.folder))
    with live.server_of(0, page.read) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
            browser.wait("return document.querySelectorAll('details.round').length === 1")
            browser.type("tree-search", "tone")
            builder.round("tone 33")
            page.refresh()
            browser.wait("return document.querySelectorAll('details.round').length === 2")
            assert browser.wait("return document.getElementById('tree-search').value") == "tone"
            assert browser.complaints() == []
            browser.open("about:blank")
        finally:
            server.shutdown()
            thread.join()
            builder.close()
