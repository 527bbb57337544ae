"""The report's page in a browser: read on a phone and in the dark, sorted, filtered, paged through, and printed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small_store import passages, publish, unit_vectors
from synthetic_run import kept, population, prediction, write_run

from wbrag.report.page import Details, Heading, Picture, Pictures, Table, Text, html, markdown, retold, slug
from wbrag.report.plots import gain_figure
from wbrag.report.run_report import write_report
from wbrag.report.version import stamp, stamp_around
from wbrag.store.place import place_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
#: The text of figures may be so small on a phone, in pixels.
SMALLEST = 9.0
ENDPOINT = "{name: openai, model: gpt-5}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with 40 questions that got worse and 30 that got better."""
    traces, rows = population(60, 40)
    rows += [prediction(id=f"worse-{i}", answer_base="Tarnholm", answer_writeback="Elm") for i in range(40)]
    rows += [prediction(id=f"better-{i}", question=f"What is town {i}?") for i in range(30)]
    run = write_run(tmp_path_factory.mktemp("runs") / "toy", traces, rows)
    write_report(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser: Browser, file: Path, width: int = 1366, **how: Any) -> Page:  # noqa: ANN401 - Playwright's options
    page = browser.new_context(viewport={"width": width, "height": 900}, **how).new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(file.as_uri())
    return page


@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_read_at_any_width_in_either_light(browser: Browser, report: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(browser, report, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    heights = page.evaluate("[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= SMALLEST
    faults = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in faults if one["impact"] in ("serious", "critical")] == []
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert (ink == "rgb(31, 35, 40)") == (scheme == "light")
    page.context.close()


def test_cases_are_filtered_and_paged_through(browser: Browser, report: Path) -> None:
    page = opened(browser, report)
    worse, better = page.locator(".cases").all()
    assert worse.locator("details").count() >= 40
    assert worse.locator("details:visible").count() == 25
    bar = page.locator(".bar", has=page.get_by_label("Filter cases")).first
    bar.get_by_role("button", name="Next").press("Enter")
    first = int(re.findall(r"\d+", bar.get_by_role("status").inner_text())[0])
    assert (first, worse.locator("details:visible").count()) == (26, worse.locator("details").count() - 25)
    page.get_by_label("Filter cases").nth(1).fill("better-7;")
    assert better.locator("details:visible").all_inner_texts() == ['What is town 7? "Port Elden" → "Tarnholm"']
    page.goto(f"{report.as_uri()}#case-better-29")
    assert page.locator("#case-better-29").get_attribute("open") is not None
    page.emulate_media(media="print")
    assert better.locator("details:visible").count() == better.locator("details").count()
    page.context.close()


def test_tables_are_sorted_by_their_heads(browser: Browser, tmp_path: Path) -> None:
    rows = (("b", "9"), ("a", "-"), ("c", "1,000"), ("d", "-2.5"))
    file = tmp_path / "page.html"
    file.write_text(html("t", "s", [Table(("name", "n"), rows), Table(("x", "n"), (*rows, ("b", "1")))]))
    page = opened(browser, file)
    table = page.locator("table.sorts")
    assert table.count() == 1  # a row whose name stands twice goes with those around it
    told = []
    for name in ("n", "n", "name"):
        table.get_by_role("button", name=name, exact=True).press("Enter")
        told.append("".join(table.locator("td:first-child").all_inner_texts()))
    assert told == ["dbca", "acbd", "abcd"]
    assert table.locator("th").first.get_attribute("aria-sort") == "ascending"
    page.context.close()


def test_without_the_script_all_is_shown(browser: Browser, report: Path) -> None:
    page = opened(browser, report, java_script_enabled=False)
    assert page.locator(".cases details:visible").count() == page.locator(".cases details").count() > 70
    page.context.close()


def test_headings_are_linked_to_and_listed() -> None:
    page = html("t", "s", [Heading("Results (F1)"), Text("x"), Heading("Cost")])
    assert '<nav aria-label="Contents"><ul><li><a href="#results-f1">Results (F1)</a></li>' in page
    assert '<h2 id="results-f1">' in page
    assert slug("Who gains, and why?") == "who-gains-and-why"


def test_a_forest_of_many_settings_marks_what_leaves_out_0_and_claims_nothing_of_a_few() -> None:
    gains = {f"setting {i}": {"gain": 0.01 * i, "ci_low": 0.01 * i - 0.02, "ci_high": 0.03} for i in range(-4, 6)}
    few = {name: one | {"n": 3} for name, one in gains.items()}
    lines = [gain_figure("t", some, "setting 5").count("LineCollection") for some in (gains, few)]
    assert lines[0] == len(gains)
    told = gain_figure("t", gains)
    assert ("+0.0" in told, ">0.0<" in told) == (False, True)
    assert told.count("#fefefe") > gain_figure("t", dict(list(gains.items())[-2:])).count("#fefefe")
    assert "setting 5" in gain_figure("t", few)
    same = gain_figure("t", {"nothing changed": {"gain": 0.0, "ci_low": 0.0, "ci_high": 0.0}})
    assert ">\u22121.0<" in same  # a point to either side, not a hundredth of one
    assert ">1.0<" in same


def test_a_picture_says_what_it_is_and_lies_on_white_in_its_file() -> None:
    svg = gain_figure("a & b", {"x": {"gain": 0.1, "ci_low": 0.0, "ci_high": 0.2}})
    page = html("t", "s", [Pictures((Picture("p.svg", svg, "a & b", "caption"),))])
    assert '<svg role="img" aria-label="a &amp; b"' in page
    assert "<title>a &amp; b</title>" in page
    assert "var(--ink)" in page
    assert "#1f2328" in svg


def test_what_a_page_says_of_its_versions_can_be_said_anew() -> None:
    blocks = [Text("old \\1", "version"), Details("d", (Text("old"),))]
    for form in (html, markdown):
        page = retold(form("t", "s", blocks), "version 2 <now> \\1")
        assert page == form("t", "s", [Text("version 2 <now> \\1", "version"), *blocks[1:]])
    assert retold("no such line\n", "x") == "no such line\n"


def test_a_report_says_that_the_knowledge_base_has_moved_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    for name in ("base", "writeback"):
        publish(run / name, unit_vectors(3), passages(3), "hashing", {})
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"stores": {"base": 1, "writeback": 1}}))
    before = write_report(run)
    pages = [(run / name).read_text() for name in ("report.md", "report.html")]
    stamp(run)
    assert [(run / name).read_text() for name in ("report.md", "report.html")] == pages
    publish(run / "writeback", unit_vectors(2, seed=1), passages(2, "q"), "hashing", {})
    stamp_around(place_of(run / "writeback"))
    after = json.loads((run / "metrics.json").read_text())
    assert after.pop("versions") == {"measured": {"base": 1, "writeback": 1}, "now": {"base": 1, "writeback": 2}}
    assert after == {name: told for name, told in before.items() if name != "versions"}
    for name, old in zip(("report.md", "report.html"), pages, strict=True):
        new = (run / name).read_text()
        assert "The knowledge base has moved on since, to version 2 of the units: these figures are not of it" in new
        assert [line for line in new.splitlines() if "Measured" not in line] == [
            line for line in old.splitlines() if "Measured" not in line
        ]


