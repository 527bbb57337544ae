"""The page on which units are judged, in a real Chromium, with the keyboard alone, and the page of the routes."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from served_run import UNITS, served_run

from wbrag.serve.app import app_of
from wbrag.serve.hits import Served

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY = "k-5f1e"
#: What axe calls a fault that keeps people out.
SERIOUS = ("serious", "critical")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on PATH")


@contextmanager
def listening(app: Any) -> Iterator[str]:  # noqa: ANN401 - an ASGI application
    """The address of a server of this application."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = served_run(tmp_path_factory.mktemp("runs") / "run")
    shutil.copytree(run, run.parent / "other")
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.parent, tmp_path / "runs"), "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def seen(browser: Any, address: str, **how: Any) -> Iterator[Any]:  # noqa: ANN401 - Playwright's
    """A page of its own; it may ask nobody but the server, and its script may not fail."""
    context = browser.new_context(**how)
    page, faults = context.new_page(), list[str]()
    page.set_default_timeout(5000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(address) else None)
    try:
        yield page
    finally:
        context.close()
    assert faults == []


def serious(page: Any) -> list[str]:  # noqa: ANN401 - Playwright's
    """The serious faults that axe finds in what is shown."""
    from axe_playwright_python.sync_playwright import Axe

    told = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in told if one["impact"] in SERIOUS for node in one["nodes"]]


def test_a_unit_is_rejected_with_the_keyboard_and_not_found_any_more(run: Path, browser: Any) -> None:  # noqa: ANN401
    served, key = Served(run), UNITS["harmful"]["id"]

    def there() -> bool:
        return key in [hit.id for hit in served.hits(["Where does Tarnholm lie?"], 3)[0]]

    with listening(app_of(served, local=True)) as address, seen(browser, address) as page:
        assert there()
        page.goto(f"{address}/review")
        page.get_by_text("to look at (5)").wait_for(state="attached")
        for _ in range(4):  # faster than the server answers
            page.keyboard.press("j")
        page.locator(".detail .unit", has_text="Tarnholm lies inland.").wait_for()
        assert "test-2" in page.locator(".detail").inner_text()
        page.keyboard.press("r")
        page.keyboard.type("it misleads: <b>j</b>, k, a")
        page.keyboard.press("Control+Enter")
        page.get_by_text(f"{key} is rejected: version 2.").wait_for()
        assert not there()
        assert page.locator(".detail h2").inner_text() == "Tarnholm"  # the next one
        page.keyboard.press("u")
        page.get_by_text(f"{key} is as it was written: version 3.").wait_for()
        assert there()
        assert page.locator(".detail .quiet").first.inner_text().startswith(key)
        page.keyboard.press("e")
        page.keyboard.press("Control+A")
        page.keyboard.type("Tarnholm lies by the sea.")
        page.keyboard.press("Tab")
        page.keyboard.type("it does")
        page.keyboard.press("Control+Enter")
        page.get_by_text("is edited: version 4.").wait_for()
        assert "Tarnholm lies by the sea." in [hit.text for hit in served.hits(["Where does Tarnholm lie?"], 3)[0]]
        page.keyboard.press("/")
        page.keyboard.type("glass")
        page.keyboard.press("Enter")
        page.get_by_text("No unit is like this.").wait_for()


def test_with_a_key_the_page_asks_for_it(run: Path, browser: Any) -> None:  # noqa: ANN401 - Playwright's
    with listening(app_of(Served(run), key=KEY)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(5000)
        page.goto(f"{address}/review")
        page.get_by_label("API key").wait_for()
        page.keyboard.type(f"{KEY}x")
        page.keyboard.press("Enter")
        page.get_by_text("This is not the key.").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_text("to look at (5)").wait_for(state="attached")
        page.keyboard.press("j")
        page.locator(".detail h2").wait_for()
        page.keyboard.press("a")
        page.get_by_text("is accepted: version 2.").wait_for()
        context.close()


def test_what_a_unit_says_is_text(made: Path, browser: Any) -> None:  # noqa: ANN401 - Playwright's
    with listening(app_of(Served(made), local=True)) as address, seen(browser, address) as page:
        page.goto(f"{address}/review#/unit/{UNITS['attack']['id']}")
        page.locator(".detail h2").wait_for()
        assert page.locator(".detail h2").inner_text() == UNITS["attack"]["title"]
        assert page.locator(".unit").inner_text() == UNITS["attack"]["text"]
        page.goto(f"{address}/review#/unit/{UNITS['good']['id']}")
        page.locator("mark").wait_for()
        assert page.locator("mark").all_inner_texts() == ["Almira Trevane was a glass painter."]
        assert "2: 1.00 kept" in page.get_by_role("region", name="Gates of train-17").inner_text()
        assert "[object" not in page.locator("main").inner_text()
        page.goto(f"{address}/review#/runs")
        page.get_by_text("<i>Port Elden</i>").wait_for()
        assert page.locator("main img, main i, main script").count() == 0
        assert page.title() == "Runs - review"


PLACES = ("/review", f"/review#/unit/{UNITS['good']['id']}", "/review#/runs?a=run&b=other&change=all", "/docs")


@pytest.mark.parametrize(("width", "scheme"), [(1366, "light"), (390, "dark")])
def test_people_are_not_kept_out(made: Path, browser: Any, width: int, scheme: str) -> None:  # noqa: ANN401
    size = {"viewport": {"width": width, "height": 768}, "color_scheme": scheme}
    with listening(app_of(Served(made), local=True)) as address, seen(browser, address, **size) as page:
        for place in PLACES:
            page.goto("about:blank")
            page.goto(address + place)
            page.locator("h2, .units li, h3").first.wait_for(state="attached")
            page.keyboard.press("?")
            assert serious(page) == [], place
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place


def test_the_docs_try_a_question(made: Path, browser: Any) -> None:  # noqa: ANN401 - Playwright's
    with listening(app_of(Served(made), local=True)) as address, seen(browser, address) as page:
        page.goto(f"{address}/docs")
        page.get_by_role("heading", name="POST /search").wait_for()
        page.get_by_label("Question").fill("Where does Tarnholm lie?")
        page.keyboard.press("Enter")
        page.get_by_text('"p-0077"').first.wait_for()
