"""`make bench` without its engines: the calls that it measures, its tables, and what becomes of a part that fails."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wbrag.llm import Reply
from wbrag.llm.mixture import pool
from wbrag.prompts import Prompts
from wbrag.schema import Document

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import answering
import flashrag_peer
import on_gpu
import pipeline
from bare_engine import trained
from stub_engine import CALLS_AN_EXAMPLE, KEPT_EVERY, Paced, example, settings
from synthetic import apart

END, V = 1, 7


def test_made_up_examples_take_the_calls_that_are_reckoned_with(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "backbone=scripted", f"world={tmp_path}")
    rows = [example(i) for i in range(2 * KEPT_EVERY)]
    own, paper = (asyncio.run(trained(rows, cfg, Paced(0.0), paper_plan)) for paper_plan in (False, True))
    assert sum(len(row["sent"]) for row in own) == sum(row["calls"] for row in own)
    assert sum(row["calls"] for row in own) == pytest.approx(len(rows) * CALLS_AN_EXAMPLE)
    assert [row["status"] for row in own] == [row["status"] for row in paper]
    assert [row["status"] for row in own].count("kept") == 2


def test_an_example_that_fails_ends_the_measurement(tmp_path: Path) -> None:
    cfg = settings(tmp_path, "backbone=scripted", f"world={tmp_path}")
    broken = example(3) | {"question": "Who keeps no number?"}
    with pytest.raises(RuntimeError, match="1 of 2 examples failed; q3: ValueError"):
        asyncio.run(trained([example(2), broken], cfg, Paced(0.0)))


def test_a_request_goes_before_its_documents_and_the_same_words_stay() -> None:
    documents = [Document("a", "A", "One.\n\nTwo."), Document("b", "B", "Three.")]
    content = Prompts().message("factoid", documents, question="Who?")
    swapped = pipeline.request_first(content)
    assert swapped.startswith("Answer the factoid question")
    assert swapped.endswith("Document 2 (Title: B): Three.")
    assert sorted(swapped.split()) == sorted(content.split())
    alone = Prompts().message("closed_book_factoid", question="Who?")
    assert pipeline.request_first(alone) == alone


def test_the_middle_of_the_examples_is_side_by_side() -> None:
    rows = [{"id": i} for i in range(7)]
    assert pipeline.middle(rows, 3) == rows[2:5]
    assert pipeline.middle(rows, 9) == rows


def test_the_default_way_has_the_bar() -> None:
    sums = Counter({"wbrag calls": 8, "paper calls": 10, "paper prompt_tokens": 100, "wbrag computed": 71})
    sums.update({"paper computed": 90, "swapped computed": 80, "examples": 5, "alike": 5})
    assert [row[1:] for row in pipeline.compared("blocks of 32", sums, True)] == [
        ("0.800", "", None),
        ("0.710", "<= 0.7", False),
        ("0.800", "", None),
        ("0.900", "", None),
        ("5 of 5", "all", True),
    ]
    assert [row[3] for row in pipeline.compared("blocks of 128", sums, False)] == [None, None, None, True]


def test_parts_are_named_and_sized() -> None:
    assert pipeline.chosen_parts("feed,gpu,faiss") == ["feed", "llama", "mixture", "faiss"]
    with pytest.raises(ValueError, match="feet is none of engine, chained, feed"):
        pipeline.chosen_parts("feet")
    assert pipeline.sizes_of("scale", 2.0) == [30]
    assert pipeline.sizes_of("scale", 0.01) == [5]


def test_a_part_is_ended_with_what_it_started(tmp_path: Path) -> None:
    script = tmp_path / "part.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "left = subprocess.Popen(['sleep', '60'])\n"
        "print('progress', left.pid)\n"
        'print(\'{"pid": %d, "told": "%s"}\' % (left.pid, sys.argv[-1]), flush=True)\n'
        "time.sleep(60 if sys.argv[2] == 'slow' else 0)\n"
        "sys.exit(3 if sys.argv[2] == 'bad' else 0)\n",
        encoding="utf-8",
    )
    found = apart(str(script), "good", "--out", tmp_path)
    assert found["told"] == str(tmp_path)
    left, until = Path(f"/proc/{found['pid']}/cmdline"), time.monotonic() + 10
    while left.exists() and left.read_bytes():  # a zombie has none
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match=r"part\.py --part bad failed: exit code 3"):
        apart(str(script), "bad")
    with pytest.raises(RuntimeError, match=r"part\.py --part slow failed: not done after 0\.5 s"):
        apart(str(script), "slow", seconds=0.5)


@pytest.mark.parametrize("pooling", ["probabilities", "logits"])
def test_the_stepwise_mixture_is_the_engines_arithmetic(pooling: str) -> None:
    prompts, weights = [[2], [3, 4], [5]], [0.5, 0.3, 0.2]

    def log_p(ids: list[int]) -> np.ndarray:
        logits = np.random.default_rng(ids).normal(0, 2, V)
        return np.asarray(logits - np.logaddexp.reduce(logits))

    tokens, found = on_gpu.stepwise(log_p, prompts, weights, 6, pooling, END)
    assert 1 <= len(tokens) <= 6
    assert END not in tokens[:-1]
    for step, (token, value) in enumerate(zip(tokens, found, strict=True)):
        read = torch.tensor(np.stack([log_p([*ids, *tokens[:step]]) for ids in prompts]))
        pooled = pool(read, [range(3)], torch.tensor(weights, dtype=torch.float64), pooling)[0]
        assert token == int(pooled.argmax())
        assert value == pytest.approx(float(pooled[token]), abs=1e-9)


def test_a_ruled_engine_does_the_work_and_the_rule_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[tuple[object, ...]] = []

    async def completed(llm: object, ids: list[int], most: int, **more: object) -> int:
        worked.append((ids, most, more))
        return most

    monkeypatch.setattr(on_gpu, "completed", completed)
    llm = on_gpu.Ruled(SimpleNamespace(render=lambda content, prefix: [len(content)], max_model_len=64))
    asked = f"Document 1\n\nWho keeps number {KEPT_EVERY}?"
    assert asyncio.run(llm.chat(asked, 8)) == Reply(f"keeper {KEPT_EVERY}", 1, 8)
    assert worked == [([len(asked)], 8, {"ignore_eos": True})]


def test_parts_that_need_a_gpu_say_so_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "gpu_name", lambda: "")
    for name in pipeline.GPU:
        ((_, said, _, held),), facts = pipeline.PARTS[name][0](tmp_path, 1)
        assert (said, held, facts) == ("not run on a GPU: make EXTRA=gpu bench PARTS=gpu", None, {})


def test_ways_to_search_are_held_against_the_first() -> None:
    scores, ids = np.array([[0.9, 0.8], [0.7, 0.6]]), np.array([[1, 2], [3, 4]])
    found = {"CPU": (scores, ids), "GPU": (scores + 1e-4, ids[:, ::-1]), "blocks": (scores + np.diag([0, 1]), ids)}
    rows = on_gpu.searched("nearest", {"CPU": 10.0, "GPU": 100.0, "blocks": 50.0}, found)
    assert rows[1][1] == "100 queries/s, 10.0 x"
    assert rows[2][1:] == ("100.0% (same ids 0.0%)", "100 %", True)
    assert rows[4][1:] == ("50.0% (same ids 100.0%)", "100 %", False)


def test_flashrag_gets_the_same_prompt_model_and_search(tmp_path: Path) -> None:
    world = tmp_path / "world"
    cfg = settings(tmp_path / "answer", f"world={world}")
    (tmp_path / "answer").mkdir()
    given = answering.flashrag_settings(cfg, tmp_path, "vllm", 9)
    config = given["config"]
    assert Path(config["generator_model_path"]).resolve() == Path("microworld/models/micro_small").resolve()
    assert (config["data_dir"], config["dataset_name"], config["test_sample_num"]) == (str(world), "nq", 9)
    assert config["generation_params"] == {"do_sample": False, "max_tokens": 16}
    filled = given["user"].format(reference="DOCUMENTS", question="Who?")
    assert filled == Prompts().templates["documents"].format(
        documents="DOCUMENTS", request=Prompts().templates["factoid"].format(question="Who?")
    )


def test_a_peer_is_held_against_ours() -> None:
    ours = {"load": 10.0, "run": 2.0, "answers": {"a": "x", "b": "y"}}
    theirs = {"load": 20.0, "run": 5.0, "answers": {"a": "x", "b": "z"}, "version": "1"}
    assert [row[1:] for row in answering.beside("peer", ours, theirs)] == [
        ("0.4 questions/s, loaded in 20 s", "", None),
        ("2.50", ">= 3", False),
        ("2.08", "", None),
        ("50.0%", ">= 90 %", False),
    ]


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named flashrag' >&2\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    assert flashrag_peer.flashrag(python, tmp_path / "hf", {}) == "it fails: No module named flashrag"
    assert flashrag_peer.last_line("\n \n") == "no word why"
