"""The report on synthetic run folders: what it says, that it is whole, escaped and self-contained."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import PASSAGES, document, failed, gated, kept, population, prediction, write_run, write_table

from wbrag import schema
from wbrag.report.page import Details, Table, Text, Verbatim, html, markdown
from wbrag.report.run_report import (
    WHY,
    all_told,
    headline,
    none_kept,
    recall_line,
    result_blocks,
    terminal_table,
    write_report,
)
from wbrag.report.tables import p_value, points
from wbrag.report.trace import lives_to_show
from wbrag.run.folder import RunError, read_config, read_records, setting_of, unit_rows
from wbrag.schema import UNIT

EVIL = '<script>alert("x")</script> & | `code` *bold*'
VOID = {"meta", "br", "img", "link", "hr"}


class Strict(HTMLParser):
    """Collects the tags and attributes of a page; every tag that opens must close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported run of 120 examples and 80 questions."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "toy", *population(120, 80))
    write_report(folder)
    return folder


def test_metrics_json_holds_what_is_returned(run: Path) -> None:
    metrics = write_report(run)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    wanted = {"benchmark", "method", "backbone", "metric", "n", "closed_book", "base", "writeback", "gain"}
    assert wanted | {"ci_low", "ci_high"} <= set(metrics["results"][0])
    parts = {"questions", "labels", "results", "splits", "unseen", "exposure", "construction", "cost", "seconds"}
    assert set(metrics) == parts | {"versions"}


def test_a_second_report_is_byte_identical(run: Path) -> None:
    files = [run / name for name in ("metrics.json", "report.md", "report.html")] + sorted((run / "plots").iterdir())
    before = [file.read_bytes() for file in files]
    write_report(run)
    assert [file.read_bytes() for file in files] == before


def test_no_temporary_file_is_left(run: Path) -> None:
    names = {path.name for path in run.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "run.json", "quarantine.jsonl", "part-0.parquet", "part-1.parquet", "units.parquet"),
        *("metrics.json", "report.md", "report.html", "scores.svg", "gains.svg", "ranks.svg"),
        "compression.svg",
        *("harms.jsonl", "units_sample.md"),
    }


def test_the_page_is_well_formed_and_needs_nothing_else(run: Path) -> None:
    page = parse((run / "report.html").read_text())
    assert page.tags.count("svg") == 4
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "img"} & set(page.tags)
    fetched = [v for name, v in page.attributes if name in ("src", "href", "xlink:href") and not v.startswith("#")]
    assert fetched == []
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_references_inside_the_figures_resolve(run: Path) -> None:
    page = parse((run / "report.html").read_text())
    ids = {value for name, value in page.attributes if name == "id"}
    used = {value[1:] for name, value in page.attributes if name in ("href", "xlink:href")}
    used |= {value[5:-1] for _, value in page.attributes if value.startswith("url(#")}
    assert used
    assert used <= ids


