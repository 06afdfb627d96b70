"""Opens a notebook in a real JupyterLab with a real browser, runs all its cells, and takes pictures of what is seen:
`python -m benchmarks.jupyter_screenshot 6_distill --out pictures`.

It works on a copy, so that the committed file keeps no outputs. Ends with 1 where a cell failed, a figure is missing or
a request left this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.serving import ROOT, browsing

WIDTH, HEIGHT = 1400, 1000
START_SECONDS = 120
RUN_SECONDS = 600
# No question about news and no look for updates: nothing is asked of the network.
SETTINGS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}

# Every code cell has a number and none is waiting (JupyterLab writes [*] until it has run).
ALL_RAN = """() => {
    const panel = document.querySelector('.jp-NotebookPanel');
    const status = panel && panel.querySelector('.jp-Notebook-ExecutionIndicator');
    const prompts = panel ? [...panel.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent) : [];
    return prompts.length > 0 && prompts.every(text => /\\[\\d+\\]/.test(text))
        && status && status.dataset.status === 'idle';
}"""


class Seen(NamedTuple):
    pictures: list[Path]
    n_figures: int
    errors: list[str]
    elsewhere: list[str]  # requests that left this machine


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """JupyterLab on `folder`, with settings of its own; gives an address with a token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own, token = folder / ".jupyter", secrets.token_hex(16)
    notification = own / "settings" / "@jupyterlab" / "apputils-extension"
    notification.mkdir(parents=True)
    (notification / "notification.jupyterlab-settings").write_text(json.dumps(SETTINGS), encoding="utf-8")
    command = (
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
        *(f"--notebook-dir={folder}", f"--IdentityProvider.token={token}", "--LabApp.extension_manager=readonly"),
    )
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
    }
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api?token={token}", server)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            server.terminate()  # ends its kernels too
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_up(address: str, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}; start it by hand to see why: make lab")
        try:
            with opener.open(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer within {START_SECONDS} s")


def look(notebook: str, out: Path, *, run_dir: str | None = None, shots: int = 0) -> Seen:
    """Runs every cell of `notebooks/<notebook>.ipynb` and takes pictures from top to bottom, `shots` at most (0: all).
    `run_dir` goes into the parameters cell, as a person would write it there."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copy(ROOT / "notebooks" / f"{notebook}.ipynb", temporary))
        if run_dir is not None:
            values = json.loads(copy.read_text(encoding="utf-8"))
            (cell,) = [cell for cell in values["cells"] if "parameters" in cell["metadata"].get("tags", ())]
            source = re.sub(r'run_dir: str = "[^"]*"', f'run_dir: str = "{run_dir}"', "".join(cell["source"]))
            cell["source"] = source.splitlines(keepends=True)
            copy.write_text(json.dumps(values), encoding="utf-8")
        with jupyter_lab(Path(temporary)) as address, browsing() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            page.goto(address.format(copy.name))
            page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for(timeout=START_SECONDS * 1000)
            page.keyboard.press("Control+b")  # the file browser gives its room to the notebook
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            bar = page.locator(".jp-OutputArea-output >> text=/\\d %/").first
            bar.wait_for(timeout=START_SECONDS * 1000)
            bar.scroll_into_view_if_needed()
            pictures = [out / f"{notebook}-running.png"]
            page.screenshot(path=pictures[0])
            page.wait_for_function(ALL_RAN, timeout=RUN_SECONDS * 1000)
            pictures += _scrolled(page, out, notebook, shots)
            n_figures = page.locator(".jp-NotebookPanel .js-plotly-plot .main-svg:first-child").count()
            errors = page.locator(
                '.jp-NotebookPanel [data-mime-type="application/vnd.jupyter.error"]'
            ).all_inner_texts()
    hosts = {url: urlsplit(url) for url in requests}
    away = [url for url, of in hosts.items() if of.scheme not in ("data", "blob") and of.hostname != "127.0.0.1"]
    return Seen(pictures, n_figures, errors, away)


def _scrolled(page: Any, out: Path, notebook: str, shots: int) -> list[Path]:
    """Pictures of the notebook from top to bottom; what comes into view is drawn then, and is waited for."""
    outer = page.locator(".jp-WindowedPanel-outer").first
    outer.evaluate("e => { e.scrollTop = 0; }")
    written, top = [], -1
    while not shots or len(written) < shots:
        page.wait_for_timeout(700)
        here = outer.evaluate("e => e.scrollTop")
        if here == top:
            break
        top = here
        written.append(out / f"{notebook}-{len(written)}.png")
        page.screenshot(path=written[-1])
        outer.evaluate("e => { e.scrollTop += e.clientHeight - 60; }")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="?", default="6_distill")
    parser.add_argument("--out", type=Path, default=Path("reports/jupyter"))
    parser.add_argument("--run-dir")
    parser.add_argument("--shots", type=int, default=0)
    given = parser.parse_args()
    seen = look(given.notebook, given.out, run_dir=given.run_dir, shots=given.shots)
    print(*(f"{path} {path.stat().st_size / 1000:.0f} kB" for path in seen.pictures), sep="\n")
    print(f"{seen.n_figures} figures; errors: {seen.errors or 'none'}; requests elsewhere: {seen.elsewhere or 'none'}")
    raise SystemExit(bool(seen.errors or seen.elsewhere or not seen.n_figures))


if __name__ == "__main__":
    main()
