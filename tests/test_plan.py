"""What a run will ask for: the arithmetic, the sample that feeds it, the jobs that tell it, the report after it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from forked import run_program
from hypothesis import given
from hypothesis import strategies as st
from small_store import passages as rows_of_passages
from small_store import publish, unit_vectors
from test_pipeline import TOWNS, question, settings, world, write_lines

from wbrag.config import Backbone, ConfigError, Method, Planning, TrainConfig, Units
from wbrag.data.benchmarks import InputError
from wbrag.prompts import Prompts
from wbrag.run.inputs import check_planning
from wbrag.run.pipeline import train
from wbrag.run.plan import (
    SUMMED,
    Plan,
    Sizes,
    counters,
    gpu_hours,
    measured,
    passages,
    planned,
    price,
    steps_of,
    told,
    total,
)

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = {
    **{"question": (60.0, 6.0), "documents": (700.0, 6.0), "document": (200.0, 6.0)},
    **{"extract": (330.0, 80.0), "rewrite": (160.0, 70.0)},
}
METHODS = [Method("naive"), Method("replug"), Method("selfrag"), Method("selfrag", mode="tokens"), Method("flare")]
UNITS = [
    *(Units(), Units(form="verbatim", scope="subject", validate=True), Units(form="verbatim", evidence="llm")),
    *(Units(faithful=True), Units(scope="subject", faithful=True, critic="none")),
]
configs = st.builds(
    TrainConfig,
    method=st.sampled_from(METHODS),
    units=st.sampled_from(UNITS),
    judge=st.sampled_from(["labels", "llm"]),
    k=st.integers(1, 10),
    planning=st.builds(
        Planning,
        kept=st.lists(st.floats(0, 0.5), min_size=3, max_size=3).map(sorted),
        known=st.floats(0, 0.5),
    ),
)
counts = st.integers(0, 100_000)


def sizes(examples: int, questions: int) -> Sizes:
    return Sizes(examples, questions, LENGTHS)


@given(configs, counts, counts)
def test_totals_are_the_sums_of_steps_and_rise_with_the_share_that_is_kept(cfg: TrainConfig, n: int, m: int) -> None:
    plan = planned(cfg, sizes(n, m))
    least, expected, most = plan.totals
    for key in SUMMED:
        summed = math.fsum(getattr(step, key) for step in plan.steps)
        assert getattr(expected, key) == pytest.approx(summed)
        assert getattr(least, key) <= getattr(expected, key) * (1 + 1e-9)
        assert getattr(expected, key) <= getattr(most, key) * (1 + 1e-9)


@given(configs, counts, counts, st.integers(1, 1000))
def test_more_examples_questions_or_documents_never_ask_for_less(cfg: TrainConfig, n: int, m: int, more: int) -> None:
    asked = total(steps_of(cfg, sizes(n, m), 0.2))
    others = [(cfg, sizes(n + more, m)), (cfg, sizes(n, m + more)), (replace(cfg, k=cfg.k + 1), sizes(n, m))]
    for changed, size in others:
        now = total(steps_of(changed, size, 0.2))
        assert all(getattr(now, key) >= getattr(asked, key) * (1 - 1e-9) for key in SUMMED)


@given(counts, st.floats(0, 1), st.integers(1, 10))
def test_naive_rag_without_what_is_saved_is_the_papers_plan_with_a_distiller_of_two_steps(
    n: int, kept: float, k: int
) -> None:
    cfg = TrainConfig(k=k, planning=Planning(kept=[kept] * 3, known=0.0))
    plan = planned(cfg, sizes(n, 0))
    training = sum(step.calls for step in plan.steps if step.part == "training")
    assert plan.paper_calls == pytest.approx(2 * n + n * kept * (k + 1))
    assert training == pytest.approx(plan.paper_calls + n * kept)


def test_answers_that_another_run_has_closed_book_are_not_counted_again() -> None:
    cfg = TrainConfig(planning=Planning())
    whole, rest = planned(cfg, sizes(1000, 300)), planned(cfg, sizes(1000, 300), closed_book=False)
    assert whole.totals[1].calls - rest.totals[1].calls == 1300
    assert not [step for step in rest.steps if step.name == "closed book"]


def test_steps_count_to_the_parts_of_a_runs_cost_and_units_of_the_corpus_own_words_cost_nothing() -> None:
    by_subject = Units(form="verbatim", scope="subject", validate=True)
    parts = [step.part for step in steps_of(TrainConfig(units=by_subject), sizes(100, 10), 0.2)]
    assert parts == ["training"] * 3 + ["validating"] + ["evaluation"] * 2
    faithful = steps_of(TrainConfig(units=Units(faithful=True)), sizes(100, 10), 0.2)
    assert [(step.part, step.calls) for step in faithful if step.name == "units"] == [("writing", 60.0)]


@pytest.mark.parametrize(
    ("kept", "known"),
    [([0.1, 0.2], 0.0), ([0.2, 0.1, 0.3], 0.0), ([-0.1, 0.1, 0.2], 0.0), ([0.1, 0.2, 0.9], 0.2), ([0.1, 0.2, 0.3], -1)],
)
def test_shares_that_are_none_are_refused_with_both_settings(kept: list[float], known: float) -> None:
    with pytest.raises(ConfigError, match=r"^planning\.kept=\[.*\] and planning\.known=.*: give the least"):
        check_planning(Planning(kept=kept, known=known))


def test_hours_and_price_follow_from_tokens() -> None:
    step = total(steps_of(TrainConfig(), sizes(7_200, 0), 0.0))
    tokens = 7_200 * (66 + 0.75 * 706)
    tariff = Planning(price_in=0.5, price_out=2.0)
    assert gpu_hours(step, 1000.0) == pytest.approx(tokens / 1000 / 3600)
    assert price(step, tariff) == pytest.approx((7_200 * (60 + 0.75 * 700) * 0.5 + 7_200 * 1.75 * 6 * 2.0) / 1e6)


def test_a_plan_is_told_with_its_range() -> None:
    planning = Planning(kept=[0.0, 0.1, 0.2], tokens_per_second=10_000, price_in=0.1)
    plan: Plan = planned(TrainConfig(planning=planning), sizes(10_000, 0))
    text = told([("run", plan.totals[1])], [plan, plan], planning)
    assert "together, 0% kept" in text
    assert "35,000" in text  # 2 runs of 10,000 closed book and 7,500 with documents
    assert "training by the paper's plan, 10% kept" in text
    assert "52,000" in text  # 2 (2 N + 0.1 N (K + 1))
    assert "at 10,000 tokens a second and GPU" in text
    assert "at 0.1 and 0 a million prompt and completion tokens" in text
    silent = told([("run", plan.totals[1])], [plan], Planning())
    assert "GPU-hours: give planning.tokens_per_second" in silent
    assert "price: give planning.price_in" in silent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("plan") / "world", train_rows=40)


def test_lengths_are_those_of_the_prompts_that_the_run_sends(data: Path, tmp_path: Path) -> None:
    found = measured(settings(data, tmp_path / "run"))
    assert (found.train, found.test) == (40, 20)
    asked = [question(i, "x")["question"] for i in (*range(40), *range(20))]
    words = [len(Prompts().message("closed_book_factoid", question=text).split()) for text in asked]
    assert found.lengths["question"] == (
        pytest.approx(sum(words) / 60),
        2.0,
    )  # a golden answer of one word, and its end
    one, all_three = (found.lengths[kind][0] for kind in ("document", "documents"))
    # "Document 2 (Title: Town 3):" and three sentences of six words.
    assert all_three - one == pytest.approx(2 * (5 + 18))
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_is_planned_no_longer_than_the_model_takes(data: Path, tmp_path: Path) -> None:
    short = Backbone(name="scripted", kind="scripted", model="scripted", max_model_len=40)
    found = measured(settings(data, tmp_path / "run", backbone=short))
    assert found.lengths["documents"][0] == 40 - found.lengths["documents"][1]


def test_passages_come_from_anywhere_in_the_corpus_and_bad_lines_are_passed_over(data: Path, tmp_path: Path) -> None:
    cfg = settings(data, tmp_path / "run")
    drawn = passages(cfg, 400)
    assert {one.id for one in drawn} == {f"p{i}" for i in range(TOWNS)}
    assert passages(cfg, 400) == drawn
    one = write_lines(tmp_path / "one.jsonl", [{"id": "p", "contents": "T\nText."}])
    assert {found.title for found in passages(replace(cfg, corpus=str(one)), 5)} == {"T"}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": \n' * 20)
    with pytest.raises(InputError, match=r"bad\.jsonl: no passage that can be read at its beginning"):
        passages(replace(cfg, corpus=str(bad)), 5)
    with pytest.raises(InputError, match="none: no such file"):
        passages(replace(cfg, corpus=str(tmp_path / "none")), 5)


def test_passages_come_from_a_base_that_is_given(data: Path, tmp_path: Path) -> None:
    publish(tmp_path / "base", unit_vectors(50), rows_of_passages(50), "e", {})
    cfg = settings(data, tmp_path / "run", corpus="", base=str(tmp_path / "base"))
    assert len({one.id for one in passages(cfg, 20)}) == 20
    assert {one.id for one in passages(cfg, 99)} == {f"p{i}" for i in range(50)}


def test_tokens_are_counted_as_each_kind_of_backbone_counts_them(tiny_model: Path) -> None:
    prompt, text = counters(Backbone("tiny", model=str(tiny_model)))
    assert (prompt("hello"), text("hello")) == (text("hello") + 4, text("hello"))  # BOS, user, EOS, assistant
    remote = Backbone("r", kind="openai", model="m", base_url="http://127.0.0.1:9/v1")
    prompt, text = counters(remote)
    assert (prompt("a" * 40), text("a" * 40)) == (26, 10)


def command(data: Path, run: Path) -> list[str]:
    files = [f"benchmark.{split}={data / split}.jsonl" for split in ("train", "test")]
    given = ["benchmark=files", *files, f"corpus={data / 'corpus.jsonl'}", "backbone=scripted", "encoder=hashing"]
    return ["train", *given, "units=paper", f"run_dir={run}"]


def stdout_of(job: str, *given: str) -> str:
    """What a job prints; it has to end with 0."""
    ended = run_program(ROOT / "jobs" / f"{job}.py", *given, folder=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def files_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_plan_true_tells_a_runs_steps_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    before = files_in(data)
    job, *asked = command(data, tmp_path / "run")
    text = stdout_of(job, *asked, "plan=true", "planning.tokens_per_second=1000", "planning.kept=[0.1,0.2,0.5]")
    assert text.startswith("files: 40 training, 20 test questions\n")
    rows = {line.split("  ")[0]: line.split()[-3] for line in text.splitlines() if line.startswith(("train", "eval"))}
    assert rows["training: closed book"] == "40"
    assert rows["training: with documents"] == "30"
    assert rows["training: each document alone"] == "40"
    assert rows["training: units"] == "16"
    assert rows["evaluation: base, then with write-back"] == "40"
    assert "GPU-hours: 0." in text
    assert files_in(data) == before
    assert list(tmp_path.iterdir()) == []


def test_plan_true_tells_the_points_of_a_grid_that_share_closed_book_answers(data: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "nq").mkdir(parents=True)
    for name, target in {"train": "nq/train", "test": "nq/test", "corpus": "corpus"}.items():
        (tmp_path / "world" / f"{target}.jsonl").write_bytes((data / f"{name}.jsonl").read_bytes())
    before, nothing = files_in(tmp_path), [f"{key}=[]" for key in ("transfer", "ablate", "placebo", "repeat", "judge")]
    grid = ["backbones=[scripted]", "benchmarks=[nq]", "methods=[naive,flare]", "overrides=['units=paper']", *nothing]
    text = stdout_of("reproduce", f"world={tmp_path / 'world'}", f"run_dir={tmp_path / 'run'}", *grid, "plan=true")
    rows = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in text.splitlines() if "/nq/" in line}
    naive = 40 + 30 + 40 * 0.15 * (5 + 2) + 3 * 20
    assert rows == {"scripted/nq/naive": round(naive), "scripted/nq/flare": round(naive - 60 + 30 + 40)}
    assert files_in(tmp_path) == before


def test_an_evaluation_has_no_plan(data: Path, tmp_path: Path) -> None:
    _, *asked = command(data, tmp_path / "run")
    ended = run_program(ROOT / "jobs" / "evaluate.py", *asked, "plan=true", folder=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()[-1][:16]) == (2, "error: plan=true")


def test_a_run_that_is_told_a_rate_shows_its_plan_beside_what_came(
    data: Path, tmp_path: Path, ray_session: None
) -> None:
    all_kept = Planning(kept=[1.0, 1.0, 1.0], known=0.0, tokens_per_second=1000.0)
    cfg = settings(data, tmp_path / "run", planning=all_kept, cache_dir=str(tmp_path / "cache"))
    cost = train(cfg)["cost"]
    steps = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["steps"]
    plan = {part: sum(step["calls"] for step in steps if step["part"] == part) for part in ("training", "evaluation")}
    assert plan == {"training": 40 * (2 + 3 + 2), "evaluation": 3 * 20}
    assert plan["training"] >= cost["training"]["paper_calls"] >= cost["training"]["calls"] > 0
    assert plan["evaluation"] >= cost["evaluation"]["calls"] > 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "LLM calls, planned" in report
    row = next(line for line in report.splitlines() if line.startswith("| training |")).split("|")
    assert [cell.strip() for cell in row[2:4]] == ["280", f"{cost['training']['calls']:,}"]
