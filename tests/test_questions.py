"""Questions made of documents, one file split in two, and what a run is told of its files."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from test_pipeline import question, settings, world, write_lines

from wbrag.config import Backbone, Benchmark, ConfigError, QuestionsConfig
from wbrag.data.benchmarks import InputError, OverErrorBudget
from wbrag.data.files import files_of
from wbrag.data.questions import asked_of
from wbrag.llm.scripted import ScriptedLLM
from wbrag.prompts import Prompts
from wbrag.run.inputs import check_settings, given_hash, identity_of, read_inputs
from wbrag.run.questions import make_questions
from wbrag.schema import Document

DOCUMENT = Document("p", "Town", "The mayor of town1 is Ada. The river of town1 is Nor.")
SCRIPTED = Backbone(name="scripted", kind="scripted", model="scripted", max_num_seqs=4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return world(tmp_path / "world", train_rows=40)


async def asked(made: str, back: str, judged: bool = False) -> tuple[str, str, bool]:
    """Question, answer or reason, and whether a call failed, of a generator that replies so."""

    def respond(prompt: str) -> str:
        if "Ask one question that the document answers" in prompt:
            return made
        if back == "down":
            raise RuntimeError("no answer")
        return back

    found = await asked_of(DOCUMENT, ScriptedLLM(respond), Prompts(), 16, judged)
    if found.example is None:
        return "", found.reason, found.failed
    assert json.loads(found.example.metadata) == {"source": "p"}
    return found.example.question, found.example.golden_answers[0], found.failed


@pytest.mark.parametrize(
    ("made", "back", "judged", "wanted"),
    [
        ("Question: Who?\nAnswer: Ada", "It is Ada.", False, ("Who?", "Ada", False)),
        ("**Question:** Who is\nit?\n\n**Answer:** Ada\nBye.", "Ada", False, ("Who is it?", "Ada", False)),
        ("Question: Who?\nAnswer: Ada", "Bob", False, ("", "'Ada' was not found again: 'Bob'", False)),
        ("Question: Why?\nAnswer: Because it was so", "Yes.", True, ("Why?", "Because it was so", False)),
        ("Question: Why?\nAnswer: It was so", "no", True, ("", "'It was so' was not found again: 'no'", False)),
        ("I cannot.", "Ada", False, ("", "no question with an answer: 'I cannot.'", False)),
        ("Question: W\nAnswer: .", "Ada", False, ("", "no question with an answer: 'Question: W\\nAnswer: .'", False)),
        ("Question: Who?\nAnswer: Ada", "down", False, ("", "RuntimeError: no answer", True)),
    ],
)  # fmt: skip
def test_a_question_is_kept_where_its_answer_is_found_again(
    made: str, back: str, judged: bool, wanted: tuple[str, str, bool]
) -> None:
    assert asyncio.run(asked(made, back, judged)) == wanted


def test_questions_made_of_a_corpus_are_a_benchmark(data: Path, tmp_path: Path) -> None:
    cfg = QuestionsConfig(SCRIPTED, corpus=str(data / "corpus.jsonl"), out=str(tmp_path / "made" / "q.jsonl"), count=12)
    made, left = make_questions(cfg)
    rows = [json.loads(line) for line in Path(cfg.out).read_text().splitlines()]
    assert ([row["id"] for row in rows], left) == ([one.id for one in made], [])
    assert len({row["question"] for row in rows}) == 12
    for row in rows:
        town = row["metadata"]["source"].removeprefix("p")
        assert (row["question"], row["golden_answers"]) == (f"What is The mayor of town{town}?", [f"Mayor{town}"])
    with pytest.raises(ConfigError, match=r"q\.jsonl: is there already"):
        make_questions(cfg)
    again = replace(cfg, out=str(tmp_path / "again.jsonl"))
    assert make_questions(again)[0] == made
    assert make_questions(replace(cfg, out=str(tmp_path / "other.jsonl"), seed=1))[0] != made
    benchmark = Benchmark("made", cfg.out, "")
    given = read_inputs(settings(data, tmp_path / "run", benchmark=benchmark))
    assert (len(given.train), len(given.test)) == (10, 2)


def test_what_gives_no_question_is_told(data: Path, tmp_path: Path) -> None:
    twice = [{"id": i, "text": "The mayor of town1 is Ada."} for i in "ab"] + [{"id": "c", "text": "Nothing here!"}]
    corpus = write_lines(tmp_path / "c.jsonl", twice)
    cfg = QuestionsConfig(SCRIPTED, corpus=str(corpus), out=str(tmp_path / "q.jsonl"), count=9)
    made, left = make_questions(cfg)
    assert len(made) == 1
    told = [json.loads(line) for line in (tmp_path / "q.left_out.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in told] == [one.reason for one in left]
    assert sorted(one.reason.partition(":")[0] for one in left) == [
        "no question with an answer",
        "the same question as another passage's",
    ]
    plain = write_lines(tmp_path / "p.jsonl", [{"text": "Nothing!"}])
    with pytest.raises(InputError, match="no question could be made of 1 passages: no question with an answer"):
        make_questions(replace(cfg, corpus=str(plain), out=str(tmp_path / "n.jsonl")))
    failing = write_lines(tmp_path / "f.jsonl", [{"id": "f", "text": "The mayor of unanswerable is Ada."}])
    with pytest.raises(OverErrorBudget, match=r"passage 'f': RuntimeError: scripted failure"):
        make_questions(replace(cfg, corpus=str(failing), out=str(tmp_path / "n.jsonl")))


def test_one_file_is_split_by_the_seed(data: Path, tmp_path: Path) -> None:
    own = Benchmark("own", str(data / "train.jsonl"), "", test_share=0.25)
    cfg = settings(data, tmp_path / "run", benchmark=own)
    check_settings(cfg)
    given = read_inputs(cfg)
    train, test = ({row["question"] for row in rows} for rows in (given.train, given.test))
    assert len(given.train) + len(given.test) == 40
    assert 10 <= len(given.test) <= 12  # some questions are there twice
    assert train.isdisjoint(test)
    other = read_inputs(replace(cfg, seed=1))
    assert {row["question"] for row in other.test} != test
    assert identity_of(cfg) != identity_of(replace(cfg, seed=1))
    assert identity_of(cfg)["benchmark.test"].startswith("0.25 of ")
    one = write_lines(tmp_path / "one.jsonl", [question(1, "a")])
    with pytest.raises(InputError, match=r"one\.jsonl: 1 questions, none of them left to train on"):
        read_inputs(replace(cfg, benchmark=replace(own, train=str(one))))


def test_the_same_questions_in_train_and_test_are_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((data / "train.jsonl").read_bytes())
    cfg = settings(data, tmp_path / "run", benchmark=Benchmark("own", str(data / "train.jsonl"), str(copy)))
    assert len(read_inputs(cfg).test) == 40
    assert "train.jsonl and benchmark.test=" in caplog.text
    assert "copy.jsonl are the same questions: none is unseen" in caplog.text


def test_what_was_read_and_left_out_is_told_each_time(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log.csv"
    log.write_text("q,a,ok\n" + "".join(f"Who is {i}?,x{i},{i % 2}\n" for i in range(40)))
    columns = {"question": "q", "golden_answers": "a", "accepted": "ok"}
    cfg = settings(data, tmp_path / "run", benchmark=Benchmark("log", str(log), "", columns=columns))
    caplog.set_level(logging.INFO)
    for _ in range(2):  # read, and found in the cache
        caplog.clear()
        given = read_inputs(cfg)
        assert (len(given.train) + len(given.test), len(given.rejected)) == (20, 20)
        told = [record.getMessage() for record in caplog.records if record.name == "wbrag.run.inputs"]
        assert told[0] == f"{log}: 20 questions"
        assert told[1].startswith(
            f'{log}: 20 rows were left out: 20 x ok is "0": no label (line 2); each with its line in'
        )
        assert told[-1] == f"{data / 'corpus.jsonl'}: 30 FlashRAG passages"


def test_what_is_given_counts_in_the_identity(data: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md"):
        (docs / name).write_text(f"# {name}\nText.")
    cfg = settings(data, tmp_path / "run", corpus=str(docs))
    first = identity_of(cfg)["corpus"]
    assert identity_of(replace(cfg, chunk_words=50))["corpus"] != first
    (docs / "b.md").rename(docs / "c.md")
    assert identity_of(cfg)["corpus"] != first
    lines = [str(data / "corpus.jsonl"), str(data / "train.jsonl")]
    assert given_hash(lines[0], tmp_path / "cache") == identity_of(settings(data, tmp_path / "run"))["corpus"]
    assert identity_of(settings(data, tmp_path / "run", corpus=lines))["corpus"] != first
    assert [file.name for file in files_of(lines)] == ["corpus.jsonl", "train.jsonl"]
    with pytest.raises(ConfigError, match=r"corpus=5: give a path, a glob, a folder, or a list of these"):
        check_settings(settings(data, tmp_path / "run", corpus=5))
