"""Starts the dashboard on a free port of this machine, and a Chromium that looks at it.

Shared by the screenshots and the browser tests. It waits for what is on the page, never for a time to pass.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
# No GPU is needed for WebGL, and the browser itself asks nobody for updates.
ARGS = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
)
START_SECONDS = 120
WAIT_MS = 120_000

# Title, address and question of each page: what a reader sees when it is open.
PAGES = {
    "Overview": "",
    "Explore": "explore",
    "Example": "example",
    "Loss lab": "loss_lab",
    "Ensemble": "ensemble",
    "Dark knowledge": "dark_knowledge",
    "Calibration": "calibration",
    "Try it": "try_it",
    "Runs": "runs",
    "Experiments": "experiments",
}

# The script has ended, nothing is a placeholder, and every chart has been drawn.
SETTLED = """() => {
    const app = document.querySelector('[data-testid="stApp"]');
    if (!app || app.dataset.testScriptState !== 'notRunning') return false;
    if (document.querySelector('[data-testid="stSkeleton"], [data-testid="stAppSkeleton"]')) return false;
    const charts = [...document.querySelectorAll('[data-testid="stPlotlyChart"]')].filter(e => e.offsetParent);
    return charts.every(e => e.querySelector('.main-svg'));
}"""


def chromium_path() -> str | None:
    """Debian's Chromium, or another one on the path; None: there is none."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Served(NamedTuple):
    address: str
    pid: int


@contextmanager
def serving(runs: Path) -> Iterator[str]:
    """The dashboard on the folder `runs`; gives its address. The server ends with the block."""
    with started(runs) as served:
        yield served.address


@contextmanager
def started(runs: Path) -> Iterator[Served]:
    """As `serving`, with the number of the server's process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--server.address=127.0.0.1", f"--server.port={port}", "--server.fileWatcherType=none")
    command = (sys.executable, "-m", "streamlit", "run", "app/streamlit_app.py", *options, "--", "--runs", str(runs))
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(address, server)
            yield Served(address, server.pid)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"streamlit ended with {server.returncode}; start it by hand to see why: make app")
        try:
            with opener.open(f"{address}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"streamlit did not answer within {START_SECONDS} s")


@contextmanager
def browsing() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        raise RuntimeError("no chromium on the path; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGS])
        try:
            yield browser
        finally:
            browser.close()


def address_of(title: str, base: str, **query: str) -> str:
    return f"{base}/{PAGES[title]}" + (f"?{urlencode(query)}" if query else "")


def open_page(page: Page, title: str, base: str, **query: str) -> None:
    """Opens a page of the dashboard and waits until it stands."""
    page.goto(address_of(title, base, **query), wait_until="domcontentloaded")
    settle(page, title)


def settle(page: Page, title: str) -> None:
    """Waits until the page of that title has been drawn whole."""
    page.get_by_role("heading", name=title, exact=True, level=1).wait_for(timeout=WAIT_MS)
    page.wait_for_function(SETTLED, timeout=WAIT_MS)
