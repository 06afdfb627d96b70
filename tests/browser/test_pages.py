"""The committed pages of the notebooks, in a real browser: figures are drawn with the one file beside them, and without
it and without a network they are said in words."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Those with figures of every kind.
PAGES = ("6_distill", "8_dark_knowledge")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of `docs/rendered` as a fresh clone has it: without plotly.min.js."""
    ignored = shutil.ignore_patterns("plotly.min.js")
    return Path(shutil.copytree(ROOT / "docs" / "rendered", tmp_path / "rendered", ignore=ignored))


def opened(browser: Any, path: Path) -> tuple[Any, list[str]]:
    """The page, and what it asked for beside files; none of that is answered."""
    page, asked = browser.new_page(viewport={"width": 1000, "height": 900}), []

    def away(route: Any) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route(re.compile("^https?:"), away)
    page.goto(path.as_uri())
    return page, asked


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_drawn(browser: Any, pages: Path, name: str) -> None:
    import plotly

    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", pages)
    page, asked = opened(browser, pages / f"{name}.html")
    n = page.locator(".figure").count()
    assert n >= 5
    page.wait_for_function("n => document.querySelectorAll('.figure .main-svg:first-child').length >= n", arg=n)
    assert asked == [], "the file beside the page is all it needs"
    assert page.locator('[data-title*="hare"], [data-title*="loud"]').count() == 0, "no button uploads data"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut at the side"
    page.close()


def test_without_the_file_figures_are_words(browser: Any, pages: Path) -> None:
    page, asked = opened(browser, pages / "6_distill.html")
    page.locator(".missing").wait_for()
    assert len(asked) == 1
    assert asked[0].startswith("https://cdn.plot.ly/plotly-")
    assert all(len(words) > 20 for words in page.locator(".figure").all_inner_texts())
    page.close()
