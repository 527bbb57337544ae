"""The report over a grid, on synthetic run folders: every table and figure is there, and says what the runs say."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import CONFIG, RUN, gated, population, prediction, write_run, write_table

from wbrag import schema
from wbrag.experiments.grid import compared, measure_grid, read_point, read_points
from wbrag.experiments.grid_report import BLOCKS, FORMS, ROWS, SECTIONS, headline, main, summary, write_grid_report
from wbrag.experiments.paper import called, cell, family, known, place, statistic
from wbrag.report.construction import construction, cost
from wbrag.report.evaluation import answers_of, evaluate
from wbrag.run.folder import RunError, read_config, setting_of, trained_run, unit_rows

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [(m, b) for b in ("nq", "hotpotqa") for m in ("naive", "flare")]
POPULATION = population(5, 10)
GATES = {"tau_s": 0.1, "tau_delta": 0.01, "tau_doc": 0.01, "n_min": 2}


def config_of(method: str, benchmark: str, backbone: str = "micro_small") -> str:
    how = ", theta: 0.8, beta: 0.4, query: masked" if method == "flare" else ""
    text = CONFIG.replace("name: naive", f"name: {method}{how}").replace("toy_nq", benchmark)
    return text.replace("micro_small, model", f"{backbone}, model").replace(
        "acc", "f1" if benchmark == "hotpotqa" else "acc"
    )


def write_metrics(run: Path, traces: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """The metrics.json of a run; its own report is another test's matter."""
    setting, units = setting_of(read_config(run)), list(unit_rows(run))
    found = evaluate(answers_of(rows, setting, traces, units), setting)
    found |= {"construction": construction(traces, len(units)), "cost": cost(traces, rows)}
    (run / "metrics.json").write_text(json.dumps(found | {"seconds": RUN["seconds"]}))