def test_the_plots_are_svg_files(run: Path) -> None:
    for name in ("scores", "gains", "ranks", "compression"):
        root = ET.parse(run / "plots" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.attrib["role"] == "img"
        title, ground = list(root)[:2]
        assert title.text == root.attrib["aria-label"] != ""
        assert ground.attrib["fill"] == "#ffffff"  # a page of Markdown may be dark


def test_the_ranks_of_a_run_have_their_shares_beside_them(run: Path) -> None:
    shares = json.loads((run / "metrics.json").read_text())["construction"]["retained_by_rank"]
    words = parse((run / "plots" / "ranks.svg").read_text()).text.split()
    assert shares
    assert {f"{100 * share:.0f}" for share in shares.values()} <= set(words)


def test_both_forms_tell_all_sections(run: Path) -> None:
    text = (run / "report.md").read_text()
    page = parse((run / "report.html").read_text()).text
    sections = ("Results", "What questions without overlap read", "Retrieval", "Questions that got worse", "Units")
    for section in (*sections, "Construction", "Cost", "Lives of examples", "Quarantine"):
        assert f"## {section}" in text or section == "Lives of examples"
        assert section in page
    assert "python jobs/train.py benchmark=toy_nq" in text
    assert "question is empty" in page
    assert "2.60.0" in page
    assert "![Ranks of the retained documents" in text
    assert "(plots/ranks.svg)" in text


def test_text_of_models_and_data_cannot_become_markup(tmp_path: Path) -> None:
    passage = document("p-1", EVIL, EVIL)
    trace = kept(question=EVIL, closed_book_answer=EVIL, unit_title=EVIL, unit_text=EVIL, documents=[passage] * 3)
    rows = [
        prediction(question=EVIL, golden_answers=[EVIL, "Tarnholm"]),
        prediction(id="b", documents_writeback=PASSAGES),
        prediction(id="c", question=EVIL, answer_base="Tarnholm", answer_writeback=EVIL),
    ]
    run = write_run(tmp_path / "run", [trace, gated(), failed(reason=f"{EVIL}: {EVIL}")], rows)
    write_report(run)
    text = (run / "report.html").read_text()
    assert text.count("<script") == 1
    assert EVIL in parse(text).text


def test_a_run_without_units_or_overlap_is_reported(tmp_path: Path) -> None:
    rows = [prediction(metadata="{}", documents_writeback=PASSAGES, answer_writeback="Port Elden")]
    run = write_run(tmp_path / "run", [gated()], rows)
    (run / "quarantine.jsonl").unlink()
    metrics = write_report(run)
    assert metrics["results"][0]["gain"] == 0.0
    text = (run / "report.md").read_text()
    assert "No unit was written" in text
    assert "No input row was left out" in text
    assert "Too few questions to tell" in text
    reason = next(iter(metrics["construction"]["reasons"]))
    assert none_kept(metrics["construction"]) == f"units: none; of 1 training examples 1 are {WHY.get(reason, reason)}"
    assert none_kept(metrics["construction"] | {"kept": 1}) == ""


@pytest.mark.parametrize("left", [1, 0])
def test_kept_examples_whose_units_went_are_reported(tmp_path: Path, left: int) -> None:
    run = write_run(tmp_path / "run", [kept(id="a"), kept(id="b", unit_id="wb-b")], [prediction()])
    units = list(unit_rows(run))[:left]
    pq.write_table(pa.Table.from_pylist(units, UNIT), run / "units.parquet")
    told = write_report(run)["construction"]
    assert (told["kept"], told["units"], told["mean_retained_documents"]) == (2, left, 1.0)
    assert (run / "plots" / "ranks.svg").is_file()
    assert (run / "plots" / "compression.svg").is_file() == bool(left)


def test_a_run_without_predictions_is_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [])
    with pytest.raises(RunError, match=r"run/predictions: no prediction to report on"):
        write_report(run)
    assert not (run / "metrics.json").exists()


