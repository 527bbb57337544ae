"""Units by subject from end to end, on a scripted generator and a hashing encoder, with Ray: what is written, what is
validated with which questions, and that a job killed between two stages ends at the same bytes.

A town's facts lie in two passages, its mayor's in a third; a passage on "Town" misleads the scripted reader wherever it
is read first.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_store import rows_in

from wbrag.config import Backbone, Benchmark, Cluster, Encoder, Merge, TrainConfig, Units
from wbrag.data.benchmarks import OverErrorBudget
from wbrag.experiments.variants import other_units, trained
from wbrag.report.trace import life
from wbrag.retrieval.encoder import nearest_sentences
from wbrag.retrieval.encoding import open_encoder
from wbrag.run import writeback
from wbrag.run.failures import check_errors
from wbrag.run.folder import QUESTIONS, read_left_out, read_traces, unit_rows
from wbrag.run.inputs import identity_of
from wbrag.run.job import Job, Session
from wbrag.run.pipeline import train
from wbrag.run.record import RunRecord, open_record
from wbrag.run.writeback import distinct_units, in_order_of_id, left_out_of, write_back
from wbrag.schema import LEFT, PREDICTION, UNIT, WRITTEN
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import latest
from wbrag.units.sentences import sentences
from wbrag.units.sift import distinct

TREES = ["Oak", "Elm", "Ash", "Birch", "Cedar", "Alder", "Maple", "Rowan", "Hazel", "Linden"]
#: An alias in every golden answer; no passage and no prompt holds it.
GOLD = "Zyxgold"
SUBJECT = Units("subject", form="verbatim", scope="subject", hops=1, validate=True, checks=True)
HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=256)
#: What each stage of write-back leaves, in order; a job may be killed after any of them.
STAGES = ["requests.parquet", "written", "candidates.parquet", "candidates", "readers_known.parquet"]
STAGES += ["readers.parquet", "readings", "left_out.parquet", "units.parquet", "writeback", "predictions"]


def passages() -> list[tuple[str, str, str]]:
    """id, title and text of each passage."""
    idle = "It is not known who wrote this or why it was kept for so long."
    made = [("x", "Town", f"Town mayor is Nobody. Town river is Nowhere. {idle}")]
    for i, tree in enumerate(TREES):
        town, mayor = f"{tree}ton", f"{tree}son"
        more = "Little else is told of the place, and few have been there."
        made.append((f"t{i}", town, f"{town}'s mayor is {mayor}. {town}'s river is {tree}wasser. {more}"))
        more = "Nobody goes up in winter, as the way is long and steep."
        made.append((f"h{i}", f"Hills {i}", f"{town}'s hill is {tree}berg. {more}"))
        more = "The rest of this life is lost, as so much from those years."
        made.append((f"m{i}", mayor, f"{mayor}'s trade is {tree}work. {mayor}'s birthplace is {tree}port. {more}"))
    return made


def asked(split: str, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}-{i:02d}", "question": question, "golden_answers": [answer, f"{GOLD}{i}"]}
        for i, (question, answer) in enumerate(pairs)
    ]


MAYORS = [(f"Who is {tree}ton's town mayor?", f"{tree}son") for tree in TREES]
HILLS = [(f"What is {tree}ton's hill?", f"{tree}berg") for tree in TREES]
TRADES = [(f"What is {tree}son's trade?", f"{tree}work") for tree in TREES]
OTHERS = [("Who is the Town mayor?", "Nobody"), ("What is the capital of France?", "Paris")]
OTHERS += [("What is Elmton's harbour?", "Deep")]
TRAIN = asked("train", *MAYORS[:3], *HILLS[:8], *OTHERS)
TRAP, KNOWN, UNANSWERED = (row["id"] for row in TRAIN[-3:])
TEST = asked("test", *MAYORS[3:], *HILLS[8:], *TRADES)


def settings(data: Path, name: str, **changes: object) -> TrainConfig:
    cfg = TrainConfig(
        benchmark=Benchmark("towns", str(data / "train.jsonl"), str(data / "test.jsonl")),
        backbone=Backbone(name="scripted", kind="scripted", model="scripted"),
        encoder=HASHING,
        cluster=Cluster(block_rows=8, examples_in_flight=16),
        units=SUBJECT,
        merge=Merge("beside", margin=0.1, room=0.5),
        corpus=str(data / "corpus.jsonl"),
        run_dir=str(data / name),
        cache_dir=str(data / "cache"),
        world="",
        data_dir="",
        k=3,
    )
    return replace(cfg, **changes)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writeback")
    write_lines(folder / "corpus.jsonl", [{"id": key, "contents": f"{t}\n{text}"} for key, t, text in passages()])
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "test.jsonl", TEST)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, session: Session) -> Path:
    train(settings(data, "run"), session)
    return data / "run"


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


def test_units_are_what_the_passages_say_of_towns_asked_about_and_of_their_mayors(run: Path) -> None:
    units = list(unit_rows(run))
    assert pq.read_schema(run / "units.parquet").equals(UNIT)
    assert [unit["id"] for unit in units] == sorted(unit["id"] for unit in units)
    texts = {key: text for key, _, text in passages()}
    for unit in units:
        own = [texts[source] for source in unit["source_ids"]]
        assert all(any(sentence in text for text in own) for sentence in sentences(unit["text"]))
        assert (unit["title"], unit["form"]) == (unit["subject"], "verbatim")
    by_subject = {unit["subject"]: unit for unit in units}
    assert sorted(by_subject) == sorted([f"{t}ton" for t in TREES[:8]] + [f"{t}son" for t in TREES[:8]])
    oakton, oakson = by_subject["Oakton"], by_subject["Oakson"]
    assert set(sentences(oakton["text"])) == {
        *("Oakton's mayor is Oakson.", "Oakton's river is Oakwasser.", "Oakton's hill is Oakberg.")
    }
    assert (oakton["example_ids"], sorted(oakton["source_ids"])) == (["train-00", "train-03"], ["h0", "t0"])
    assert (oakson["example_ids"], oakson["source_ids"]) == ([], ["m0"])
    assert not any(GOLD in str(pq.read_table(run / name).to_pylist()) for name in STAGES[:3])


def test_the_store_holds_the_units_and_a_test_question_reads_them(run: Path, data: Path) -> None:
    units, published = list(unit_rows(run)), latest(run / "writeback")
    assert published is not None
    assert published.rows == len(units)
    knowledge = KnowledgeBase.open(run)
    assert knowledge.merge == settings(data, "run").merge != Merge()  # opened as it was measured
    hits = knowledge.search_one("What is Oakson's trade?", 40)
    assert {hit.id for hit in hits if hit.source == "writeback"} <= {unit["id"] for unit in units}
    told = rows_of(run / "predictions")
    assert all(row["answer_writeback"] in row["golden_answers"] for row in told.values())
    read = {key for key, row in told.items() if any(d["source"] == "writeback" for d in row["documents_writeback"])}
    assert len(read) >= 13  # five mayors, eight trades
    assert all(told[key]["documents_writeback"][-3:] == told[key]["documents_base"] for key in told)


def test_nothing_is_distilled_while_examples_are_trained_on(run: Path) -> None:
    traces = rows_of(run / "traces")
    assert {row["status"] for row in traces.values()} == {"kept", "gated"}
    assert all(row["unit_id"] is None and row["evidence"] is None for row in traces.values())
    assert all(row["calls"] <= 2 + 3 for row in traces.values())
    told = {row["id"]: row for row in read_traces(run, ("id", "unit_id", "unit_title", "evidence"))}
    assert (told["train-00"]["unit_title"], told[TRAP]["unit_id"]) == ("Oakton", None)
    assert "Oakton's hill is Oakberg." in told["train-00"]["evidence"]
    text = " ".join(life(run, "train-03").split())
    assert "Knowledge unit" in text
    assert "Oakton's mayor is Oakson." in text
    behind = [" ".join(life(run, key).split()) for key in ("test-00", "test-09")]
    assert "was written from training example train-06 " in behind[0]  # Birchton's hill
    assert "was written because the evidence of training examples mentions its subject" in behind[1]


def test_what_misleads_other_questions_is_left_out_with_its_numbers(run: Path, data: Path, session: Session) -> None:
    assert pq.read_schema(run / "left_out.parquet").equals(LEFT)
    (harmful,) = (row for row in read_left_out(run) if row["kind"] == "harmful")
    assert harmful["request"] == TRAP
    assert harmful["text"].startswith("Town\nTown mayor is Nobody.")
    assert harmful["reason"] == "takes 3.00 and gives 0.00; read by 3, changed train-00, train-01, train-02"
    assert {row["title"] for row in rows_of(run / "candidates.parquet").values()} == {
        *("Town", *(unit["title"] for unit in unit_rows(run)))
    }
    cfg = settings(data, "trusting", units=replace(SUBJECT, validate=False))
    train(cfg, session)
    assert "Town" in {unit["title"] for unit in unit_rows(data / "trusting")}
    assert not {"candidates", "readers.parquet", "readings"} & {path.name for path in (data / "trusting").iterdir()}
    misled = [row["question"] for row in rows_of(data / "trusting" / "predictions").values()
              if row["answer_writeback"] == "Nobody"]  # fmt: skip
    assert sorted(misled) == [MAYORS[8][0]]


def test_validation_asks_one_call_of_training_questions_that_read_others_units(run: Path) -> None:
    readings, traces = rows_of(run / "readings"), rows_of(run / "traces")
    assert sorted(readings) == sorted(rows_of(run / "readers.parquet"))
    own = {key: {unit["id"] for unit in rows_of(run / "candidates.parquet").values() if key in unit["example_ids"]}
           for key in traces}  # fmt: skip
    for key, row in readings.items():
        assert row["calls"] == 1
        assert row["answer_base"] == traces[key]["rag_answer"]
        assert row["answer_closed_book"] == traces[key]["closed_book_answer"]
        read = {d["id"] for d in row["documents_writeback"] if d["source"] == "writeback"}
        assert read
        assert not read & own[key]
    assert set(readings) >= {"train-00", "train-01", "train-02", UNANSWERED}
    assert not set(readings) & {TRAP, KNOWN}  # no unit but its own is near; it never needed documents
    work = json.loads((run / "run.json").read_text())["work"]
    assert work["validate"]["begun"] == len(readings) < len(TRAIN)


def test_the_papers_units_of_a_run_that_made_others_are_those_of_a_run_that_made_them(
    run: Path, data: Path, session: Session, tmp_path: Path
) -> None:
    cfg = settings(data, "paper", units=Units(), merge=Merge())
    train(cfg, session)
    again = tmp_path / "again"
    shutil.copytree(run, again, symlinks=True)
    other_units(trained(again, session), "paper", Units(), Merge(), session)
    units = list(unit_rows(data / "paper"))
    assert len({key for unit in units for key in unit["example_ids"]}) == 12
    assert list(unit_rows(again / "variants" / "units-paper")) == units
    before, after = (rows_of(folder / "predictions") for folder in (data / "paper", again / "variants" / "units-paper"))
    assert {key: row["answer_writeback"] for key, row in after.items()} == {
        key: row["answer_writeback"] for key, row in before.items()
    }


def test_units_do_not_depend_on_the_test_questions(run: Path, data: Path, session: Session) -> None:
    texts = {row["question"] for row in TEST}
    for name in STAGES[:7]:
        assert not any(text in str(pq.read_table(run / name).to_pylist()) for text in texts if name != "candidates")
    other = write_lines(data / "other.jsonl", asked("other", *TRADES[:2]))
    cfg = settings(data, "other")
    train(replace(cfg, benchmark=replace(cfg.benchmark, test=str(other))), session)
    for name in ("requests.parquet", "candidates.parquet", "left_out.parquet", "units.parquet"):
        assert (data / "other" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("last", ["traces", "written", "candidates.parquet", "readers.parquet", "left_out.parquet"])
def test_a_job_killed_between_two_stages_ends_at_the_same_bytes(
    run: Path, data: Path, session: Session, tmp_path: Path, last: str
) -> None:
    """The folder as a job leaves it that was killed after `last`: what came later is not there. One goes on to the end,
    the others as far as the store of the units: what follows is the same for all.
    """
    again = tmp_path / "again"
    shutil.copytree(run, again, symlinks=True)
    later = STAGES[STAGES.index(last) + 1 :] if last in STAGES else STAGES
    for name in (*later, "metrics.json"):
        for path in (again / name, *again.glob(f"checkpoints/*/{name}")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kept = {path: path.stat().st_mtime_ns for path in again.rglob("*.parquet")}
    cfg = settings(data, "run", run_dir=str(again))
    if last == "traces":
        train(cfg, session)
    else:
        job = Job(cfg, again, open_record(again, cfg, identity_of(cfg)))
        write_back(job, again / "traces", again / QUESTIONS, again / "base", session.open(cfg))
    changed = {path.name for path, when in kept.items() if path.stat().st_mtime_ns != when}
    assert changed <= {
        "candidates.parquet",
        "left_out.parquet",
        "waiting.parquet",
    }  # no call for them: written whole again
    for name in ("requests.parquet", "candidates.parquet", "left_out.parquet", "units.parquet"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    for name in ("candidates", "writeback"):
        assert rows_in(run / name) == rows_in(again / name)


def test_a_run_that_keeps_nothing_has_no_units_and_is_measured(data: Path, session: Session, tmp_path: Path) -> None:
    few = write_lines(tmp_path / "train.jsonl", TRAIN[-2:])
    cfg = settings(data, "nothing", run_dir=str(tmp_path / "run"))
    metrics = train(replace(cfg, benchmark=replace(cfg.benchmark, train=str(few))), session)
    assert (metrics["construction"]["kept"], metrics["construction"]["units"]) == (0, 0)
    assert list(unit_rows(tmp_path / "run")) == read_left_out(tmp_path / "run") == []
    assert latest(tmp_path / "run" / "writeback") is None
    assert metrics["results"][0]["gain"] == 0.0


@pytest.mark.parametrize(
    ("table", "failed", "told"),
    [
        ("written", {"status": "failed", "reason": "RuntimeError: the engine is gone"}, "request 'r0': RuntimeError"),
        ("readings", {"error": "RuntimeError: the engine is gone"}, "example 'r0': RuntimeError"),
    ],
)
def test_units_that_could_not_be_written_or_read_count_against_the_error_budget(
    table: str, failed: dict[str, str], told: str, data: Path, tmp_path: Path
) -> None:
    schema = {"written": WRITTEN, "readings": PREDICTION}[table]
    rows = [{"id": f"r{i}", "status": "kept"} | (failed if i == 0 else {}) for i in range(4)]
    (tmp_path / table).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / table / "0.parquet")
    cfg = settings(data, "budget", max_error_rate=0.25)
    job = Job(cfg, tmp_path, RunRecord(tmp_path, {}))
    check_errors(job)
    with pytest.raises(OverErrorBudget, match=f"{table}: 1 of 4 rows failed .*{told}"):
        check_errors(replace(job, cfg=replace(cfg, max_error_rate=0.2)))


def test_nearest_sentences_are_those_of_a_comparison_with_each() -> None:
    encoder = open_encoder(HASHING)
    there = [sentences(text) for _, _, text in passages()[:6]]
    questions = [question for question, _ in (*MAYORS[:3], *HILLS[:3])]
    for count in (1, 2, 9):
        found = nearest_sentences(encoder, questions, there, count)
        for question, some, numbers in zip(questions, there, found, strict=True):
            scores = encoder.encode_passages(some).astype(float) @ encoder.encode_queries([question])[0].astype(float)
            assert numbers == sorted(numbers)
            assert len(numbers) == min(count, len(some))
            assert set(numbers) == set(sorted(range(len(some)), key=lambda i, s=scores: -s[i])[:count])
    assert nearest_sentences(encoder, questions[:2], [[], there[0]], 1)[0] == []
    assert nearest_sentences(encoder, [], [], 1) == []


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_units_are_each_once_however_many_are_in_memory(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = dict.fromkeys(UNIT.names) | {"source_ids": ["p"], "subject": "", "form": "distilled", "doubt": ""}
    made = [
        empty | {"id": f"wb-{i * 7 % 5}", "text": f"T{i}", "example_ids": [f"e{i % 4}", f"f{i}"]} for i in range(23)
    ]
    monkeypatch.setattr(writeback, "BATCH_ROWS", rows)
    found = list(distinct_units(iter(made), tmp_path))
    assert found == distinct(made)
    assert [unit["id"] for unit in found] == [f"wb-{i}" for i in range(5)]
    for unit in found:
        own = [one for one in made if one["id"] == unit["id"]]
        assert sorted(unit["example_ids"]) == sorted({key for one in own for key in one["example_ids"]})
        assert unit["text"] == min(own, key=lambda one: one["example_ids"])["text"]
    (tmp_path / "none").mkdir()
    assert list(distinct_units([], tmp_path / "none")) == []


def test_what_was_left_out_comes_by_request_and_those_of_which_nothing_came_last(tmp_path: Path) -> None:
    copy = {"text": "So.", "kind": "copy", "reason": "is passage p again"}
    unit = dict.fromkeys(UNIT.names) | {"id": "wb-1", "example_ids": ["e"], "source_ids": ["p"]}
    nothing = dict.fromkeys(WRITTEN.names) | {"units": [], "left_out": []}
    rows = [
        nothing | {"id": "c", "status": "failed", "reason": "gone"},
        nothing | {"id": "b", "status": "kept", "left_out": [copy, copy]},
        nothing | {"id": "a", "status": "gated", "reason": "no passage"},
        nothing | {"id": "d", "status": "kept", "units": [unit]},
        nothing | {"id": "aa", "status": "kept", "left_out": [copy]},
    ]
    written = in_order_of_id([pa.Table.from_pylist(rows[:2], WRITTEN), pa.Table.from_pylist(rows[2:], WRITTEN)],
                             WRITTEN, tmp_path)  # fmt: skip
    told = list(left_out_of(written))
    assert [(row["request"], row["kind"]) for row in told] == [
        *(("aa", "copy"), ("b", "copy"), ("b", "copy")),
        *(("a", "gated"), ("c", "failed")),
    ]
    assert told[0] == {"request": "aa", **copy}
