"""One dashboard and one Chromium for the tests of this folder; every page that they open is watched.

Without Chromium or playwright the tests are skipped; with DARKROOM_REQUIRE_BROWSER=1, as in CI, they fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from conftest import Finished

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks is no installed package


class Seen(NamedTuple):
    """What a page asked for and complained about."""

    requests: list[str]
    errors: list[str]

    def elsewhere(self) -> list[str]:
        """Requests that left this machine; data and blob stay in the browser."""
        split = [urlsplit(url) for url in self.requests]
        return [url.geturl() for url in split if url.scheme not in ("data", "blob") and url.hostname != "127.0.0.1"]


@pytest.fixture(scope="module")
def address(smoke: Finished, browser: Any) -> Iterator[str]:
    """The dashboard on the folder of the `smoke` run. `browser` comes first: without one nothing needs to start."""
    from benchmarks.serving import serving

    with serving(smoke.run.path.parent) as base:
        yield base


# Of a module and not of the session: playwright's loop would else run under the tests that come after.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from benchmarks.serving import browsing, chromium_path
    except ImportError as error:
        missing(f"playwright is not installed ({error})")
    if chromium_path() is None:
        missing("there is no chromium on the path")
    with browsing() as found:
        yield found


def missing(what: str) -> None:
    if os.environ.get("DARKROOM_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and DARKROOM_REQUIRE_BROWSER=1", pytrace=False)
    pytest.skip(what)


@pytest.fixture
def watched(browser: Any) -> Iterator[tuple[Any, Seen]]:
    """A fresh page, and what it asked for and complained about. Afterwards nothing may have left this machine, and
    nothing may stand in the console."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    seen = Seen([], [])
    context.on("request", lambda request: seen.requests.append(request.url))
    page = context.new_page()
    page.on("websocket", lambda socket: seen.requests.append(socket.url))
    page.on("console", lambda message: seen.errors.append(complaint(message)) if is_error(message) else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.set_default_timeout(120_000)
    yield page, seen
    context.close()
    assert seen.requests
    assert not seen.elsewhere()
    assert not seen.errors


def is_error(message: Any) -> bool:
    """Opened at /example, Streamlit's own script looks for its server below that address first, and asks the right
    one after the 404."""
    of_streamlit = urlsplit(message.location.get("url", "")).path.endswith(("/_stcore/host-config", "/_stcore/health"))
    return message.type == "error" and not ("404" in message.text and of_streamlit)


def complaint(message: Any) -> str:
    return f"{message.text} ({message.location.get('url', '')})"


@pytest.fixture
def page(watched: tuple[Any, Seen]) -> Any:
    return watched[0]
