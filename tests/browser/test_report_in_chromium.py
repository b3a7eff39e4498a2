"""The HTML report in a real browser: harmless, silent, and usable with keys, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import made_report
import pytest
from selenium.webdriver.common.keys import Keys

from evalscope_evalflow.results.html.page_rendering import render

pytestmark = pytest.mark.browser

SHOWN = (
    "return [...document.querySelectorAll('#sample-list details')].map(item => item.querySelector('summary').innerText)"
)
COUNT = "return document.getElementById('sample-count').textContent"
FOCUS = "document.querySelector(arguments[0]).focus()"
COLUMN = (
    "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(row => row.cells[arguments[1]].innerText)"
)
SORTED = "return [...document.querySelectorAll(arguments[0] + ' thead th')].map(cell => cell.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def report(write_page: Callable[[str], Path]) -> Path:
    return write_page(render(made_report.page(), made_report.comparison()))


def choose(browser, name: str, value: str) -> None:
    browser.run(
        "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
        "control.dispatchEvent(new Event(control.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true}))",
        name,
        value,
    )


def tick(browser, state: str) -> None:
    browser.run("document.querySelector(`input[name=state][value=${arguments[0]}]`).click()", state)


def test_nothing_of_a_hostile_text_runs_and_all_of_it_is_shown(browser, report):
    browser.open(report)
    while browser.run("const more = document.getElementById('sample-more'); more.click(); return !more.hidden"):
        continue
    browser.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.run("return window.harmed") is None
    assert browser.run("return document.body.querySelectorAll('script').length") == 2  # the samples and the page's own
    assert browser.run("return document.images.length") == 0
    assert browser.run("return document.querySelectorAll('style').length") == 1
    texts = browser.run("return [...document.querySelectorAll('pre')].map(item => item.textContent)")
    assert sum(text == made_report.HOSTILE for text in texts) >= 6 * len(made_report.MODELS)
    assert made_report.MODELS[2] in browser.run("return document.getElementById('filter-model').innerText")


def test_the_policy_stops_a_script_that_was_not_escaped(browser, write_page):
    """Escaping comes first; should it ever be forgotten, the browser still runs none but the page's own script."""
    html = render(made_report.page()).replace(
        '<main id="main">',
        "<main id=\"main\"><script>window.harmed = 4</script><img src=x onerror='window.harmed = 5'>",
    )
    browser.open(write_page(html))
    assert browser.run("return window.harmed") is None
    assert any("Content Security Policy" in message for message in browser.messages())
    assert browser.run("return document.querySelectorAll('#sample-list details').length") > 0


def test_it_asks_the_network_for_nothing_and_the_console_is_empty(browser, report):
    browser.open(report)
    assert browser.run(COUNT)
    assert [url for url in browser.requests() if not url.startswith("data:")] == [report.as_uri()]
    assert browser.messages() == []
    refused = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done(false), () => done(true))"
    )
    assert refused
    assert any("Content Security Policy" in message for message in browser.messages())


def test_filters(browser, report):
    browser.open(report)
    models, datasets = len(made_report.MODELS), len(made_report.DATASETS)
    assert browser.run(COUNT).startswith(f"25 of {models * datasets * made_report.SAMPLES} samples")
    tick(browser, "failed")
    shown = browser.run(SHOWN)
    assert len(shown) == models * datasets
    assert all(text.startswith("failed") for text in shown)
    choose(browser, "filter-model", "1")
    choose(browser, "filter-dataset", "0")
    assert browser.run(SHOWN) == [f"failed {made_report.MODELS[1]} · gsm8k · 7\nWhat is 7 plus 7?"]
    tick(browser, "failed")
    tick(browser, "unjudged")
    assert [text.split(" base")[0].split(" tuned")[0] for text in browser.run(SHOWN)] == ["not judged"]
    tick(browser, "cut_off")  # either of the two
    assert len(browser.run(SHOWN)) == 4
    tick(browser, "unjudged")
    tick(browser, "cut_off")
    tick(browser, "wrong")
    assert all(text.startswith("wrong 0") for text in browser.run(SHOWN))
    wrong = [row for row in made_report.rows(1) if row["dataset"] == "gsm8k" and row["score"] == 0]
    assert len(browser.run(SHOWN)) == len(wrong)
    tick(browser, "wrong")
    choose(browser, "filter-text", "IS 24.")
    assert browser.run(SHOWN) == [f"right 1 cut off {made_report.MODELS[1]} · gsm8k · 12\nWhat is 12 plus 12?"]
    choose(browser, "filter-text", "no such text")
    assert browser.run(SHOWN) == []
    assert browser.run(COUNT).startswith("0 of 0 samples that match")


