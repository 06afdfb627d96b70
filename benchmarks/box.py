"""A rectangle drawn with the mouse over a run of any size, in a real Chromium: does the page filter all rows by it?

    python -m benchmarks.million /tmp/m/million && python -m benchmarks.box /tmp/m/million --times 3

Draws another rectangle each time over the density of Explore, waits for the page, and compares the number of examples
that the page says with a count over the run's own columns. Seconds are from the release of the mouse to the page drawn
whole, browser and its software WebGL included. Ends with an error where a number differs. `--keep` writes
benchmarks/results/box.json.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page

from benchmarks.kept import keep
from benchmarks.serving import WAIT_MS, browsing, open_page, serving, settle
from core.store import Run
from core.views.filters import Filter, apply
from core.views.table import TaskTable, load_table


def drawn(page: Page, base: str, run: str, task: str, table: TaskTable, *, left: float) -> tuple[int, int, float]:
    """Examples that the page says, examples that there are, and seconds. `left` is where the rectangle starts, as a
    share of the figure's width."""
    open_page(page, "Explore", base, run=run, task=task, split="test", mouse="select")
    drag = page.locator(".js-plotly-plot .draglayer .nsewdrag").first
    drag.scroll_into_view_if_needed()
    at = drag.bounding_box()
    mouse = page.mouse
    mouse.move(at["x"] + left * at["width"], at["y"] + 0.05 * at["height"])
    mouse.down()
    mouse.move(at["x"] + 0.98 * at["width"], at["y"] + 0.80 * at["height"], steps=8)
    mouse.up()
    started = time.monotonic()
    page.wait_for_url(lambda url: "kl=" in url, timeout=WAIT_MS)
    page.get_by_text("Clear filters").wait_for(timeout=WAIT_MS)
    settle(page, "Explore")
    seconds = time.monotonic() - started
    asked = parse_qs(urlsplit(page.url).query)
    filter_ = Filter(split="test")
    for name in ("entropy", "kl"):
        low, high = (float(bound) for bound in asked[name][0].split(":"))
        filter_ = filter_.with_range(name, low, high)
    line = page.get_by_text(re.compile(r"^[\d,]+ of [\d,]+ examples")).first.inner_text()
    return int(line.split()[0].replace(",", "")), len(apply(filter_, table)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", default="nli3", help="as benchmarks.million calls it")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/box.json")
    args = parser.parse_args()
    rectangles = []
    table = load_table(Run(args.run), args.task, "test")
    with serving(args.run.parent) as base, browsing() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
        page.set_default_timeout(WAIT_MS)
        for i in range(args.times):
            said, there, seconds = drawn(page, base, args.run.name, args.task, table, left=0.3 + 0.1 * i)
            print(f"rectangle {i + 1}: {said:,} of {len(table):,} examples, {there:,} by the columns, {seconds:.2f} s")
            if said != there or not 0 < there < len(table):
                raise SystemExit("the page and the columns differ, or the rectangle holds none or all")
            rectangles.append({"kept": there, "of": len(table), "seconds": round(seconds, 2)})
    found = {"rectangles": rectangles}
    print(sentence(found))
    if args.keep:
        keep("box", f"python -m benchmarks.box FOLDER --times {args.times}", found)


def sentence(found: dict[str, Any]) -> str:
    seconds = [rectangle["seconds"] for rectangle in found["rectangles"]]
    return f"after {min(seconds):.1f} to {max(seconds):.1f} s, browser included, n = {len(seconds)}"


if __name__ == "__main__":
    main()
