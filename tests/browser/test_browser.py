"""The dashboard in a real browser: what pure tests of figures, states and queries cannot see. Every test also asserts,
by its `page`, that nothing was asked of another machine and that the console holds no error.

They wait for what stands on the page or in the address, never for a time to pass: the machine may be busy.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Finished

from core.views.derived import column
from core.views.filters import Filter, apply
from core.views.table import TaskTable, load_table

TITLES = (
    *("Overview", "Explore", "Example", "Loss lab", "Ensemble", "Dark knowledge", "Calibration", "Try it", "Runs"),
    "Experiments",
)
PLACE = {"run": "smoke", "task": "nli", "split": "test"}
OF_FILTER = re.compile(r"^([\d,]+) of ([\d,]+) examples")
POSITION = re.compile(r"^([\d,]+) of ([\d,]+) in:")


@pytest.fixture(scope="module")
def table(smoke: Finished) -> TaskTable:
    return load_table(smoke.run, "nli", "test")


def go(page: Any, title: str, address: str, **query: str) -> None:
    from benchmarks.serving import open_page

    open_page(page, title, address, **{**PLACE, **query})


def settled(page: Any, title: str) -> None:
    from benchmarks.serving import settle

    settle(page, title)


def query_of(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def number(page: Any, pattern: re.Pattern[str]) -> int:
    """The first number of the line that says how many examples there are, or which one this is."""
    found = pattern.match(page.get_by_text(pattern).first.inner_text())
    assert found
    return int(found.group(1).replace(",", ""))


def wait_for_query(page: Any, key: str, *, unlike: str | None = None) -> str:
    """Waits until the address has `key`, and another value than `unlike`."""
    page.wait_for_url(lambda url: parse_qs(urlsplit(url).query).get(key, [unlike]) != [unlike])
    return query_of(page)[key]


def follow(page: Any, title: str) -> None:
    """A link of the row above every page."""
    page.get_by_test_id("stPageLink").filter(has_text=re.compile(f"{title}$")).first.click()
    settled(page, title)


def click_row(page: Any, k: int) -> None:
    """The marker of row `k` of the page's table. A layer of its own takes the clicks of the canvas."""
    grid = page.locator('[data-testid="stDataFrame"] canvas').first
    grid.scroll_into_view_if_needed()
    corner = grid.bounding_box()
    page.mouse.click(corner["x"] + 15, corner["y"] + 36 * (k + 1) + 18)


# ---- pages and links -----------------------------------------------------------------------------------------------
def test_every_page_opens_from_every_other(page: Any, address: str) -> None:
    """By the row of links above it, which keeps run, task and split."""
    go(page, "Overview", address)
    for title in TITLES:
        follow(page, title)
        assert page.get_by_test_id("stException").count() == 0, title
        main = page.get_by_test_id("stMain").inner_text()
        assert "Traceback" not in main, title
        assert "met an error" not in main, title
        wanted = {"run": "smoke"} if title == "Runs" else PLACE
        assert {key: query_of(page).get(key) for key in wanted} == wanted, title


def test_one_step_of_back_undoes_one_click(page: Any, address: str) -> None:
    """With the filter that the page before had."""
    go(page, "Explore", address, gold="neutral")
    page.get_by_text("gold is neutral").first.wait_for()
    follow(page, "Runs")
    follow(page, "Dark knowledge")
    for title in ("Runs", "Explore"):
        page.go_back()
        settled(page, title)
    page.get_by_text("gold is neutral").first.wait_for()
    assert query_of(page)["gold"] == "neutral"


def test_a_link_opens_one_example(page: Any, address: str, table: TaskTable) -> None:
    wanted = table.ids[7].as_py()
    go(page, "Example", address, ex=wanted)
    page.get_by_text(wanted, exact=True).first.wait_for()
    main = page.get_by_test_id("stMain").inner_text()
    assert table.texts([7])[0].text_a in main
    assert page.locator(".js-plotly-plot").count() > 0


def test_a_link_to_nothing_says_so(page: Any, address: str) -> None:
    go(page, "Example", address, ex="nli/test/987654")
    page.get_by_text("No such example here").wait_for()
    assert page.get_by_test_id("stException").count() == 0
    page.get_by_text("Open the first example of the filter").first.click()
    page.get_by_text(POSITION).wait_for()
    go(page, "Explore", address, run="nothing-here")
    page.get_by_text("The link names the run 'nothing-here', which is not here").wait_for()


