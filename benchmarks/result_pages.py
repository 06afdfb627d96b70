"""Puts finished experiments into the documents: `python -m benchmarks.result_pages runs/results docs/results`.

Of each `NAME.parquet` of the first folder the second gets a copy, the page that is made of it, and its figure as
`NAME.svg`, drawn by Chromium. Last step of `make results`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import plotly
from playwright.sync_api import Browser

from benchmarks.serving import browsing
from core.findings import Findings, found_in, read_findings
from core.findings.drawing import figure
from core.findings.pages import page

WIDTH = 860
DRAW = """async figure => {
    const place = document.body.appendChild(document.createElement('div'));
    await Plotly.newPlot(place, figure.data, figure.layout);
    return Plotly.toImage(place, {format: 'svg', width: figure.layout.width, height: figure.layout.height});
}"""


def publish(results: Path, pages: Path) -> list[Path]:
    pages.mkdir(parents=True, exist_ok=True)
    written = []
    with browsing() as browser:
        for path in found_in(results):
            findings = read_findings(path)
            if path.parent.resolve() != pages.resolve():
                shutil.copyfile(path, pages / path.name)
            text = pages / f"{path.stem}.md"
            text.write_text(page(findings), encoding="utf-8")
            text.with_suffix(".svg").write_text(drawn(findings, browser), encoding="utf-8")
            written.append(text)
    return written


def drawn(findings: Findings, browser: Browser) -> str:
    """The figure as SVG."""
    values = json.loads(figure(findings).to_json())
    values["layout"] |= {"width": WIDTH}
    # Plotly names traces, and a drawing's parts, by chance; the same scores shall give the same file.
    values["data"] = [trace | {"uid": f"{i}"} for i, trace in enumerate(values["data"])]
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    tab = browser.new_page()
    tab.set_content("<!DOCTYPE html><html><body></body></html>")
    tab.add_script_tag(path=script)
    picture = unquote(str(tab.evaluate(DRAW, values)).partition(",")[2])
    tab.close()
    named = re.search(r'id="defs-(\w+)"', picture)
    return picture.replace(named[1], "drawn") if named else picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path("runs/results"))
    parser.add_argument("pages", type=Path, nargs="?", default=Path("docs/results"))
    given = parser.parse_args()
    for path in publish(given.results, given.pages):
        print(path)


if __name__ == "__main__":
    main()
