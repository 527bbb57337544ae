"""Algorithm 1 on scripted generators: every outcome, the calls it takes, and what can never reach a prompt."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag import config
from wbrag.algorithm import CountedLLM, answer_question, train_example
from wbrag.config import Gates
from wbrag.llm import Reply
from wbrag.llm.fit import readable
from wbrag.llm.scripted import RAISES, ScriptedLLM, read
from wbrag.methods import Tools, naive, open_method
from wbrag.prompts import Prompts
from wbrag.schema import TRACE, Document, Example

GOLD = "Norvale"
EXAMPLE = Example("q1", "Where is the Alder bridge?", (GOLD,), '{"split": "train"}')
HELPFUL = Document("d1", "Alder bridge", "The Alder bridge is in Norvale. The ferry was old.", 0.9)
USELESS = Document("d2", "Mills", "The mill is in Osterby. Alder trees were cut.", 0.5)
TWIN = Document("d3", "Alder bridge", HELPFUL.text, 0.4)


def exact(answer: str, golden_answers: Sequence[str]) -> float:
    """Exact match without case; "in Norvale" counts as half right."""
    answer, golden = answer.lower(), [g.lower() for g in golden_answers]
    return 1.0 if answer in golden else 0.5 if any(g in answer for g in golden) else 0.0


def tools_for(llm: ScriptedLLM, answer_tokens: int = 16) -> Tools:
    return Tools(llm, Prompts(), "factoid", answer_tokens, distil_tokens=200)


def train(
    llm: ScriptedLLM,
    documents: Sequence[Document] = (HELPFUL, USELESS),
    example: Example = EXAMPLE,
    gates: Gates | None = None,
    metric: Callable[[str, Sequence[str]], float] = exact,
    paper_plan: bool = False,
) -> dict[str, Any]:
    """The trace row of one example, checked to be storable as such."""
    row = asyncio.run(
        train_example(example, documents, tools_for(llm), gates or Gates(), metric, paper_plan=paper_plan)
    )
    assert list(row) == TRACE.names
    stored = pa.Table.from_pylist([row], TRACE).to_pylist()[0]
    assert [d["id"] for d in stored["documents"]] == [d.id for d in documents]
    assert stored["reason"] == row["reason"]
    return row


def replies(
    closed: str = "?", rag: str = GOLD, single: str = GOLD, extract: str = "", rewrite: str = ""
) -> ScriptedLLM:
    """A generator with one reply for each of the five kinds of prompt."""

    def respond(prompt: str) -> str:
        if prompt.startswith("Evidence:"):
            return rewrite or "Alder bridge\nThe Alder bridge is in Norvale."
        if "Extract the sentences" in prompt:
            return extract or "The Alder bridge is in Norvale."
        if not prompt.startswith("Document"):
            return closed
        return rag if "Document 2" in prompt else single

    return ScriptedLLM(respond)


def test_a_kept_example_tells_its_whole_life() -> None:
    llm = ScriptedLLM(read)
    row = train(llm, metric=lambda answer, golden: float(any(g in answer for g in golden)))
    seconds = row.pop("seconds")
    assert row == {
        "id": "q1",
        "question": EXAMPLE.question,
        "golden_answers": [GOLD],
        "metadata": '{"split": "train"}',
        "documents": row["documents"],
        "status": "kept",
        "reason": "passed: delta 1.00 > tau_delta 0.01 and s_rag 1.00 > tau_s 0.1 (s_nr 0.00, s_rag 1.00); "
        "documents 1 of 2 gain more than tau_doc 0.01 (gains 1.00, 0.00)",
        "closed_book_answer": "unknown",
        "s_nr": 0.0,
        "rag_answer": "in Norvale",
        "s_rag": 1.0,
        "delta": 1.0,
        "document_answers": ["in Norvale", "unknown"],
        "document_scores": [1.0, 0.0],
        "kept_ranks": [1],
        "fallback": False,
        "evidence": "The Alder bridge is in Norvale.",
        "unit_id": row["unit_id"],
        "unit_title": "The Alder bridge",
        "unit_text": "The Alder bridge is in Norvale.",
        "source_tokens": len(HELPFUL.contents.split()),
        "unit_tokens": 9,
        "calls": 6,
        "calls_saved": 0,
        "prompt_tokens": sum(len(p.split()) for p in llm.prompts),
        "completion_tokens": 1 + 2 + 2 + 1 + 6 + 9,
        "dropped_documents": 0,
        "retrievals": 0,
        "judge_agrees": None,
    }
    assert row["unit_id"].startswith("wb-")
    assert seconds >= 0


def test_prompts_are_asked_in_the_order_of_the_paper() -> None:
    llm, p = replies(), Prompts()
    train(llm)
    q, documents = EXAMPLE.question, [HELPFUL, USELESS]
    assert llm.prompts == [
        p.message("closed_book_factoid", question=q),
        p.message("factoid", documents, question=q),
        *(p.message("factoid", [d], question=q) for d in documents),
        p.message("extract", documents, question=q),
        p.message("rewrite", question=q, evidence="The Alder bridge is in Norvale."),
    ]


def test_what_the_model_knows_is_gated_without_the_long_call() -> None:
    llm = replies(closed=GOLD)
    row = train(llm)
    assert (row["status"], row["calls"], row["calls_saved"]) == ("gated", 1, 1)
    assert row["reason"] == "gated: delta 0.00 <= tau_delta 0.01 (s_nr 1.00, s_rag 1.00 at best, not asked)"
    assert row["s_rag"] is row["delta"] is row["rag_answer"] is None


def test_the_papers_plan_makes_the_long_call() -> None:
    row = train(replies(closed=GOLD), paper_plan=True)
    assert (row["status"], row["calls"], row["calls_saved"], row["delta"]) == ("gated", 2, 0, 0.0)
    assert row["reason"] == "gated: delta 0.00 <= tau_delta 0.01 (s_nr 1.00, s_rag 1.00)"


def test_an_unhelpful_retrieval_is_gated() -> None:
    row = train(replies(rag="Osterby"))
    assert (row["status"], row["calls"], row["document_scores"]) == ("gated", 2, None)
    assert row["reason"] == "gated: delta 0.00 <= tau_delta 0.01 (s_nr 0.00, s_rag 0.00)"


def test_a_still_wrong_answer_is_gated() -> None:
    row = train(replies(rag="in Norvale"), gates=Gates(tau_s=0.5))
    assert row["reason"] == "gated: s_rag 0.50 <= tau_s 0.5 (s_nr 0.00, s_rag 0.50)"


def test_no_single_document_helps_falls_back_to_the_top() -> None:
    row = train(replies(single="?"), documents=(HELPFUL, USELESS, USELESS), gates=Gates(n_min=2))
    assert (row["status"], row["fallback"], row["kept_ranks"]) == ("kept", True, [1, 2])


def test_a_single_retrieved_document_is_scored_once() -> None:
    row = train(replies(), documents=[HELPFUL])
    assert (row["status"], row["calls"], row["calls_saved"]) == ("kept", 4, 1)
    assert row["document_scores"] == [row["s_rag"]]


def test_twin_documents_are_asked_once_though_asked_at_once() -> None:
    row = train(replies(), documents=[HELPFUL, TWIN, USELESS])
    assert (row["kept_ranks"], row["calls"], row["calls_saved"]) == ([1, 2, 3], 6, 1)


def test_single_documents_are_asked_at_once() -> None:
    flying = [0, 0]

    class Slow(ScriptedLLM):
        async def chat(self, content: str, max_tokens: int, **options: Any) -> Reply:  # noqa: ANN401
            flying[0] += 1
            flying[1] = max(flying)
            reply = await super().chat(content, max_tokens, **options)
            flying[0] -= 1
            return reply

    documents = [Document(f"d{i}", "T", f"{HELPFUL.text} {i}") for i in range(5)]
    row = train(Slow(replies().respond), documents=documents)
    assert (row["status"], flying) == ("kept", [0, 5])


def test_nothing_retrieved_is_gated_as_unhelpful() -> None:
    row = train(replies(), documents=[])
    assert (row["status"], row["calls"], row["delta"]) == ("gated", 1, 0.0)


@pytest.mark.parametrize("stage", ["closed", "rag", "single", "extract", "rewrite"])
def test_an_error_at_any_stage_is_a_failed_row_that_keeps_what_was_known(stage: str) -> None:
    good = replies(**{stage: "FAULT"})

    def respond(prompt: str) -> str:
        if (reply := good.respond(prompt)) == "FAULT":
            raise ConnectionError("connection reset \ud800")
        return reply

    llm = ScriptedLLM(respond)
    row = train(llm)
    assert (row["status"], row["unit_id"]) == ("failed", None)
    assert row["reason"] == "ConnectionError: connection reset \ufffd"
    known = ["closed_book_answer", "rag_answer", "document_answers", "evidence"]
    assert [row[k] is not None for k in known] == [
        stage != "closed",
        stage not in ("closed", "rag"),
        stage in ("extract", "rewrite"),
        False,
    ]
    assert row["calls"] == len(llm.prompts)


def test_cancelling_is_no_failed_row() -> None:
    async def cancelled() -> None:
        run = train_example(EXAMPLE, [HELPFUL], tools_for(replies()), Gates(), exact)
        task = asyncio.ensure_future(run)
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


@pytest.mark.parametrize("score", [1.01, -0.1, float("nan"), 35.0])
def test_a_metric_outside_its_range_is_refused(score: float) -> None:
    row = train(replies(), metric=lambda answer, golden: score)
    assert row["reason"] == f"ValueError: metric gave {score!r}, not a score in 0..1, for the answer '?'"


F8 = {
    "": "empty",
    "\n \t": "empty",
    '{"evidence": ["The Alder bridge is': "not_prose",
    "The Alder bridge is \x00 in Norvale.": "broken_text",
    "The Alder bridge is \udcff in Norvale.": "broken_text",
    "I'm sorry, but I can't help with that.": "refusal",
    "Norvale Norvale Norvale " * 12: "repetition",
    "\u0410\u043b\u044c\u0434\u0435\u0440 \u043c\u043e\u0441\u0442.": "unrelated",
    "x" * 5_000: "too_long",
}


@pytest.mark.parametrize("reply", F8, ids=list(F8.values()))
@pytest.mark.parametrize("step", ["extract", "rewrite"])
def test_an_unusable_distillation_fails_by_class(step: str, reply: str) -> None:
    row = train(replies(**{step: reply or " "}))
    assert row["status"] == "gated"
    assert f"; not distilled: {step} reply {F8[reply]}" in row["reason"]
    assert (row["unit_id"], row["unit_text"], row["kept_ranks"]) == (None, None, [1, 2])


@pytest.mark.parametrize("stage", ["closed", "rag", "single", "extract", "rewrite"])
def test_two_megabytes_of_reply_fail_and_stay_out_of_the_row(stage: str) -> None:
    row = train(replies(**{stage: "word " * 400_000}))
    assert row["status"] == "failed"
    assert "reply of 1999999 characters to a call of max_tokens" in row["reason"]
    assert len(json.dumps(row)) < 10_000


@pytest.mark.parametrize("reply", F8, ids=list(F8.values()))
@pytest.mark.parametrize("stage", ["closed", "rag", "single"])
def test_an_odd_answer_is_just_a_wrong_answer_or_a_failed_row(stage: str, reply: str) -> None:
    row = train(replies(**{stage: reply}))
    assert row["status"] in ("kept", "gated", "failed")
    assert (row["status"] == "failed") == (len(reply) > 64 * 16)


def test_a_prompt_too_long_drops_documents_from_the_tail() -> None:
    llm = replies(single=GOLD)
    one, both = (Prompts().message("factoid", d, question=EXAMPLE.question) for d in ([HELPFUL], [HELPFUL, USELESS]))
    llm.max_model_len = len(both.split()) + 15
    tools = tools_for(llm)
    answer = asyncio.run(naive.answer(EXAMPLE.question, [HELPFUL, USELESS], tools))
    assert (answer.text, answer.dropped_documents, answer.calls, llm.prompts) == (GOLD, 1, 1, [one])
    assert answer.prompt_tokens == len(one.split())


def test_dropped_documents_are_recorded_and_save_a_call() -> None:
    long = Document("d2", "T", "word " * 2_500)
    row = train(replies(single=GOLD), documents=[HELPFUL, long, replace(long, id="d3")])
    # One for the answer with documents, and one of the two kept for the distiller.
    assert (row["status"], row["dropped_documents"], row["rag_answer"]) == ("kept", 2, GOLD)


def test_a_document_too_long_by_itself_is_cut_and_counted_and_the_others_are_read() -> None:
    long = Document("d2", "T", "word " * 5_000)
    llm = replies(single=GOLD)
    row = train(llm, documents=[long, HELPFUL])
    assert (row["status"], row["dropped_documents"], row["rag_answer"]) == ("kept", 1, GOLD)
    assert row["documents"][0]["text"] == long.text
    (asked, *_) = [prompt for prompt in llm.prompts if "Document 2" in prompt]
    assert HELPFUL.text in asked
    assert 1_500 < asked.count("word") < 2_050  # its half of the model's 4,096 tokens


def test_replies_that_were_cut_and_empty_ones_are_counted() -> None:
    class Cutting(ScriptedLLM):
        async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
            return replace(await super().chat(content, max_tokens, logprobs=logprobs), cut=content == "long")

    async def asked() -> CountedLLM:
        llm = CountedLLM(Cutting(lambda prompt: "" if prompt == "silent" else "said"), remember=False)
        for content in ("long", "silent", "long", "short"):
            await llm.chat(content, 8)
        await llm.chat("long", 8, logprobs=True)  # a draft, of which the first sentence counts
        return llm

    llm = asyncio.run(asked())
    assert (llm.cut, llm.empty, llm.calls) == (2, 1, 5)


@given(st.lists(st.integers(0, 900), min_size=1, max_size=5), st.integers(30, 120))
@settings(deadline=None)
def test_each_document_fits_alone_once_it_is_readable_and_what_fits_stays(lengths: list[int], most: int) -> None:
    llm = ScriptedLLM(lambda _: "", max_model_len=most)
    documents = [Document(f"d{i}", "T", "word " * length) for i, length in enumerate(lengths)]

    def render(some: Sequence[Document]) -> str:
        return " ".join(f"Title: {one.title} {one.text}" for one in some) + " Which one?"

    read, cut = readable(documents, [(render, 8)], llm)
    alone = [llm.prompt_tokens(render([one])) + 8 <= most for one in documents]
    assert cut == alone.count(False)
    assert [one for one, fits in zip(read, alone, strict=True) if fits] == [
        d for d, fits in zip(documents, alone, strict=True) if fits
    ]
    assert all(llm.prompt_tokens(render([one])) + 8 <= most for one in read)


def test_a_text_without_blanks_is_cut_too() -> None:
    llm = ScriptedLLM(lambda _: "", max_model_len=100)
    llm.count_tokens = llm.prompt_tokens = lambda text: len(text)  # type: ignore[method-assign]
    ((one,), cut) = readable([Document("d", "", "\u5317" * 500)], [(lambda some: f"{some[0].text}?", 10)], llm)
    assert cut == 1
    assert 60 < len(one.text) < 90


def test_a_test_question_is_answered_beside_a_document_too_long_by_itself() -> None:
    long = Document("d2", "T", "word " * 5_000)
    llm = replies(single=GOLD)
    row, _ = asyncio.run(answer_question(EXAMPLE, [long, HELPFUL], [long, HELPFUL], tools_for(llm)))
    assert (row["error"], row["answer_base"]) == (None, GOLD)
    assert 1_500 < row["context_tokens_base"] < 4_096


def test_a_question_too_long_is_a_failed_row_with_both_lengths() -> None:
    row = train(replies(), example=Example("q2", "why " * 5_000, (GOLD,)))
    assert row["reason"].startswith("PromptTooLong: prompt of 50")
    assert "+ 16 for the reply > max_model_len 4096" in row["reason"]
    assert row["calls"] == 0


def seeded(seed: int, words: Sequence[str]) -> Callable[[str], str]:
    """A deterministic generator with no sense: each prompt's reply is drawn from `words` by a hash."""

    def respond(prompt: str) -> str:
        digest = hashlib.sha256(f"{seed}{prompt}".encode()).digest()
        if digest[0] < 8:
            raise RuntimeError("refused by the endpoint")
        if prompt.startswith("Evidence:") or "Extract the sentences" in prompt:
            return read(prompt) if digest[1] % 4 else prompt[: digest[2] * 2]
        return words[digest[3] % len(words)]

    return respond


