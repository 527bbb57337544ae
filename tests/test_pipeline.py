"""The whole job on a scripted generator and a hashing encoder, with Ray: results, resume, budgets, refusals."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import run_program
from hypothesis import given
from hypothesis import strategies as st
from small_store import rows_in

from wbrag.config import (
    Backbone,
    Benchmark,
    BuildConfig,
    Cluster,
    CompareConfig,
    ConfigError,
    Encoder,
    Index,
    Merge,
    Method,
    ReproduceConfig,
    TrainConfig,
    Units,
)
from wbrag.data.benchmarks import OverErrorBudget
from wbrag.run import job
from wbrag.run.actors import Generator
from wbrag.run.folder import read_left_out, unit_rows
from wbrag.run.inputs import (
    check_paths,
    check_settings,
    closed_book_identity,
    identity_of,
    over_budget,
    read_inputs,
    refuse_other_settings,
)
from wbrag.run.job import Session
from wbrag.run.pipeline import base_index, build_index, evaluate, retrieve, train
from wbrag.run.progress import Counts, status
from wbrag.run.record import open_record
from wbrag.run.writeback import units_of
from wbrag.schema import RETRIEVED, TRACE
from wbrag.store.files import StoreError
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import latest, named

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs" / "train.py"
THINGS = ("mayor", "river", "hill")
TOWNS = 30


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def question(number: int, split: str) -> dict[str, Any]:
    """Question `number`: the answer stands in the passage of its town, and never closed book."""
    thing, town = THINGS[number % 3], number % TOWNS
    text = f"What is the {thing} of town{town}?"
    return {"id": f"{split}{number}", "question": text, "golden_answers": [f"{thing.title()}{town}"]}


def world(folder: Path, train_rows: int, test_rows: int = 20) -> Path:
    """A corpus of one passage a town, and questions on it."""
    folder.mkdir()
    facts = [" ".join(f"The {thing} of town{i} is {thing.title()}{i}." for thing in THINGS) for i in range(TOWNS)]
    write_lines(folder / "corpus.jsonl", [{"id": f"p{i}", "contents": f"Town {i}\n{facts[i]}"} for i in range(TOWNS)])
    write_lines(folder / "train.jsonl", [question(i, "train") for i in range(train_rows)])
    write_lines(folder / "test.jsonl", [question(i, "test") for i in range(test_rows)])
    return folder


def settings(data: Path, run: Path, **changes: object) -> TrainConfig:
    files = {"train": str(data / "train.jsonl"), "test": str(data / "test.jsonl")}
    small = Cluster(block_rows=16, examples_in_flight=32)
    cfg = TrainConfig(
        benchmark=Benchmark(name="towns", **files),
        backbone=Backbone(name="scripted", kind="scripted", model="scripted"),
        encoder=Encoder(name="hashing", kind="hashing", model="hashing", dimension=256),
        cluster=small,
        corpus=str(data / "corpus.jsonl"),
        run_dir=str(run),
        cache_dir=str(data / "cache"),
        k=3,
    )
    return replace(cfg, **changes)


def ids_of(folder: Path) -> list[str]:
    return sorted(pq.read_table(folder, columns=["id"])["id"].to_pylist())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("pipeline") / "world", train_rows=60)


@pytest.fixture(scope="module")
def trained(data: Path, ray_session: None) -> TrainConfig:
    cfg = settings(data, data.parent / "run")
    train(cfg)
    return cfg


def test_every_id_is_written_once(trained: TrainConfig) -> None:
    run = Path(trained.run_dir)
    assert ids_of(run / "traces") == sorted(f"train{i}" for i in range(60))
    assert ids_of(run / "predictions") == sorted(f"test{i}" for i in range(20))
    assert pq.read_table(run / "traces").schema.equals(TRACE)


def test_run_folder_is_complete(trained: TrainConfig) -> None:
    run = Path(trained.run_dir)
    names = {"config.yaml", "run.json", "quarantine.jsonl", "metrics.json", "report.md", "report.html", "writeback"}
    assert names <= {path.name for path in run.iterdir()}
    facts = json.loads((run / "run.json").read_text())
    assert facts["stores"] == {"base": 1, "writeback": 1}
    assert {"index", "retrieve", "train", "write_back", "predict"} <= set(facts["seconds"])
    assert facts["work"]["train"]["begun"] == 60
    assert facts["versions"]["ray"]


def test_kept_units_are_published_and_found(trained: TrainConfig, tmp_path: Path) -> None:
    run = Path(trained.run_dir)
    units = list(unit_rows(run))
    assert units == list(units_of(run / "traces", tmp_path))
    assert read_left_out(run) == []
    published, base = latest(run / "writeback"), latest(run / "base")
    assert published is not None
    assert base is not None
    assert 0 < len(units) == published.rows
    assert published.base == named(base)
    documents = pq.read_table(run / "predictions")["documents_writeback"].to_pylist()
    found = {d["id"] for row in documents for d in row if d["source"] == "writeback"}
    assert found
    assert found <= {unit["id"] for unit in units}


def test_a_run_lets_go_of_its_stores(trained: TrainConfig) -> None:
    """It read under pins; whoever comes next may collect at once. Nothing of the builds is left lying."""
    for store in (Path(trained.run_dir) / "base", Path(trained.run_dir) / "writeback"):
        assert list((store / "pins").iterdir()) == []
        assert list((store / "pieces").iterdir()) == []


def test_a_run_folder_opens_as_a_knowledge_base(trained: TrainConfig) -> None:
    knowledge = KnowledgeBase.open(Path(trained.run_dir))
    documents = knowledge.search_one("What is the mayor of town3?", 40)
    assert {document.source for document in documents} == {"base", "writeback"}
    assert {d.source for d in knowledge.search_one("What is the mayor of town3?", 40, writeback=False)} == {"base"}


@pytest.mark.slow
def test_f14_order_of_rows_blocks_and_fragments_change_nothing(
    trained: TrainConfig, data: Path, tmp_path: Path
) -> None:
    lines = [line for line in (data / "train.jsonl").read_text().splitlines(keepends=True) if line.strip()]
    random.Random(5).shuffle(lines)
    (tmp_path / "train.jsonl").write_text("".join(lines))
    changed = {"cluster": Cluster(block_rows=5, examples_in_flight=7), "index": Index(fragment_rows=1024)}
    changed |= {"run_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
    benchmark = replace(trained.benchmark, train=str(tmp_path / "train.jsonl"))
    metrics = train(replace(trained, benchmark=benchmark, **changed))
    before, after = Path(trained.run_dir), tmp_path / "run"
    assert (after / "units.parquet").read_bytes() == (before / "units.parquet").read_bytes()
    assert metrics["results"] == json.loads((before / "metrics.json").read_text())["results"]
    for name in ("base", "writeback"):
        assert rows_in(before / name) == rows_in(after / name)


def test_a_base_that_is_there_is_trained_on_without_its_corpus(
    trained: TrainConfig, session: Session, tmp_path: Path
) -> None:
    store = Path(trained.run_dir, "base").resolve()
    files = sorted(path for path in store.rglob("*") if path.is_file())
    given = {"base": str(store), "corpus": "", "run_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
    metrics = train(replace(trained, **given), session)
    assert metrics["results"] == json.loads((Path(trained.run_dir) / "metrics.json").read_text())["results"]
    assert sorted(path for path in store.rglob("*") if path.is_file()) == files
    assert not list((tmp_path / "cache").glob("index-*"))
    wrong = {
        "give one of them": {"corpus": trained.corpus},
        "made with encoder.dimension=256, the run has 64": {"encoder": replace(trained.encoder, dimension=64)},
        "its index is 'flat_fp16', the run has 'ivf_fp16'": {"index": Index("ivf_fp16", nlist=3)},
        "is a run folder; its stores are": {"base": trained.run_dir},
        "reads its base from a folder": {"base": "s3://bucket/base"},
    }
    for told, changes in wrong.items():
        with pytest.raises((ConfigError, StoreError), match=told):
            train(replace(trained, **(given | changes)))


def test_units_beside_take_no_passages_place(trained: TrainConfig, session: Session, tmp_path: Path) -> None:
    beside = Merge("beside", margin=0.1, room=0.5)
    cfg = replace(trained, run_dir=str(tmp_path / "run"), merge=beside, index=Index("ivf_fp16", nlist=3))
    train(cfg, session)
    for row in pq.read_table(tmp_path / "run" / "predictions").to_pylist():
        units = [d for d in row["documents_writeback"] if d["source"] == "writeback"]
        assert row["documents_writeback"] == [*units, *row["documents_base"]]
        assert len(units) <= trained.k == len(row["documents_base"])
        assert all(unit["score"] >= row["documents_base"][0]["score"] - 0.1 for unit in units)
        assert row["calls"] == (2 if units else 1)  # closed-book answers are known already
    primary = json.loads((tmp_path / "run" / "metrics.json").read_text())["results"][0]
    assert 0 < primary["questions_with_writeback"]
    with pytest.raises(ConfigError, match=r"merge\.policy was 'beside', now 'plain'"):
        train(replace(cfg, merge=Merge()))
    with pytest.raises(ConfigError, match=r"merge\.policy='best' is unknown"):
        train(replace(cfg, merge=Merge("best")))


def test_the_same_answer_serves_equal_documents(trained: TrainConfig) -> None:
    rows = pq.read_table(Path(trained.run_dir) / "predictions").to_pylist()
    texts = [[[d["text"] for d in row[f"documents_{side}"]] for side in ("base", "writeback")] for row in rows]
    # Closed book they were asked while training: its questions are the same.
    assert [row["calls"] for row in rows] == [1 if base == both else 2 for base, both in texts]


def test_one_new_question_costs_one_retrieval_and_one_closed_book_answer(
    trained: TrainConfig, data: Path, session: Session, tmp_path: Path
) -> None:
    cache, new = data / "cache", "Tell me: what is the river of town3?"
    before = set(cache.glob("*/*.arrow"))
    rows = [{"id": "new", "question": new, "golden_answers": ["River3"]}, *(question(i, "test") for i in range(20))]
    test = write_lines(tmp_path / "test.jsonl", rows)
    benchmark = replace(trained.benchmark, test=str(test))
    train(replace(trained, benchmark=benchmark, run_dir=str(tmp_path / "run")), session)
    added = {file.parent.name: pa.ipc.open_file(file).read_all() for file in {*cache.glob("*/*.arrow")} - before}
    assert sorted(name.rpartition("-")[0] for name in added) == ["closed-book", "retrieved"]
    assert all(rows["question"].to_pylist() == [new] for rows in added.values())
    mine, theirs = (
        {row["id"]: row["documents_base"] for row in pq.read_table(run / "predictions").to_pylist()}
        for run in (Path(trained.run_dir), tmp_path / "run")
    )
    assert theirs.pop("new")
    assert mine == theirs


def test_runs_without_a_new_question_retrieve_nothing(
    trained: TrainConfig, data: Path, session: Session, tmp_path: Path
) -> None:
    before = set((data / "cache").glob("*/*.arrow"))
    train(replace(trained, run_dir=str(tmp_path / "run"), method=Method(name="flare")), session)
    assert set((data / "cache").glob("*/*.arrow")) == before
    mine, theirs = (pq.read_table(run / "questions") for run in (Path(trained.run_dir), tmp_path / "run"))
    assert mine.equals(theirs)


def test_two_bases_of_one_name_and_version_do_not_share_what_was_found(
    trained: TrainConfig, data: Path, session: Session, tmp_path: Path
) -> None:
    """In the other one every passage was changed, and that of town 1 is gone: it is not found any more (F10)."""
    other = world(tmp_path / "world", train_rows=2, test_rows=2)
    corpus = (other / "corpus.jsonl").read_text().replace(" is ", " is now ").splitlines(keepends=True)
    (other / "corpus.jsonl").write_text("".join(line for line in corpus if '"p1"' not in line))
    theirs = settings(other, tmp_path / "none", cache_dir=str(tmp_path / "theirs"))
    encoders = session.open(theirs).encoders
    found = []
    for name, made in (
        ("own", (Path(trained.run_dir) / "base").resolve()),
        ("other", base_index(theirs, read_inputs(theirs), encoders)),
    ):
        shutil.copytree(made, tmp_path / name / "base")
        cfg = settings(data, tmp_path / f"run-{name}", cache_dir=str(tmp_path / "cache"))
        cfg = replace(cfg, base=str(tmp_path / name / "base"), corpus="")
        given = read_inputs(cfg)
        out = retrieve(cfg, given, base_index(cfg, given, encoders), Path(cfg.run_dir) / "questions", encoders)
        documents = [document for rows in pq.read_table(out)["documents"].to_pylist() for document in rows]
        changed = {" is now " in document["text"] for document in documents}
        found.append((changed, "p1" in {document["id"] for document in documents}))
    assert found == [({False}, True), ({True}, False)]


def test_a_finished_run_is_not_done_again(trained: TrainConfig) -> None:
    run = Path(trained.run_dir)
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    work = json.loads((run / "run.json").read_text())["work"]
    before = latest(run / "writeback")
    train(trained)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")} == files
    assert json.loads((run / "run.json").read_text())["work"] == work
    assert latest(run / "writeback") == before


def test_other_settings_do_not_mix_into_a_run(trained: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"holds a run of other settings \(gates.tau_s was 0.1, now 0.5\)"):
        train(replace(trained, gates=replace(trained.gates, tau_s=0.5)))


def test_a_trained_store_is_evaluated_on_another_file(trained: TrainConfig, session: Session, tmp_path: Path) -> None:
    other = write_lines(tmp_path / "other.jsonl", [question(i, "other") for i in range(7)])
    folder, metrics = evaluate(replace(trained, benchmark=replace(trained.benchmark, test=str(other))), session)
    assert ids_of(folder / "predictions") == [f"other{i}" for i in range(7)]
    assert metrics["questions"] == {"n": 7, "failed": 0}
    assert len(ids_of(Path(trained.run_dir) / "predictions")) == 20


def test_failed_examples_count_against_the_budget(data: Path, session: Session, tmp_path: Path) -> None:
    rows = [question(i, "train") for i in range(10)]
    rows[3]["question"] = "Is this an unanswerable question?"
    bad = write_lines(tmp_path / "train.jsonl", rows)
    cfg = settings(data, tmp_path / "run", max_error_rate=0.05)
    cfg = replace(cfg, benchmark=replace(cfg.benchmark, train=str(bad)))
    with pytest.raises(OverErrorBudget, match=r"1 of 10 rows failed .* 'train3': RuntimeError: scripted failure"):
        train(cfg, session)
    assert not (tmp_path / "run" / "units.parquet").exists()
    train(replace(cfg, max_error_rate=0.2), session)  # all is asked already
    assert ids_of(tmp_path / "run" / "traces") == sorted(f"train{i}" for i in range(10))
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["work"]["train"]["begun"] == 10


def test_inputs_over_the_budget_leave_the_quarantine_of_the_run_that_is_there(
    trained: TrainConfig, tmp_path: Path
) -> None:
    bad = tmp_path / "train.jsonl"
    bad.write_text(Path(trained.benchmark.train).read_text() + "{broken\n" * 9)
    quarantine = tmp_path / "new" / "quarantine.jsonl"
    for run in (trained.run_dir, str(tmp_path / "new")):
        cfg = replace(trained, run_dir=run, benchmark=replace(trained.benchmark, train=str(bad)))
        with pytest.raises(OverErrorBudget, match="9 of 69 rows are bad"):
            train(cfg)
    assert (Path(trained.run_dir) / "quarantine.jsonl").read_text() == ""
    assert len(quarantine.read_text().splitlines()) == 9


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    """What a user gives the job."""
    files = [f"benchmark.{split}={data / split}.jsonl" for split in ("train", "test")]
    small = ["cluster.block_rows=8", "cluster.examples_in_flight=16", "cluster.object_store_mib=200"]
    fixed = [
        "benchmark=files",
        "backbone=scripted",
        "encoder=hashing",
        "k=3",
        "units=paper",
        f"corpus={data / 'corpus.jsonl'}",
    ]
    return [*fixed, *files, *small, f"run_dir={run}", f"cache_dir={run.parent / 'cache'}", *more]


def committed(run: Path) -> set[Path]:
    """The files of traces that are noted as written."""
    return {p for p in run.glob("checkpoints/*/traces/*.parquet") if ".pending." not in p.name}


def test_blocks_of_a_large_table_are_one_file_and_what_a_kill_left_of_one_is_asked_again(
    data: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TABLE_FILES", 2)  # of 60 rows in blocks of 16: two blocks or three, and what is left
    cfg, traces = settings(data, tmp_path / "run"), tmp_path / "run" / "traces"
    train(cfg, session)
    spent = ["seconds", "calls", "calls_saved", "prompt_tokens", "completion_tokens"]  # closed book is known by then
    before = pq.read_table(traces).sort_by("id").drop_columns(spent)
    rows = {file.stem.removesuffix("-0"): pq.read_metadata(file).num_rows for file in traces.glob("*.parquet")}
    assert (len(rows), sum(rows.values())) == (2, 60)
    assert {file.stem for file in committed(tmp_path / "run")} == set(rows)
    noted = min(committed(tmp_path / "run"))  # its file was written, and then came the kill
    noted.rename(noted.with_name(f"{noted.stem}.pending.parquet"))
    train(cfg, session)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["work"]["train"]["begun"] == rows[noted.stem]
    assert pq.read_table(traces).sort_by("id").drop_columns(spent).equals(before)


def test_flare_searches_where_the_reader_is_not_sure_and_says_how_often(
    data: Path, session: Session, tmp_path: Path
) -> None:
    """Nobody knows of harbours, so those are searched for; base answers from the corpus alone."""
    rows = [question(i, "test") for i in range(12)]
    rows += [
        {**row, "id": f"h{row['id']}", "question": f"What is the harbour of town{i}?"} for i, row in enumerate(rows)
    ]
    test = write_lines(tmp_path / "test.jsonl", rows)
    cfg = settings(data, tmp_path / "run", method=Method(name="flare"), train_limit=20)
    primary = train(replace(cfg, benchmark=replace(cfg.benchmark, test=str(test))), session)["results"][0]
    assert 0.5 <= primary["retrieval_rate_base"] < 1.0
    assert primary["retrievals_per_question_base"] == primary["retrieval_rate_base"]
    assert 0.5 <= primary["retrieval_rate_writeback"] < 1.0
    predictions = pq.read_table(tmp_path / "run" / "predictions").to_pylist()
    assert all(row["error"] is None for row in predictions)
    assert {row["retrievals_base"] for row in predictions if row["id"].startswith("h")} == {1}
    traces = pq.read_table(tmp_path / "run" / "traces").to_pylist()
    assert {row["status"] for row in traces} <= {"kept", "gated"}
    assert all(row["retrievals"] is not None for row in traces if row["s_rag"] is not None)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "train.jsonl",
            '{"id": "a", "question": "q", "golden_answers": ["x"]}\n' * 2,
            "id 'a' is on line 1 and again on line 2",
        ),
        ("corpus.jsonl", "", "no valid row"),
        ("test.jsonl", "{broken\n", "line 1"),
    ],
)
def test_bad_inputs_exit_with_2_and_name_file_and_line(
    data: Path, tmp_path: Path, file: str, text: str, told: str
) -> None:
    bad = tmp_path / file
    bad.write_text(text)
    key = "corpus" if file == "corpus.jsonl" else f"benchmark.{bad.stem}"
    ended = run_program(JOB, *arguments(data, tmp_path / "run", f"{key}={bad}"), folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert str(bad) in ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_exits_with_2_and_is_named(data: Path, tmp_path: Path) -> None:
    ended = run_program(JOB, *arguments(data, tmp_path / "run", "gates.tau_x=1"), folder=tmp_path)
    assert ended.returncode == 2
    assert "gates.tau_x" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("method", "calls"), [("naive", 2), ("replug", 3)])
def test_a_block_comes_back_in_input_order(method: str, calls: int) -> None:
    cfg = settings(Path("none"), Path("none"), cluster=Cluster(examples_in_flight=3), method=Method(method))
    document = {"id": "p", "title": "t", "text": "The mayor of town2 is Mayor2.", "score": 0.5, "source": "base"}
    documents = [document, document | {"id": "q", "score": 0.4}]
    rows = [{**question(i, "train"), "metadata": "{}", "documents": documents} for i in range(20)]

    async def work() -> pa.Table:
        return await Generator(cfg).train(pa.Table.from_pylist(rows, RETRIEVED), cfg)

    made = asyncio.run(work())
    assert made.schema.equals(TRACE)
    assert made["id"].to_pylist() == [row["id"] for row in rows]
    assert made["calls"][0].as_py() == calls


def test_a_methods_settings_change_a_runs_identity(data: Path, tmp_path: Path) -> None:
    warm, cold = (settings(data, tmp_path, method=Method("replug", temperature=t)) for t in (1.0, 0.1))
    assert identity_of(warm)["method.temperature"] == 1.0
    assert {k for k, v in identity_of(cold).items() if v != identity_of(warm)[k]} == {"method.temperature"}


def test_judge_merge_and_units_change_a_runs_identity(data: Path, tmp_path: Path) -> None:
    plain = identity_of(settings(data, tmp_path))
    for changed, keys in (
        ({"judge": "llm"}, {"judge"}),
        ({"merge": Merge("beside")}, {"merge.policy", "merge.margin", "merge.room", "merge.reach"}),
        ({"units": Units("x", form="verbatim", hops=1)}, {"units.form", "units.hops"}),
        ({"merge": Merge("plain", margin=0.5), "units": Units("other name")}, set()),
        ({"seed": 3}, set()),
        ({"test_limit": 5}, {"test_limit", "seed"}),  # the seed draws them
    ):
        now = identity_of(replace(settings(data, tmp_path), **changed))
        assert {key for key in now if key not in plain or now[key] != plain[key]} == keys


def test_closed_book_answers_are_shared_by_methods_that_read_them_alike(data: Path, tmp_path: Path) -> None:
    naive, flare, spoken = (
        closed_book_identity(settings(data, tmp_path, method=method))
        for method in (Method("naive"), Method("flare", theta=0.9), Method("selfrag", mode="tokens"))
    )
    assert naive == flare != spoken


def test_more_documents_than_sequences_are_refused_for_replug(data: Path, tmp_path: Path) -> None:
    few = Backbone(name="scripted", kind="scripted", model="scripted", max_num_seqs=2)
    check_settings(settings(data, tmp_path, backbone=few))
    with pytest.raises(ConfigError, match=r"k=3: replug .* backbone\.max_num_seqs=2"):
        check_settings(settings(data, tmp_path, backbone=few, method=Method("replug")))


@pytest.mark.parametrize(
    ("units", "told"),
    [
        (Units(form="copied"), "units.form='copied' is unknown; known are distilled, verbatim"),
        (Units(scope="topic"), "units.scope='topic' is unknown; known are question, subject"),
        (Units(evidence="nli"), "units.evidence='nli' is unknown; known are encoder, llm"),
        (Units(sentences=0), "units.sentences=0: at least 1 is needed"),
        (Units(search=0), "units.search=0"),
        (Units(hops=-1), "units.hops=-1: at least 0"),
        (Units(tokens=15), "units.tokens=15: at least 16"),
        (Units(form="verbatim", faithful=True), "units.faithful=true with units.form=verbatim"),
    ],
)
def test_units_that_nobody_can_write_are_refused(data: Path, tmp_path: Path, units: Units, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_settings(settings(data, tmp_path, units=units))


def test_equal_units_of_several_examples_are_one(tmp_path: Path) -> None:
    documents = [{"id": f"p{i}", "title": "t", "text": "x", "score": 0.5, "source": "base"} for i in range(2)]
    unit = {"unit_id": "wb-1", "unit_title": "T", "unit_text": "x", "source_tokens": 9, "unit_tokens": 3}
    kept = {"status": "kept", "documents": documents, "kept_ranks": [2], **unit}
    rows = [{"id": "b", **kept}, {"id": "a", **kept}, {"id": "c", "status": "gated"}]
    empty = dict.fromkeys(TRACE.names)
    (tmp_path / "traces").mkdir()
    pq.write_table(pa.Table.from_pylist([{**empty, **row} for row in rows], TRACE), tmp_path / "traces" / "t.parquet")
    (found,) = units_of(tmp_path / "traces", tmp_path)
    assert (found["id"], found["example_ids"], found["source_ids"]) == ("wb-1", ["a", "b"], ["p1"])
    assert (found["subject"], found["form"], found["doubt"]) == ("", "distilled", "")


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        (TrainConfig(run_dir="runs/x"), "run_dir='runs/x' is relative"),
        (TrainConfig(run_dir="/r", cache_dir="cache"), "cache_dir='cache' is relative"),
        (TrainConfig(run_dir="/r", base="base"), "base='base' is relative"),
        (TrainConfig(run_dir="/r", world="w", corpus="w/corpus.jsonl"), "world='w' is relative and not"),
        (TrainConfig(run_dir="/r", corpus="c.jsonl"), "corpus='c.jsonl' is relative and not"),
        (
            TrainConfig(benchmark=Benchmark("b", "/t.jsonl", "t.jsonl"), run_dir="/r"),
            "benchmark.test='t.jsonl' is relative and not",
        ),
        (ReproduceConfig(run_dir="runs/reproduce"), "run_dir='runs/reproduce' is relative"),
        (BuildConfig(corpus="/c.jsonl", store="base"), "store='base' is relative"),
        (CompareConfig(runs=["/r", "r"], report_dir="/o"), "runs='r' is relative"),
        (CompareConfig(runs=["/r"], report_dir="o"), "report_dir='o' is relative"),
    ],
)
def test_relative_paths_are_refused_in_a_submitted_job(
    cfg: object, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"run_dir": "/r", "world": "", "data_dir": "", "corpus": "/c", "benchmark": Benchmark("b", "/t", "/t")}
    if isinstance(cfg, TrainConfig):  # what a command line has to give
        cfg = replace(cfg, **{key: value for key, value in given.items() if getattr(cfg, key) in ("???", Benchmark())})
    check_paths(cfg)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=f"{re.escape(told)}.*: a submitted Ray job runs in a temporary copy"):
        check_paths(cfg)


def test_a_submitted_job_may_read_what_came_with_it_and_write_to_s3(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(data)
    files = {"benchmark": Benchmark("towns", "train.jsonl", "test.jsonl"), "corpus": "corpus.jsonl"}
    check_settings(settings(data, tmp_path, world="", data_dir="", **files))
    check_paths(BuildConfig(corpus="corpus.jsonl", store="s3://bucket/base", cache_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match="cache_dir='cache' is relative"):
        build_index(BuildConfig(corpus="corpus.jsonl", store="s3://bucket/base"))


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)
def test_settings_are_refused_just_when_they_differ(before: dict[str, int], now: dict[str, int]) -> None:
    if before == now:
        refuse_other_settings(Path("r"), before, now)
    else:
        with pytest.raises(ConfigError, match="run_dir=r holds a run of other settings"):
            refuse_other_settings(Path("r"), before, now)


def test_what_is_a_hash_in_an_identity_is_told_by_its_name(data: Path, tmp_path: Path) -> None:
    before = settings(data, tmp_path)
    record = open_record(tmp_path, before, identity_of(before))
    other = write_lines(tmp_path / "other.jsonl", [{"id": "1", "contents": "A\nB."}])
    now = replace(before, corpus=str(other), encoder=replace(before.encoder, model="hashes"), k=4)
    told = rf"\(corpus was {before.corpus}, now {other}; encoder was hashing, now hashes; k was 3, now 4\)"
    with pytest.raises(ConfigError, match=told):
        open_record(tmp_path, now, identity_of(now))
    record.facts["identity"] |= {"benchmark.train": "0" * 64}
    record.save()
    with pytest.raises(ConfigError, match=rf"\(benchmark.train={before.benchmark.train} has changed since\)"):
        open_record(tmp_path, before, identity_of(before))


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_the_budget_is_a_share_of_the_rows(failed: int, good: int, rate: float) -> None:
    rows = failed + good
    error = over_budget("traces", failed, rows, rate, "e")
    assert (error is not None) == (failed / rows > rate)


@given(st.integers(0, 9), st.integers(0, 9))
def test_a_restarted_process_never_counts_backwards(now: int, before: int) -> None:
    assert (Counts(done=now) - Counts(done=before))["done"] == max(0, now - before)


def test_status_line_says_what_is_left() -> None:
    counts = Counts(begun=60, done=50, kept=7, calls=100, prompt_tokens=900, completion_tokens=100)
    line = ", ".join(status("train", before=100, goal=200, counts=counts, seconds=10.0))
    assert line == "train: 150 of 200, 7 kept, 10.0 calls/s, 100 tokens/s, about 10 seconds left"
    assert ", ".join(status("train", 0, 200, Counts(), 12.0)) == "train: 0 of 200, waiting for the engine, 12 s"
