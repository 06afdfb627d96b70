"""Pictures of every page of one run: `python -m benchmarks.screenshots runs/controls docs/screenshots`.

The window is of a laptop's size. `--full` draws pages to their end, `--dark` in the dark theme, `--only overview` one.
`--views` draws every view of every page, as `PAGE-VIEW.png`: for looking at them all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.serving import PAGES, browsing, open_page, serving

WIDTH, HEIGHT = 1400, 1000

# What is worth a picture where the first sight of a page is not; and the views of each page.
QUERY = {"example": {"cohort": "taught"}, "dark_knowledge": {"over": "all"}}
VIEWS = {
    "loss_lab": ("all", "refit"),
    "ensemble": ("doubt", "size", "follow"),
    "dark_knowledge": ("runner", "wrong", "parts", "ledger", "truth"),
    "calibration": ("entropy", "copies", "map", "strip"),
    "runs": ("curves", "config", "log"),
}


def shoot(
    run: Path, out: Path, *, task: str, width: int = WIDTH, only: list[str] | None = None, full: bool = False,
    dark: bool = False, views: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes `out/PAGE.png` for every page, or those in `only`; with `views` `out/PAGE-VIEW.png` too."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with serving(run.resolve().parent) as base, browsing() as browser:
        page = browser.new_page(
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        wanted = [(title, name or "overview", "") for title, name in PAGES.items()]
        if views:
            wanted = [(t, name, view) for t, name, first in wanted for view in (first, *VIEWS.get(name, ()))]
        for title, name, view in wanted:
            if only and name not in only:
                continue
            query = {"view": view} if view else QUERY.get(name, {})
            open_page(page, title, base, run=run.name, task=task, **query)
            if full:  # Streamlit scrolls inside the window, so the window is made as high as the page
                main = page.locator('[data-testid="stMain"]')
                high = main.evaluate("element => element.scrollHeight")
                page.set_viewport_size({"width": width, "height": max(HEIGHT, min(high + 80, 6000))})
                page.wait_for_timeout(500)
            page.evaluate("document.fonts.ready")
            page.wait_for_timeout(400)  # plotly draws WebGL in a frame of its own
            path = out / (f"{name}-{view}.png" if view else f"{name}.png")
            page.screenshot(path=path)
            page.set_viewport_size({"width": width, "height": HEIGHT})
            print(f"{path} {path.stat().st_size / 1000:.0f} kB", flush=True)
            written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/controls"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/screenshots"))
    parser.add_argument("--task", default="nli")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--views", action="store_true")
    given = parser.parse_args()
    shoot(
        given.run, given.out, task=given.task, width=given.width, only=given.only, full=given.full, dark=given.dark,
        views=given.views,
    )  # fmt: skip


if __name__ == "__main__":
    main()