WORDS = st.text("abcdefg hij.", min_size=1, max_size=30)
NOISE = st.builds(Document, st.uuids().map(str), WORDS, WORDS)
DOCUMENTS = st.lists(st.sampled_from([HELPFUL, USELESS, TWIN]) | NOISE, max_size=5)
GATES = st.builds(
    Gates,
    tau_s=st.sampled_from([0.0, 0.1, 0.5]),
    tau_delta=st.sampled_from([0.01, 0.0, 0.3, 0.5, -0.1]),
    tau_doc=st.sampled_from([0.0, 0.01, 0.5]),
    n_min=st.integers(1, 3),
)
DECISION = ("status", "kept_ranks", "fallback", "evidence", "unit_id", "unit_title", "unit_text", "document_scores")


@settings(deadline=None)
@given(st.integers(0, 10**6), DOCUMENTS, GATES)
def test_saved_calls_change_no_decision(seed: int, documents: list[Document], gates: Gates) -> None:
    respond = seeded(seed, [GOLD, "in Norvale", "?"])
    saving, paper = ScriptedLLM(respond), ScriptedLLM(respond)
    row = train(saving, documents, gates=gates)
    full = train(paper, documents, gates=gates, paper_plan=True)
    assert full["calls_saved"] == 0
    if full["status"] != "failed":
        assert {k: row[k] for k in DECISION} == {k: full[k] for k in DECISION}
        assert row["calls"] + row["calls_saved"] == full["calls"] == len(paper.prompts)
        distilled = {"kept": 2}.get(full["status"], 0)
        if "not distilled" in full["reason"]:
            distilled = 1 if "not distilled: extract" in full["reason"] else 2
        assert full["calls"] == (2 + len(documents) + distilled if distilled else 2)
    elif row["status"] == "failed":
        assert row["reason"] == full["reason"]
    else:  # the call that failed under the paper's plan is one that did not have to be made
        assert (row["status"], row["s_rag"]) == ("gated", None)
    assert len(saving.prompts) == len(set(saving.prompts)) == row["calls"]