def test_a_refusal_of_the_distiller_is_why_an_example_was_not_kept(tmp_path: Path) -> None:
    passed = "passed: delta 1.00 > tau_delta 0.01 and s_rag 1.00 > tau_s 0.1 (s_nr 0.00, s_rag 1.00); documents 1 of 5"
    reason = f"{passed}; not distilled: rewrite reply too_long: 900 characters > 400; it begins 'x'"
    traces = [kept(id=f"t{i}", status="gated", reason=reason.replace("900", str(900 + i))) for i in range(3)]
    run = write_run(tmp_path / "run", traces, [prediction(id=str(i)) for i in range(12)])
    assert write_report(run)["construction"]["reasons"] == {"not distilled: rewrite reply too long": 3}


def test_the_model_of_an_endpoint_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("{name: micro_small, model: models/micro_small}", ENDPOINT))
    facts = json.loads((run / "run.json").read_text())
    facts |= {"measured_at": "2026-11-30 21:00:04+00:00", "stores": {"base": 3, "writeback": 1}}
    (run / "run.json").write_text(json.dumps(facts))
    assert write_report(run)["results"][0]["backbone"] == "gpt-5"
    text = (run / "report.md").read_text()
    assert "naive RAG on gpt-5" in text
    assert "Measured 2026-11-30 21:00 UTC with version 1 of the units and version 3 of the passages." in text