def test_a_number_in_the_table_leads_to_its_samples(browser, report):
    browser.open(report)
    link = "#scores-table tbody tr:nth-child(2) button.link[data-state=cut_off]"
    label = "3 cut off: show these samples of base-model, general_qa"
    assert browser.run("return document.querySelector(arguments[0]).ariaLabel", link) == label
    browser.run(FOCUS, link)
    browser.press(Keys.ENTER)
    shown = browser.run(SHOWN)
    assert len(shown) == 3
    assert all("cut off" in text and "base-model · general_qa" in text for text in shown)
    assert browser.run("return document.getElementById('samples').getBoundingClientRect().top < innerHeight")


def test_a_table_is_sorted_with_the_keyboard(browser, report):
    browser.open(report)
    table = "#scores-table"
    browser.run(FOCUS, f"{table} thead th:nth-child(4) button")
    browser.press(Keys.ENTER)
    assert browser.run(SORTED, table)[3] == "ascending"
    scores = [text.rstrip("*") for text in browser.run(COLUMN, table, 3)]
    assert scores == sorted(scores)
    browser.press(Keys.SPACE)
    assert browser.run(SORTED, table)[3] == "descending"
    scores = [text.rstrip("*") for text in browser.run(COLUMN, table, 3)]
    assert scores == sorted(scores, reverse=True)
    browser.press(Keys.TAB, Keys.ENTER)  # the next header
    assert browser.run(SORTED, table)[3:5] == [None, "ascending"]
    names = browser.run(
        "return [...document.querySelectorAll('thead th')].filter(cell => !cell.querySelector('button')).length"
    )
    assert names == 0


def test_the_focus_is_seen_and_reaches_everything(browser, report):
    browser.open(report)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.textContent") == "Skip to the results"
    unreachable = browser.run(
        "return [...document.querySelectorAll('.frame')].filter(item => item.tabIndex !== 0 || !item.ariaLabel).length"
    )
    assert unreachable == 0
    for selector in (
        "#scores-table thead button",
        "button.link",
        "summary",
        "select",
        "input[type=search]",
        ".frame",
        "nav a",
    ):
        browser.run(FOCUS, selector)
        browser.press(Keys.SHIFT)  # a key makes the focus the keyboard's
        style = browser.run(
            "const style = getComputedStyle(document.activeElement);"
            "return [style.outlineStyle, parseFloat(style.outlineWidth)]"
        )
        assert style[0] != "none", selector
        assert style[1] >= 1, selector


@pytest.mark.parametrize("width", [320, 390, 800])
def test_the_page_never_scrolls_sideways(browser, report, width):
    browser.open(report, width)
    browser.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    sizes = browser.run(
        "return [...document.querySelectorAll('figure svg text')].map(item => item.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 8  # pixels: the pictures' texts are still read


def test_dark_and_light_have_contrast(browser, report):
    browser.open(report)
    assert ratio(browser, "body", "color") > 7
    for scheme in ("light", "dark"):
        browser.media(scheme=scheme)
        paper = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(numbers(paper)) > 3 * 128) == (scheme == "light")
        for selector, name in [
            *((name, "color") for name in ("body", ".muted", ".good", ".bad", ".warn", "nav a")),
            ("figure svg text", "fill"),
        ]:
            assert ratio(browser, selector, name) >= 4.5, (scheme, selector)
        assert ratio(browser, "figure svg [id*=LineCollection_2] path", "stroke") >= 3, scheme


def test_printed_it_is_on_paper_as_a_whole(browser, report):
    browser.open(report)
    browser.media("print", "dark")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.querySelector('.filters')).display") == "none"
    # A4 without margins of 1 cm, in CSS pixels: no table is wider, so nothing of it is cut off.
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    widths = browser.run(
        "return [...document.querySelectorAll('table')].map(item => item.getBoundingClientRect().right)"
    )
    assert max(widths) <= 718
    browser.media()
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def numbers(colour: str) -> list[float]:
    """Red, green and blue of `rgb(…)`."""
    return [float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]


def ratio(browser, selector: str, name: str) -> float:
    """The contrast of a colour with the page's background, as WCAG 2 defines it: 1 to 21."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    lights = [
        sum(
            factor * (part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4)
            for factor, part in zip((0.2126, 0.7152, 0.0722), numbers(colour), strict=True)
        )
        for colour in (browser.run(script, selector, name), browser.run(script, "body", "backgroundColor"))
    ]
    return (max(lights) + 0.05) / (min(lights) + 0.05)