@settings(deadline=None)
@given(st.uuids(), st.integers(0, 10**6), DOCUMENTS, GATES, st.booleans())
def test_no_gold_answer_ever_reaches_a_prompt(
    canary: object, seed: int, documents: list[Document], gates: Gates, paper_plan: bool
) -> None:
    planted = f"canary-{canary}"
    example = Example("q1", EXAMPLE.question, (planted, GOLD), json.dumps({"answer": planted, "evidence": [planted]}))
    llm = ScriptedLLM(seeded(seed, [GOLD, "in Norvale", "?"]))
    row = train(llm, documents, example=example, gates=gates, paper_plan=paper_plan)
    assert row["golden_answers"] == [planted, GOLD]
    assert llm.prompts
    assert not any(planted in prompt for prompt in llm.prompts)
    assert planted not in json.dumps([row["unit_title"], row["unit_text"], row["evidence"], row["reason"]])


def test_methods_are_picked_by_name() -> None:
    assert open_method(config.Method(name="naive")) is naive.answer
    with pytest.raises(config.ConfigError, match=r"method\.name='magic'.*naive"):
        open_method(config.Method(name="magic"))


def test_the_scripted_backbone_gives_kept_gated_and_failed_rows() -> None:
    llm = ScriptedLLM(read, max_model_len=512)
    asked = {
        EXAMPLE.question: "kept",
        "What is the capital of France?": "gated",
        "Where is the harbour?": "gated",
        f"Where is the {RAISES} bridge?": "failed",
    }
    gold = {"What is the capital of France?": "Paris"}
    for question, status in asked.items():
        row = train(llm, example=Example("q", question, (gold.get(question, "in Norvale"),)))
        assert (question, row["status"]) == (question, status)


