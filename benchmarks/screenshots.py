"""Pictures of every page of one run: `python -m benchmarks.screenshots runs/controls docs/screenshots`.

The window is of a laptop's size. `--full` draws pages to their end, `--dark` in the dark theme, `--only overview` one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.serving import PAGES, browsing, open_page, serving

WIDTH, HEIGHT = 1400, 1000


def shoot(
    run: Path, out: Path, *, task: str, width: int = WIDTH, only: list[str] | None = None, full: bool = False,
    dark: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes `out/PAGE.png` for every page, or those in `only`."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with serving(run.resolve().parent) as base, browsing() as browser:
        page = browser.new_page(
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        for title, name in PAGES.items():
            name = name or "overview"
            if only and name not in only:
                continue
            open_page(page, title, base, run=run.name, task=task)
            if full:  # Streamlit scrolls inside the window, so the window is made as high as the page
                main = page.locator('[data-testid="stMain"]')
                high = main.evaluate("element => element.scrollHeight")
                page.set_viewport_size({"width": width, "height": max(HEIGHT, min(high + 80, 6000))})
                page.wait_for_timeout(500)
            page.evaluate("document.fonts.ready")
            page.wait_for_timeout(400)  # plotly draws WebGL in a frame of its own
            path = out / f"{name}.png"
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
    given = parser.parse_args()
    shoot(
        given.run, given.out, task=given.task, width=given.width, only=given.only, full=given.full, dark=given.dark
    )  # fmt: skip


if __name__ == "__main__":
    main()
