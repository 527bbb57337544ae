"""The report on synthetic run folders: what it says, that it is whole, escaped and self-contained."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import PASSAGES, document, failed, gated, kept, population, prediction, write_run

from wbrag.lives import lives_to_show
from wbrag.page import Table, Text, Verbatim, html, markdown
from wbrag.report import write_report
from wbrag.runfolder import RunError, read_config, read_records, setting_of
from wbrag.tables import headline, p_value, points, recall_line, terminal_table

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
    parts = {"questions", "results", "topics", "splits", "exposure", "construction", "cost", "seconds"}
    assert set(metrics) == parts


def test_a_second_report_is_byte_identical(run: Path) -> None:
    files = [run / name for name in ("metrics.json", "report.md", "report.html")] + sorted((run / "plots").iterdir())
    before = [file.read_bytes() for file in files]
    write_report(run)
    assert [file.read_bytes() for file in files] == before


def test_no_temporary_file_is_left(run: Path) -> None:
    names = {path.name for path in run.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "run.json", "quarantine.jsonl", "part-0.parquet", "part-1.parquet"),
        *("metrics.json", "report.md", "report.html", "gains.svg", "ranks.svg", "compression.svg"),
    }


def test_the_page_is_well_formed_and_needs_nothing_else(run: Path) -> None:
    page = parse((run / "report.html").read_text())
    assert page.tags.count("svg") == 3
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
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
    for name in ("gains", "ranks", "compression"):
        assert ET.parse(run / "plots" / f"{name}.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_both_forms_tell_all_sections(run: Path) -> None:
    text = (run / "report.md").read_text()
    page = parse((run / "report.html").read_text()).text
    for section in ("Results", "Who gains", "Retrieval", "Construction", "Cost", "lives of three", "Quarantine"):
        assert section in text
        assert section in page
    assert "python jobs/train.py benchmark=toy_nq" in text
    assert "question is empty" in page
    assert "2.60.0" in page
    assert "![Where in the retrieved list" in text
    assert "(plots/ranks.svg)" in text


def test_text_of_models_and_data_cannot_become_markup(tmp_path: Path) -> None:
    passage = document("p-1", EVIL, EVIL)
    trace = kept(question=EVIL, closed_book_answer=EVIL, unit_title=EVIL, unit_text=EVIL, documents=[passage] * 3)
    rows = [
        prediction(question=EVIL, golden_answers=[EVIL, "Tarnholm"]),
        prediction(id="b", documents_writeback=PASSAGES),
    ]
    run = write_run(tmp_path / "run", [trace, gated(), failed(reason=f"{EVIL}: {EVIL}")], rows)
    write_report(run)
    text = (run / "report.html").read_text()
    assert "<script" not in text
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
    assert "No change shown" in text


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


def test_the_headline_claims_no_more_than_the_interval() -> None:
    assert headline(record()) == (
        "Write-back raises accuracy on 1,400 unseen questions of toy_nq from 52.0% to 59.2%: "
        "+7.2 points, 95% interval +4.2 to +10.0."
    )
    assert headline(record(ci_low=-0.01)).startswith("No change shown")
    assert headline(record(ci_low=0.0)).startswith("No change shown")
    assert headline(record(gain=-0.2, ci_low=-0.3, ci_high=-0.1)).startswith("Write-back lowers accuracy")


def test_the_terminal_table_is_aligned_plain_text() -> None:
    lines = terminal_table([record(), record(metric="f1", mcnemar_p=None, n=9)]).splitlines()
    header, rule, first, second = lines[:4]
    assert len(header) == len(rule) == len(first) == len(second)
    assert first.split() == [
        *("toy_nq", "accuracy", "1,400", "10.0", "52.0", "59.2", "+7.2", "+4.2", "to", "+10.0", "<", "0.0001")
    ]
    assert second.split()[-1] == "-"
    assert "\n".join(lines).isascii()


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