def add_variant(run: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """What `wbrag.experiments.variants.predicted` leaves."""
    folder = run / "variants" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text((run / "config.yaml").read_text())
    (folder / "run.json").write_text(json.dumps(RUN | {"seconds": {"predict": 7.5}}))
    write_table(folder / "predictions", rows, schema.PREDICTION)
    setting = read_point(run).setting
    (folder / "metrics.json").write_text(json.dumps(evaluate(answers_of(rows, setting), setting)))


def shifted(rows: list[dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """The predictions with every so manieth answer of the write-back arm turned."""
    other = {"Tarnholm": "Port Elden", "Port Elden": "Tarnholm"}
    return [
        row | {"answer_writeback": other[row["answer_writeback"]]} if i % every == 0 else row
        for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four reported runs, 2 methods and 2 benchmarks; one has every variant."""
    folder = tmp_path_factory.mktemp("grid")
    made = []
    for number, (method, benchmark) in enumerate(SETTINGS):
        traces, rows = population(60, 90, seed=number // 2)
        rows = shifted(rows, 17 + number)
        run = write_run(folder / f"{benchmark}-{method}", traces, rows, config_of(method, benchmark))
        write_metrics(run, traces, rows)
        made.append(run)
        if benchmark == "nq":
            add_variant(run, "transfer-" + {"naive": "flare", "flare": "naive"}[method], shifted(rows, 30))
        if number == 0:
            for i, name in enumerate(("raw", "random", "ungated", "no_documents", "cheat_sheet")):
                add_variant(run, f"placebo-{name}", shifted(rows, 4 + i))
            add_variant(run, "repeat", rows)
            add_variant(run, "units-subject", shifted(rows, 6))
            add_variant(run, "temperature-0.03", shifted(rows, 5))
            add_variant(run, "gates-0a1b2c3d", shifted(rows, 9))
            write_ablation(run)
            add_judge(run, traces, rows)
    return made


def add_judge(run: Path, traces: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """What `wbrag.experiments.variants.judge` leaves: a run whose judge disagrees about every tenth example."""
    judged = [row | {"judge_agrees": i % 10 != 0} for i, row in enumerate(traces)]
    folder = write_run(run / "variants" / "judge", judged, rows, (run / "config.yaml").read_text())
    write_metrics(folder, judged, rows)


def write_ablation(run: Path) -> None:
    """What `wbrag.experiments.ablation.ablate` leaves."""
    told = {"selected": 20, "units": 19, "retained_documents": 1.5, "fallback_rate": 0.25, "new_calls": 4}
    own = {"name": "tau_doc=0.01", "gates": GATES, **told, "folder": "."}
    other = {"name": "tau_doc=0.05", "gates": GATES | {"tau_doc": 0.05}, **told, "folder": "variants/gates-0a1b2c3d"}
    (run / "ablation.json").write_text(json.dumps({"variants": [own, other]}))


class Words(HTMLParser):
    """The text of a page and its tags; every tag closes in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags = "", []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture(scope="module")
def reported(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the report of the four holds, and its folder."""
    out = tmp_path_factory.mktemp("report")
    return write_grid_report(out, runs, ["micro_large/nq/naive: ConfigError: no such backbone"]), out


@pytest.fixture(scope="module")
def page(reported: tuple[dict[str, Any], Path]) -> Words:
    words = Words()
    words.feed((reported[1] / "report.html").read_text())
    assert words.open == []
    return words


def test_every_table_and_figure_is_there(page: Words) -> None:
    """The fixture has something for each section."""
    assert [section["heading"] for section in SECTIONS.values() if section["heading"] not in page.text] == []
    papers = [f"Table {number}:" for number in (2, 3, 4)] + [f"Figure {number}:" for number in (3, 4, 5)]
    for part in (*papers, "Placebos", "Noise floor", "Units and merges", "A judge in place of labels", "Cost"):
        assert part in page.text
    assert page.tags.count("svg") == 2 + 1 + 2 * 2  # forests, transfer, and ranks and tokens of two benchmarks
    assert "the paper reports +2.14 over 48 settings" in page.text
    assert "34.82" in page.text
    assert "micro_large/nq/naive: ConfigError: no such backbone" in page.text
    assert "temperature 0.03, without overlap" in page.text
    assert "theta 0.8, beta 0.4, query masked" in page.text
    assert "of 2 pairs are within 2 points" in page.text
    assert RUN["command"] in page.text
    assert "2603.25737" in page.text


def test_sections_name_forms_rows_and_blocks_that_are_there() -> None:
    assert {*ROWS, *BLOCKS} <= set(SECTIONS)
    told = {form for section in SECTIONS.values() for _, _, form in section.get("columns", ())}
    assert {form for form in told if "{" not in form} == set(FORMS)
    assert [name for name, one in SECTIONS.items() if not ({"columns", "otherwise"} & set(one) or name in BLOCKS)] == []


def test_the_grid_says_what_its_points_say(runs: list[Path]) -> None:
    points = read_points(reversed(runs))
    assert [(p.setting.method, p.setting.benchmark) for p in points] == SETTINGS
    grid = measure_grid(points)
    gains = [point.metrics["results"][0]["gain"] for point in points]
    assert [record["gain"] for record in grid["points"]] == gains
    assert grid["pooled"]["gain"] == pytest.approx(np.mean(gains))
    assert grid["groups"]["benchmark"]["nq"]["gain"] == pytest.approx(np.mean(gains[:2]))
    assert grid["groups"]["method"]["flare"]["gain"] == pytest.approx(np.mean(gains[1::2]))
    unseen = [point.metrics["splits"]["none"][0]["gain"] for point in points]
    assert grid["splits"]["none"]["gain"] == pytest.approx(np.mean(unseen))
    assert [record["p"] == record["mcnemar_p"] for record in grid["points"]] == [True, True, False, False]
    assert all(record["p"] <= record["holm_p"] <= 1 for record in grid["points"])
    for record, point in zip(grid["points"], points, strict=True):
        assert record["better"] - record["worse"] == pytest.approx(record["gain"] * len(point.answers["id"]))


def test_classes_hold_every_question_once(runs: list[Path]) -> None:
    grid = measure_grid(read_points(runs))
    for classes in (grid["splits"], grid["exposure"]):
        assert sum(record["questions"] for record in classes.values()) == 4 * 90
    assert set(grid["exposure"]) <= {"near_duplicate", "gold", "other", "none"}


def test_the_grid_tells_the_questions_without_overlap_first(
    runs: list[Path], reported: tuple[dict[str, Any], Path]
) -> None:
    grid, folder = reported
    points, read = read_points(runs), dict(grid["unseen"])
    for point, record in zip(points, grid["points"], strict=True):
        own = point.metrics["splits"]["none"][0]
        assert record["unseen"]["questions"] == own["n"]
        assert record["unseen"]["gain"] == pytest.approx(own["gain"])
    together = read.pop("together")
    assert sum(record["questions"] for record in read.values()) == together["questions"]
    recall = [point.metrics["splits"]["none"][0]["retrieval_recall_writeback"] for point in points]
    assert together["found_writeback"] == pytest.approx(np.mean(recall))
    text = (folder / "report.md").read_text()
    assert text.index("without overlap with training") < text.index("Over all test questions") < text.index("Table 2")
    assert "Without overlap: no training question asks the same or has the same answer." in text
    assert "| **all settings, without overlap** |" in text


def test_cost_adds_up_runs_and_variants(runs: list[Path]) -> None:
    points = read_points(runs)
    found = measure_grid(points)["cost"]
    alone = sum(p.metrics["cost"]["training"]["calls"] + p.metrics["cost"]["evaluation"]["calls"] for p in points)
    judged = json.loads((points[0].run / "variants" / "judge" / "metrics.json").read_text())["cost"]
    judge = judged["training"]["calls"] + judged["evaluation"]["calls"]
    assert found["calls"] == alone + 11 * 90 * prediction()["calls"] + judge
    assert found["saved"] == sum(p.metrics["cost"]["training"]["calls_saved"] for p in points)
    assert found["seconds"] == pytest.approx(5 * sum(RUN["seconds"].values()) + 11 * 7.5)


def test_a_judge_is_told_beside_the_labels(reported: tuple[dict[str, Any], Path]) -> None:
    grid, _ = reported
    (told,) = grid["judge"].values()
    assert told["judge_compared"] == 60
    assert told["judge_agreement"] == pytest.approx(0.9)
    assert told["difference"] == 0.0
    assert len(grid["not_improved"]) == sum(record["gain"] <= 0 for record in grid["points"])


def test_what_is_printed_counts_the_settings_that_gain() -> None:
    every = {"gain": 0.02, "ci_low": 0.01, "ci_high": 0.03, "settings": 3}
    every |= {"topics": {"ci_low": -0.01, "ci_high": 0.05}, "questions": 3000}
    grid = {"splits": {}, "pooled": every, "points": [{}] * 3}
    grid["winners"] = {"better": 2, "equal": 1, "worse": 0, "significant": 1}
    first, second = summary(grid).splitlines()
    assert first == headline(grid)
    assert "the mean gain is +2.0 points (over topics -1.0 to +5.0, over questions +1.0 to +3.0)" in second
    assert "2 of 3 settings gain, 1 are equal, 0 lose; 1 change significantly (Holm)" in second


def test_a_repeat_without_a_flip_has_no_noise(runs: list[Path]) -> None:
    point = read_point(runs[0])
    same = compared(point, runs[0] / "variants" / "repeat")
    assert (same["flips_base"], same["flips_writeback"], same["difference"]) == (0.0, 0.0, 0.0)
    other = compared(point, runs[0] / "variants" / "placebo-raw")
    assert other["flips_base"] == 0.0
    assert other["flips_writeback"] == pytest.approx(23 / 90)
    assert other["difference_low"] <= other["difference"] <= other["difference_high"]


def test_a_variant_of_other_questions_is_refused(runs: list[Path], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", *POPULATION, config_of("naive", "nq"))
    write_metrics(run, *POPULATION)
    with pytest.raises(RunError, match="other questions than those of"):
        compared(read_point(runs[0]), run)


def test_two_runs_of_one_setting_are_refused(runs: list[Path], tmp_path: Path) -> None:
    twin = write_run(tmp_path / "twin", *POPULATION, config_of("naive", "nq"))
    write_metrics(twin, *POPULATION)
    with pytest.raises(RunError, match=r"twin: the same setting as .*nq-naive: micro_small / naive / nq"):
        read_points([runs[0], twin])


def test_runs_without_units_or_variants_are_reported(tmp_path: Path) -> None:
    rows = [prediction(metadata="{}", answer_writeback="Port Elden", documents_writeback=[])]
    run = write_run(tmp_path / "run", [gated()], rows, config_of("naive", "nq"))
    write_metrics(run, [gated()], rows)
    grid = write_grid_report(tmp_path / "out", [run])
    assert grid["pooled"]["gain"] == 0.0
    names = ("placebos", "repeat", "transfer", "ablation", "judge")
    assert [grid[name] for name in names] == [{}] * 5
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Figure 4" not in text
    (reasons,) = grid["not_improved"].values()
    assert reasons["why"] == "No unit was written: delta <= tau_delta, before the call, for 1 of 1 examples."
    assert "No unit was written" in text
    assert "Too few answers to tell what write-back does: 0.0 points, and of 1 answers there is no interval" in text


def test_the_headline_is_of_unseen_questions_and_claims_no_more_than_its_interval() -> None:
    over = {"ci_low": 0.01, "ci_high": 0.07}
    seen = {"gain": 0.04, **over, "topics": over, "settings": 48, "questions": 48000}
    unseen = seen | {"gain": 0.01, "topics": {"ci_low": -0.01, "ci_high": 0.03}, "questions": 21000}
    told = headline({"splits": {"none": unseen}, "pooled": seen})
    assert told.startswith("On test questions without overlap with training, write-back shows no change")
    assert "+1.0 points, 95% interval over topics -1.0 to +3.0, 21,000 answers" in told
    assert headline({"splits": {}, "pooled": seen}).startswith(
        "Write-back raises the mean score over 48 settings: +4.0"
    )
    fallen = unseen | {"topics": {"ci_low": -0.05, "ci_high": -0.01}}
    assert "write-back lowers" in headline({"splits": {"none": fallen}, "pooled": seen})


def test_the_command_writes_the_report_and_names_what_it_cannot_read(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "wbrag.experiments.grid_report"]
    ended = subprocess.run(
        [*command, *map(str, runs), "--out", str(tmp_path / "o")], capture_output=True, text=True, check=True
    )
    assert "points, 95% interval" in ended.stdout
    assert (tmp_path / "o" / "plots" / "transfer-nq-micro-small.svg").is_file()
    monkeypatch.setattr("sys.argv", ["grid_report", str(tmp_path), "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as bad:
        main()
    assert bad.value.code == 2
    assert f"{tmp_path}/config.yaml: no such file" in capsys.readouterr().err


def test_the_papers_figures_are_found_by_our_names() -> None:
    assert (family("flashrag_nq"), called("flashrag_nq"), called("micro_small")) == ("nq", "NQ", "micro_small")
    assert known("table2", "benchmark", "flashrag_fever") == 4.79
    assert known("table2", "backbone", "micro_small") is known("table4", "tau_x", "0.1") is None
    found = cell("gemma3_12b", "flare", "nq")
    assert found is not None
    assert (found["score"], found["gain"]) == (42.83, 3.41)
    assert cell("micro_small", "flare", "nq") is None
    assert (statistic("fallback_rate", "squad"), statistic("fallback_rate", "nq")) == ("96.2", "-")
    assert sorted(["toy", "squad", "nq"], key=place) == ["nq", "squad", "toy"]


def test_a_variant_belongs_to_the_run_around_it() -> None:
    assert trained_run(Path("/r/nq/variants/repeat")) == trained_run(Path("/r/nq/evaluations/x")) == Path("/r/nq")
    assert trained_run(Path("/r/nq")) == Path("/r/nq")