# ---- explore and example -------------------------------------------------------------------------------------------
def test_a_drawn_box_filters_the_table_and_back_undoes_it(page: Any, address: str, table: TaskTable) -> None:
    """All rows are filtered by the box's coordinates, and the table under it shows them."""
    go(page, "Explore", address, mouse="select", order="file")
    page.get_by_text(OF_FILTER).wait_for()
    assert number(page, OF_FILTER) == len(table)
    drag = page.locator(".js-plotly-plot .draglayer .nsewdrag").first
    drag.scroll_into_view_if_needed()
    at = drag.bounding_box()
    page.mouse.move(at["x"] + 0.30 * at["width"], at["y"] + 0.05 * at["height"])
    page.mouse.down()
    page.mouse.move(at["x"] + 0.98 * at["width"], at["y"] + 0.80 * at["height"], steps=8)
    page.mouse.up()
    box = wait_for_query(page, "entropy"), wait_for_query(page, "kl")
    page.get_by_text("Clear filters").wait_for()
    settled(page, "Explore")
    filter_ = Filter(split="test")
    for name, text in zip(("entropy", "kl"), box, strict=True):
        low, high = (float(bound) for bound in text.split(":"))
        filter_ = filter_.with_range(name, low, high)
    rows = apply(filter_, table)
    assert 0 < len(rows) < len(table)
    assert number(page, OF_FILTER) == len(rows)
    inside = column(table, "entropy")[rows]
    assert (inside >= float(box[0].split(":")[0])).all()
    click_row(page, 0)  # the first of them, in the order of the file
    settled(page, "Example")
    page.get_by_text(re.compile(f"^1 of {len(rows)} in:")).wait_for()
    assert query_of(page)["ex"] == table.ids[int(rows[0])].as_py()
    page.go_back()
    settled(page, "Explore")
    assert query_of(page)["entropy"] == box[0]
    page.get_by_text(re.compile(f"^{len(rows)} of {len(table)} examples")).wait_for()
    # A click on a row changes address and page, which Streamlit writes down as two steps: the first is explore still.
    page.go_back()
    page.wait_for_url(lambda url: "ex=" not in url)
    page.go_back()
    page.get_by_text(re.compile(f"^{len(table)} of {len(table)} examples")).wait_for()
    assert "entropy" not in query_of(page)


def test_a_row_of_the_table_opens_its_example(page: Any, address: str, table: TaskTable) -> None:
    go(page, "Explore", address, gold="neutral")
    page.get_by_text(OF_FILTER).wait_for()
    n = number(page, OF_FILTER)
    assert 0 < n < len(table)
    click_row(page, 2)
    settled(page, "Example")
    page.get_by_text(POSITION).wait_for()
    assert number(page, POSITION) == 3
    opened = query_of(page)
    assert opened["ex"].startswith("nli/test/")
    assert opened["gold"] == "neutral"
    page.go_back()
    settled(page, "Explore")
    page.get_by_text(re.compile(f"^{n} of ")).wait_for()
    assert query_of(page)["gold"] == "neutral"


def test_j_k_and_back_step_through_the_filter(page: Any, address: str) -> None:
    go(page, "Example", address)
    page.get_by_text(POSITION).wait_for()
    assert number(page, POSITION) == 1
    page.keyboard.press("j")
    page.get_by_text(re.compile("^2 of ")).wait_for()
    second = wait_for_query(page, "ex")
    page.keyboard.press("j")
    page.get_by_text(re.compile("^3 of ")).wait_for()
    third = wait_for_query(page, "ex", unlike=second)
    page.keyboard.press("k")
    page.get_by_text(re.compile("^2 of ")).wait_for()
    assert wait_for_query(page, "ex", unlike=third) == second
    page.go_back()
    page.get_by_text(re.compile("^3 of ")).wait_for()
    assert query_of(page)["ex"] == third


# ---- looks ---------------------------------------------------------------------------------------------------------
def test_dark_theme(browser: Any, address: str) -> None:
    dark = browser.new_page(color_scheme="dark")
    try:
        go(dark, "Overview", address)
        ground = dark.get_by_test_id("stApp").evaluate("element => getComputedStyle(element).backgroundColor")
        words = dark.locator(".js-plotly-plot .xtick text").first.evaluate("text => getComputedStyle(text).fill")
    finally:
        dark.close()
    assert luminance(ground) < 40
    assert luminance(words) > 120


def luminance(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 480, "height": 900})
    for title in ("Overview", "Explore", "Example", "Dark knowledge"):
        go(page, title, address)
        for element in (page.locator("html"), page.get_by_test_id("stMain")):
            assert element.evaluate("e => e.scrollWidth - e.clientWidth") <= 1, title