def test_a_file_that_is_no_parquet_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    pq.write_table(pa.table({"id": ["x"]}), run / "predictions" / "part-2.parquet")
    with pytest.raises(RunError, match=r"part-2\.parquet: no column 'question'"):
        write_report(run)
    (run / "predictions" / "part-2.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(RunError, match=r"part-2\.parquet: "):
        write_report(run)


def test_a_column_of_nulls_written_without_a_type_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    file = run / "predictions" / "part-0.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("error")
    pq.write_table(table.set_column(at, "error", pa.nulls(len(table))), file)
    assert write_report(run)["questions"] == {"n": 1, "failed": 0}


def test_a_broken_configuration_and_quarantine_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    (run / "quarantine.jsonl").write_text('{"line": 1}\n{"line"\n')
    with pytest.raises(RunError, match=r"quarantine\.jsonl, line 2: not a JSON object"):
        read_records(run / "quarantine.jsonl")
    (run / "config.yaml").write_text("k: 5\n")
    with pytest.raises(RunError, match=r"config\.yaml: not the configuration of a run: no key 'benchmark'"):
        read_config(run)
    with pytest.raises(RunError, match="no such file"):
        read_config(tmp_path / "nowhere")


def test_the_lives_shown_are_a_fix_a_closed_gate_and_a_loss(tmp_path: Path) -> None:
    setting = setting_of(read_config(write_run(tmp_path / "run", [kept()], [prediction()])))
    worse = prediction(id="test-9", answer_base="Tarnholm", answer_writeback="Port Elden")
    found = lives_to_show([kept(), gated(), failed()], [prediction(), worse], setting)
    assert [key for _, key in found] == ["train-17", "train-18", "test-9"]
    assert found[0][0] == "Kept; its unit was read for a test question that write-back fixed."
    calm = prediction(answer_writeback="Port Elden")
    found = lives_to_show([kept(), gated(), failed()], [calm], setting)
    assert found == [("Kept.", "train-17"), ("Gated out.", "train-18"), ("Failed.", "train-19")]


def record(**changes: object) -> dict[str, object]:
    scores = {"closed_book": 0.1, "base": 0.52, "writeback": 0.5925, "gain": 0.0725, "ci_low": 0.042, "ci_high": 0.1}
    about = {"benchmark": "toy_nq", "method": "naive", "backbone": "micro_small", "metric": "acc", "n": 1400}
    return about | scores | {"mcnemar_p": 0.00001} | changes


def measured(unseen: dict[str, object] | None = None, **changes: object) -> dict[str, Any]:
    """What metrics.json holds of the primary metric: all questions and, where given, those without overlap."""
    over = {"ci_low": 0.03, "ci_high": 0.12, "topics": 540, "largest": 8}
    every = record() | {"topics": over} | changes
    splits = {} if unseen is None else {"none": [every | {"n": 451} | unseen]}
    return {"results": [every], "splits": splits, "labels": False, "questions": {"n": 1400, "failed": 0}}


def test_the_headline_claims_no_more_than_the_interval_over_topics() -> None:
    assert headline(measured()) == (
        "Write-back raises accuracy on 1,400 test questions of toy_nq from 52.0% to 59.2%: "
        "+7.2 points, 95% interval over topics +3.0 to +12.0."
    )
    wide = {"ci_low": -0.01, "ci_high": 0.12, "topics": 40, "largest": 90}
    assert headline(measured(topics=wide)).startswith("No change shown")
    assert headline(measured(topics=wide | {"ci_low": 0.0})).endswith("0.0 to +12.0, which includes 0).")
    assert headline(measured(topics=wide | {"ci_low": -0.3, "ci_high": -0.1})).startswith("Write-back lowers accuracy")
    single = {"ci_low": 0.07, "ci_high": 0.07, "topics": 1, "largest": 9}
    assert headline(measured(topics=single)).endswith("(+7.2 points; of 1 topic there is no interval).")
    assert headline(measured(n=3)).startswith(
        "Too few questions to tell: write-back takes accuracy on 3 test questions"
    )
    assert all_told(measured(n=3)).endswith("+7.2 points, too few for an interval.")


def test_the_headline_is_of_the_questions_without_overlap_and_all_come_second() -> None:
    metrics = measured({"gain": 0.01, "topics": {"ci_low": -0.02, "ci_high": 0.04, "topics": 300, "largest": 5}})
    told = headline(metrics)
    assert told.startswith("No change shown: write-back takes accuracy on 451 test questions of toy_nq without overlap")
    assert "+1.0 points, 95% interval over topics -2.0 to +4.0" in told
    assert all_told(metrics) == (
        "All 1,400 test questions, 451 without overlap: from 52.0% to 59.2%, +7.2 points, 95% interval "
        "+3.0 to +12.0 over topics, +4.2 to +10.0 over questions."
    )
    assert "none known to be without overlap" in all_told(measured())


def test_the_terminal_table_is_aligned_plain_text_without_overlap_first() -> None:
    lines = terminal_table(measured({"mcnemar_p": None})).splitlines()
    header, rule, first, second = lines[:4]
    assert len(header) == len(rule) == len(first) == len(second) < 120
    assert header.startswith("toy_nq, accuracy")
    assert first.split()[:4] == ["without", "overlap", "451", "10.0"]
    assert first.split()[-1] == "-"
    everything = [*("all", "test", "questions", "1,400", "10.0", "52.0", "59.2", "+7.2"), *("+3.0", "to", "+12.0")]
    assert second.split() == [*everything, *("+4.2", "to", "+10.0", "<", "0.0001")]
    assert lines[-1] == "Without overlap: no training question asks the same or has the same answer."
    assert "\n".join(lines).isascii()
    alone = terminal_table(measured())
    assert "without overlap" not in alone.lower()


def test_a_labelled_benchmark_is_told_what_without_overlap_means_there() -> None:
    labelled = terminal_table(measured({}) | {"labels": True}).splitlines()[-1]
    assert labelled.startswith("Without overlap: no training question asks the same (answers are labels")


def test_the_first_figures_of_both_forms_are_of_questions_without_overlap(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    unseen = metrics["splits"]["none"][0]
    lead = headline(metrics)
    assert f"{unseen['n']} test questions of toy_nq without overlap" in lead
    text, page = (run / "report.md").read_text(), parse((run / "report.html").read_text()).text
    first = next(line for line in text.splitlines() if line.startswith("**"))
    assert first == f"**{lead.replace('_', chr(92) + '_')}**"
    assert page.index(lead) < page.index(all_told(metrics))
    table = text[text.index("## Results") :]
    assert table.index("**without overlap**") < table.index("all test questions")


def test_questions_without_overlap_are_told_by_what_they_read(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    tables = [block for block in result_blocks(metrics) if isinstance(block, Table)]
    (table,) = (one for one in tables if one.header[0] == "without overlap")
    assert [row[0] for row in table.rows] == [
        "a unit that was read holds the golden answer",
        "no unit was read",
        "together",
    ]
    assert sum(int(row[1]) for row in table.rows[:-1]) == int(table.rows[-1][1]) == metrics["splits"]["none"][0]["n"]
    assert table.rows[1][3:5] == ("0.0", "0.0 to 0.0")
    assert table.rows[-1][5:] == ("100.0", "100.0")


def test_details_open_in_html_and_hold_what_is_inside_in_both_forms() -> None:
    block = Details(f"{EVIL}\nonce", (Text(EVIL), Table(("a",), ((EVIL,),))))
    page = html("t", "s", [block])
    assert parse(page).tags[-12:-7] == ["details", "summary", "p", "div", "table"]
    assert parse(page).text.count(EVIL) == 3
    assert "details:not(.cases > *)::details-content" in page[page.index("@media print") :]
    told = markdown("t", "s", [block])
    assert "<details>\n<summary>&lt;script&gt;" in told
    assert "<script" not in told.replace(r"\<", "")


def test_writing_and_validating_stand_beside_training_in_the_cost(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [kept()], [prediction()])
    assert "writing units" not in write_report(run)["cost"]
    spent = {"calls": 11, "prompt_tokens": 1700, "completion_tokens": 90}
    write_table(run / "written", [dict.fromkeys(schema.WRITTEN.names) | {"id": "train-17"} | spent], schema.WRITTEN)
    write_table(run / "readings", [prediction(calls=1)], schema.PREDICTION)
    cost = write_report(run)["cost"]
    assert list(cost) == ["training", "writing", "validating", "evaluation"]
    assert cost["writing"] == spent
    assert cost["validating"]["calls"] == 1
    assert "| writing units | 11 | 1,700 | 90 |" in (run / "report.md").read_text()


def test_recall_is_told_for_both_indices() -> None:
    told = recall_line(record(retrieval_recall_base=0.713, retrieval_recall_writeback=None), 5)
    assert told == "recall@5, questions with a golden answer in their documents: base 71.3, + write-back -"


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0"), (-0.012, "-1.2")])
def test_points_have_a_sign_unless_they_round_to_zero(value: float, text: str) -> None:
    assert points(value) == text


def test_a_p_value_is_never_zero() -> None:
    assert (p_value(0.0), p_value(0.03125)) == ("< 0.0001", "0.0312")


def test_markdown_cells_and_fences_hold_any_text() -> None:
    text = markdown("t", "s", [Table(("a", "b"), (("x|y", "1\n2"),)), Verbatim("```\ninner")])
    assert r"| x\|y | 1 2 |" in text
    assert "````text\n```\ninner\n````" in text
    assert "<b>" not in markdown("t", "s", [Text("<b>")]).replace(r"\<", "")


def test_html_escapes_titles() -> None:
    assert parse(html(EVIL, EVIL, [])).text.count(EVIL) == 3