@pytest.mark.parametrize(
    ("task", "question", "reply"),
    [
        ("factoid", "Where is the Alder bridge?", "in Norvale"),
        ("slot", "Alder bridge [SEP] is in", "in Norvale"),
        ("multi_hop", "Where is the tower?", "unknown"),
        ("claim", "The Alder bridge is in Norvale.", "SUPPORTS"),
        ("claim", "The Alder bridge is in Osterby.", "REFUTES"),
        ("yes_no", "Is the Alder bridge in Norvale?", "yes"),
        ("yes_no", "Is the Alder bridge in Osterby?", "no"),
    ],
)
def test_the_scripted_reader_reads(task: str, question: str, reply: str) -> None:
    assert read(Prompts().message(task, [USELESS, HELPFUL], question=question)) == reply


def test_a_scripted_generator_refuses_what_a_real_one_would() -> None:
    with pytest.raises(ValueError, match="of 11 tokens > max_model_len 10"):
        asyncio.run(ScriptedLLM(read, max_model_len=10).chat("one two three", 8))


def test_a_call_counts_as_ended_when_it_is_answered_or_fails_and_not_when_its_example_is_done() -> None:
    """What a running stage shows: with hundreds of examples at once the first is done minutes after the first call."""

    class Held(ScriptedLLM):
        async def chat(self, content: str, max_tokens: int, **more: Any) -> Reply:  # noqa: ANN401 - as the protocol's
            if "held" in content:
                await gate.wait()
            return await super().chat(content, max_tokens, **more)

    def respond(prompt: str) -> str:
        if RAISES in prompt:
            raise RuntimeError(RAISES)
        return read(prompt)

    async def ask() -> list[tuple[int, int, int]]:
        nonlocal gate
        gate = asyncio.Event()
        told = []
        held = asyncio.ensure_future(llm.chat("held back", 8))
        for content in ("a question", RAISES):
            await asyncio.gather(llm.chat(content, 8), return_exceptions=True)
            told.append((llm.calls, llm.ended, llm.prompt_tokens_sent))
        gate.set()
        await held
        return [*told, (llm.calls, llm.ended, llm.prompt_tokens_sent)]

    gate = asyncio.Event()
    llm = CountedLLM(Held(respond), remember=False)
    assert [(calls, ended) for calls, ended, _ in asyncio.run(ask())] == [(2, 1), (3, 2), (3, 3)]
    assert llm.prompt_tokens_sent > 0
