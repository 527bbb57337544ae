"""The distiller: what it makes of good replies, and that no bad reply becomes a unit."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wbrag.distill import (
    Distilled,
    UnusableReply,
    distil,
    evidence_lines,
    knowledge_unit,
    rewritten,
    title_and_text,
)
from wbrag.llm import Reply
from wbrag.llm.fit import PromptTooLong
from wbrag.llm.scripted import ScriptedLLM
from wbrag.prompts import Prompts
from wbrag.schema import UNIT, Document, unit_id

QUESTION = "Where is the Alder bridge?"
DOCUMENTS = [
    Document("d1", "Alder bridge", "The Alder bridge is in Norvale. It was opened in 1904 by the mayor."),
    Document("d2", "Norvale", "Norvale is a town on the river Ister. Its mill is old."),
]
EVIDENCE = "The Alder bridge is in Norvale.\nNorvale is a town on the river Ister."
PASSAGE = "Alder bridge\nThe Alder bridge is in Norvale, a town on the river Ister."


def scripted(evidence: str = EVIDENCE, passage: str = PASSAGE, max_model_len: int = 4096) -> ScriptedLLM:
    """A generator that gives one reply to the extraction prompt and one to the rewriting prompt."""
    return ScriptedLLM(lambda prompt: passage if prompt.startswith("Evidence:") else evidence, max_model_len)


def run(llm: ScriptedLLM, max_tokens: int = 256) -> Distilled:
    return asyncio.run(distil(QUESTION, DOCUMENTS, llm, Prompts(), max_tokens))


def test_two_calls_make_title_passage_and_evidence() -> None:
    llm = scripted()
    distilled = run(llm)
    assert distilled == Distilled("Alder bridge", PASSAGE.split("\n")[1], EVIDENCE, DOCUMENTS)
    assert llm.prompts == [
        Prompts().message("extract", DOCUMENTS, question=QUESTION),
        Prompts().message("rewrite", question=QUESTION, evidence=EVIDENCE),
    ]


def test_the_gold_answer_has_no_way_in() -> None:
    assert list(inspect.signature(distil).parameters) == ["question", "documents", "llm", "prompts", "max_tokens"]
    for name in [*inspect.signature(distil).parameters, *inspect.signature(rewritten).parameters]:
        assert not {"answer", "example", "gold", "label"} & set(name.split("_"))


def test_unit_carries_provenance_and_both_lengths() -> None:
    llm = scripted()
    unit = knowledge_unit(["q7"], run(llm), llm)
    assert list(unit) == UNIT.names
    assert unit["id"] == unit_id(unit["title"], unit["text"], ("d1", "d2"))
    assert (unit["example_ids"], unit["source_ids"]) == (["q7"], ["d1", "d2"])
    assert unit["source_tokens"] == sum(len(d.contents.split()) for d in DOCUMENTS)
    assert unit["unit_tokens"] == len(f"{unit['title']} {unit['text']}".split())


def test_sources_are_the_documents_that_were_read() -> None:
    llm = scripted()
    llm.max_model_len = llm.prompt_tokens(Prompts().message("extract", DOCUMENTS, question=QUESTION)) + 49
    distilled = run(llm, max_tokens=50)
    unit = knowledge_unit(["q7"], distilled, llm)
    assert (distilled.sources, unit["source_ids"]) == (DOCUMENTS[:1], ["d1"])
    assert "Ister" not in llm.prompts[0]


def test_nothing_fits() -> None:
    with pytest.raises(
        PromptTooLong, match=r"'d1' alone: prompt of \d+ tokens \+ 256 for the reply > max_model_len 260"
    ):
        run(scripted(max_model_len=260))


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("A b.\nC d.", ["A b.", "C d."]),
        ("- A b.\n* C d.\n\u2022 E f.", ["A b.", "C d.", "E f."]),
        ("1. A b.\n2) C d.\n[3] E f.\n(4) G h.", ["A b.", "C d.", "E f.", "G h."]),
        ("1984 is a novel.\n7. Armee was an army.\n3.5 million live there.", None),
        ("\n  A b.  \n\n\nA b.\n", ["A b."]),
        ("Here are the sentences:\n- A b.", ["A b."]),
        ("", []),
        (" \n\t\n", []),
        ("1.\n- \n", ["1.", "-"]),
    ],
)
def test_evidence_lines(reply: str, lines: list[str] | None) -> None:
    assert evidence_lines(reply) == (reply.split("\n") if lines is None else lines)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("T\nOne. Two.", ("T", "One. Two.")),
        ("T\n\nOne.\n\n  Two.", ("T", "One. Two.")),
        ("Only a passage.", ("", "Only a passage.")),
        ("", ("", "")),
        ("**Title:** T\nPassage: One.", ("T", "One.")),
        ("## C#\nA language.", ("C#", "A language.")),
        ("Here is the passage:\nT\nOne.", ("T", "One.")),
    ],
)
def test_title_and_text(reply: str, expected: tuple[str, str]) -> None:
    assert title_and_text(reply) == expected


LONG = " ".join(f"Fact number {i} is told about the Alder bridge in Norvale." for i in range(200))
BAD = {
    "empty": ["", " \n\t ", "-", "...", "\u2022\n\u2022"],
    "broken_text": ["The Alder bridge\x00 is in Norvale.", "\ufffd\ufffd", "The Alder bridge is in \ud800."],
    "too_long": [LONG, "The Alder bridge is in Norvale. " * 60_000],
    "refusal": [
        "I'm sorry, but I cannot help with that.",
        "I\u2019m sorry, I can\u2019t help.",
        "As an AI language model, I do not know.",
        "None.",
        "- None",
        "unknown",
        "There is no relevant evidence in the documents.",
        "The documents do not mention the Alder bridge.",
        "Es tut mir leid, dazu kann ich nichts sagen.",
        "Désolé, je ne peux pas vous aider.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Desculpe, não encontrei nada.",
        "Я не могу ответить на этот вопрос.",
        "很抱歉。我无法回答这个问题。",
        "申し訳ありませんが、お答えできません。",
        "죄송합니다. 답변할 수 없습니다.",
        "क्षमा करें, मैं इसका उत्तर नहीं दे सकता।",
        "عذرًا، لا أستطيع المساعدة.",
        "Maaf, saya tidak bisa membantu.",
    ],
    "repetition": ["Alder " * 60, "a" * 300, "The Alder bridge is in Norvale, and " * 9],
    "not_prose": [
        '{"title": "Alder bridge", "text": "The Alder bri',
        '["The Alder bridge is in Norvale."',
        "```json\n{}```",
    ],
    "unrelated": [
        "\u963f\u5c14\u5fb7\u6865\u4f4d\u4e8e\u8bfa\u74e6\u5c14\u3002",
        "Quantum zippers juggle fuzzy kiwis.",
    ],
}
CASES = [(fault, reply) for fault, replies in BAD.items() for reply in replies]


@pytest.mark.parametrize(("fault", "reply"), CASES, ids=[f"{fault}-{i}" for i, (fault, _) in enumerate(CASES)])
def test_a_bad_extraction_is_refused_by_class(fault: str, reply: str) -> None:
    llm = scripted(evidence=reply)
    with pytest.raises(UnusableReply, match=f"^extract reply {fault}"):
        run(llm, max_tokens=1_000)
    assert len(llm.prompts) == 1


@pytest.mark.parametrize(("fault", "reply"), CASES, ids=[f"{fault}-{i}" for i, (fault, _) in enumerate(CASES)])
def test_a_bad_rewrite_is_refused_by_class(fault: str, reply: str) -> None:
    with pytest.raises(UnusableReply, match=f"^rewrite reply {fault}"):
        run(scripted(passage=reply), max_tokens=1_000)


def test_a_reply_cut_off_by_the_token_limit_loses_its_last_half_sentence() -> None:
    cut = "Alder bridge\nThe Alder bridge is in Norvale. It was opened in"
    assert run(scripted(passage=cut), max_tokens=len(cut.split())).text == "The Alder bridge is in Norvale."
    with pytest.raises(UnusableReply, match="rewrite reply empty: no whole sentence"):
        run(scripted(passage="Alder bridge\nThe Alder bridge is"), max_tokens=6)


@pytest.mark.parametrize("passage", ["The Alder bridge is in Norvale.", "T\nNone of the mills in Norvale is old."])
def test_good_short_passages_pass(passage: str) -> None:
    assert run(scripted(passage=passage)).text == passage.split("\n")[-1]


REPLIES = st.one_of(
    st.text(st.characters(exclude_categories=[])), st.sampled_from([r for _, r in CASES if len(r) < 9_999])
)


@settings(deadline=None)
@given(REPLIES, REPLIES)
@example(EVIDENCE, PASSAGE)
def test_any_reply_gives_a_clean_passage_or_a_named_refusal(evidence: str, passage: str) -> None:
    try:
        distilled = run(scripted(evidence, passage))
    except UnusableReply as error:
        refusal = str(error)
    else:
        refusal = ""
        assert distilled.text.strip() == distilled.text != ""
        assert f"{distilled.title}\n{distilled.text}\n{distilled.evidence}".encode()
    if refusal:
        assert refusal.startswith(("extract reply ", "rewrite reply "))
        assert refusal.encode()  # it goes into an Arrow column


@given(st.text())
def test_parsing_keeps_no_blank_line_and_is_stable(reply: str) -> None:
    lines = evidence_lines(reply)
    assert all(line and line == line.strip() for line in lines)
    assert len(set(lines)) == len(lines)
    title, text = title_and_text(reply)
    assert "\n" not in title + text
    assert text or not title


def test_each_call_gets_the_given_length() -> None:
    asked: list[int] = []

    class Recording(ScriptedLLM):
        async def chat(self, content: str, max_tokens: int) -> Reply:
            asked.append(max_tokens)
            return await super().chat(content, max_tokens)

    run(Recording(scripted().respond), max_tokens=77)
    assert asked == [77, 77]
