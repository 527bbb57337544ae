"""Units written on request: word for word, by subject, from drafts, without documents; what bad replies come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import Units
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Tools
from wbrag.prompts import Prompts
from wbrag.schema import REQUEST, WRITTEN, Document, document_rows, unit_id
from wbrag.units.sentences import sentences, words
from wbrag.units.write import write_units

HELPFUL = Document("p1", "Town 1", "The mayor of town1 is Ada. The river of town1 is Osk.")
OTHER = Document("p2", "Town 2", "The mayor of town2 is Ben.")
QUESTION = "What is the mayor of town1?"
MILL = "Oakwick is a town on the Osk. Its mill was built by Ida in 1904 and has stood idle since."
SAYS = [
    Document("a", '"Oakwick"', f"{MILL} Oakwick has two markets, one of them for wool."),
    Document("b", "Osk", "The Osk is a river. Oakwick and Elm lie on the Osk. Boats go up to Elm in spring."),
    Document("c", "Elm", "Elm is small."),
]
PAPER = Units()
VERBATIM = Units(form="verbatim")
SUBJECT = Units(scope="subject")


def request(documents: list[Document], **changes: object) -> dict[str, Any]:
    """A row as it comes out of a table: what is not said is null."""
    asked = {"id": "r", "question": QUESTION, "documents": document_rows(documents), "judged": False}
    table = pa.Table.from_pylist([dict.fromkeys(REQUEST.names) | asked | changes], REQUEST)
    return dict(table.to_pylist()[0])


def told(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"text": text, "source": source} for text, source in pairs]


def written(
    row: dict[str, Any], how: Units = PAPER, respond: Callable[[str], str] = read, tokens: int = 4096
) -> tuple[dict[str, Any], ScriptedLLM]:
    """What is written, as it comes out of a table, and the generator that was asked."""
    llm = ScriptedLLM(respond, tokens)
    made = asyncio.run(write_units(row, Tools(llm, Prompts({}), "factoid", 16, 64), how, n_min=1))
    assert made["calls"] == len(llm.prompts)
    return dict(pa.Table.from_pylist([made], WRITTEN).to_pylist()[0]), llm


# One unit, as Algorithm 1 and the placebos write it


def test_a_unit_is_distilled_from_the_documents_asked_for() -> None:
    row, llm = written(request([HELPFUL, OTHER]))
    (unit,) = row["units"]
    assert (row["status"], unit["source_ids"], row["calls"]) == ("kept", ["p1", "p2"], 2)
    assert "Ada" in unit["text"]
    assert len(llm.prompts) == 2
    assert unit["unit_tokens"] > 0
    assert (unit["subject"], unit["form"], unit["doubt"], unit["example_ids"]) == ("", "distilled", "", ["r"])


@pytest.mark.parametrize(("verdict", "sources"), [("yes", ["p1"]), ("no", ["p2"])])
def test_a_judged_request_reads_what_is_called_relevant(verdict: str, sources: list[str]) -> None:
    def respond(prompt: str) -> str:
        if "help to answer" not in prompt:
            return read(prompt)
        return verdict if "town1 is Ada" in prompt else "no"

    row, _ = written(request([OTHER, HELPFUL], judged=True), respond=respond)
    assert (row["status"], row["units"][0]["source_ids"]) == ("kept", sources)
    assert row["calls"] == 4


def test_without_documents_the_generator_writes_from_what_it_knows() -> None:
    row, llm = written(request([]), respond=lambda _: "Town 1\nIts mayor is Eve.")
    (unit,) = row["units"]
    assert (row["status"], unit["title"], unit["text"]) == ("kept", "Town 1", "Its mayor is Eve.")
    assert (unit["source_ids"], unit["source_tokens"]) == ([], 0)
    (prompt,) = llm.prompts
    assert "from your own knowledge" in prompt
    assert QUESTION in prompt


def test_a_reply_that_is_no_passage_and_an_error_are_told_apart() -> None:
    row, _ = written(request([]), respond=lambda _: "I cannot help with that.")
    assert (row["status"], row["units"], row["left_out"]) == ("gated", [], [])
    assert "unaided reply refusal" in row["reason"]

    def broken(_: str) -> str:
        raise RuntimeError("the engine is gone")

    row, _ = written(request([HELPFUL]), respond=broken)
    assert (row["status"], row["units"], row["reason"]) == ("failed", [], "RuntimeError: the engine is gone")
    assert row["calls"] == 1


def test_a_request_that_cannot_be_asked_fails_alone_and_names_its_document() -> None:
    row, llm = written(request([HELPFUL]), tokens=70)
    assert (row["status"], row["calls"], len(llm.prompts)) == ("failed", 0, 0)
    assert "PromptTooLong: document 'p1' alone" in row["reason"]


def test_the_examples_behind_a_unit_are_the_requests_and_may_be_none() -> None:
    statements = told((OTHER.text, "p2"), ("The mayor of town1 is Ada.", "p1"))
    for examples in (["e1", "e2"], []):
        row, _ = written(request([HELPFUL, OTHER], examples=examples, statements=statements), VERBATIM)
        assert [unit["example_ids"] for unit in row["units"]] == [examples]


# Word for word


def test_verbatim_units_are_the_statements_under_their_title_and_ask_nobody() -> None:
    statements = told(("Oakwick and Elm lie on the Osk.", "b"), ("Oakwick is a town on the Osk.", "a"))
    row, llm = written(request(SAYS, statements=statements, examples=["e"]), VERBATIM)
    (unit,) = row["units"]
    assert (unit["title"], unit["text"]) == ("Osk", "Oakwick and Elm lie on the Osk. Oakwick is a town on the Osk.")
    assert unit["source_ids"] == ["b", "a"]
    assert unit["id"] == unit_id(unit["title"], unit["text"], ("a", "b"))
    assert (unit["form"], unit["subject"], unit["doubt"]) == ("verbatim", "", "")
    assert unit["source_tokens"] == sum(len(SAYS[i].contents.split()) for i in (0, 1))
    assert unit["unit_tokens"] == len(unit["text"].split()) + 1
    assert (row["status"], row["left_out"], llm.prompts, row["prompt_tokens"]) == ("kept", [], [], 0)

    titled, _ = written(request(SAYS, statements=statements, subject="Oakwick"), VERBATIM)
    assert (titled["units"][0]["title"], titled["units"][0]["subject"]) == ("Oakwick", "Oakwick")
    plain, _ = written(request(SAYS, statements=statements[1:]), VERBATIM)
    assert plain["units"][0]["title"] == "Oakwick"  # the passage's own is in quotes


def test_what_two_statements_say_is_told_once() -> None:
    less, more = "Oakwick lies on the Osk.", "Oakwick and Elm lie on the Osk."
    statements = told((more, "b"), (more, "b"), ("Oakwick and Elm, on the Osk, lie.", "a"), (less, "a"))
    row, _ = written(request(SAYS, statements=statements), VERBATIM)
    assert row["units"][0]["text"] == f"{more} {less}"  # "lies" is a word that the longer one lacks


def test_a_unit_that_is_a_passage_again_is_left_out_and_the_others_stay() -> None:
    copied = told((SAYS[2].text, "c"))
    row, _ = written(request(SAYS, statements=copied), VERBATIM)
    assert (row["status"], row["units"], row["reason"]) == ("gated", [], "nothing was left to write")
    assert row["left_out"] == [{"text": SAYS[2].text, "kind": "copy", "reason": "is passage c again"}]

    beside = told(("Oakwick has two markets, one of them for wool.", "a"), *[(SAYS[2].text, "c")])
    row, _ = written(request(SAYS, statements=beside), VERBATIM)
    assert [unit["source_ids"] for unit in row["units"]] == [["a", "c"]]  # of two passages it is no copy
    short, _ = written(request(SAYS, statements=beside), Units(form="verbatim", tokens=9))
    assert [unit["source_ids"] for unit in short["units"]] == [["a"]]
    assert [one["reason"] for one in short["left_out"]] == ["is passage c again"]


def test_without_statements_the_generator_names_sentences_and_only_those_that_stand_there_are_taken() -> None:
    def respond(prompt: str) -> str:
        if "(Title: Osk)" in prompt:
            return "1. Elm and Oakwick lie on the Osk.\n2. Oakwick is the largest harbour of the land."
        return "- Oakwick is a town on the Osk." if "Ida" in prompt else "None."

    row, llm = written(request(SAYS, question="Which river is Oakwick on?"), VERBATIM, respond)
    (unit,) = row["units"]
    assert unit["text"] == "Oakwick is a town on the Osk. Oakwick and Elm lie on the Osk."
    assert unit["source_ids"] == ["a", "b"]
    assert (len(llm.prompts), row["calls"]) == (3, 3)
    assert all("Which river is Oakwick on?" in prompt for prompt in llm.prompts)
    nothing, _ = written(request(SAYS), VERBATIM, lambda _: "None.")
    assert (nothing["status"], nothing["reason"]) == ("gated", "nothing was left to write")


EVERY = [(sentence, document.id) for document in SAYS for sentence in sentences(document.text)]


@given(st.lists(st.sampled_from(EVERY), unique=True, min_size=1), st.integers(4, 60))
def test_every_sentence_of_a_verbatim_unit_stands_in_the_sources_that_it_names(
    chosen: list[tuple[str, str]], tokens: int
) -> None:
    row, llm = written(request(SAYS, statements=told(*chosen)), Units(form="verbatim", tokens=tokens))
    texts = {document.id: document.text for document in SAYS}
    there = []
    for unit in row["units"]:
        stated = sentences(unit["text"])
        there += stated
        assert all(any(sentence in texts[source] for source in unit["source_ids"]) for sentence in stated)
        assert len(unit["text"].split()) <= tokens or len(stated) == 1
    there += [sentence for one in row["left_out"] for sentence in sentences(one["text"])]
    assert len(there) == len(set(there))
    said = [words(sentence) for sentence in there]
    assert all(any(words(text) <= own for own in said) for text, _ in chosen)  # nothing that was said is lost
    assert llm.prompts == []


# By subject, rewritten


def test_a_subject_is_extracted_document_by_document_and_rewritten_pack_by_pack() -> None:
    how = Units(scope="subject", tokens=18)
    row, llm = written(request(SAYS, question="", subject="Oakwick", examples=[]), how)
    asked = Prompts().message("about", subject="Oakwick")
    extracts, rewrites = llm.prompts[:3], llm.prompts[3:]
    assert [document.text in prompt for document, prompt in zip(SAYS, extracts, strict=True)] == [True] * 3
    assert all(asked in prompt for prompt in llm.prompts)
    assert len(rewrites) == len(row["units"]) > 1
    assert row["calls"] == len(llm.prompts)
    for unit in row["units"]:
        sources = {d.id for d in SAYS if any(s in d.text for s in sentences(unit["text"]))}
        assert set(unit["source_ids"]) == sources
        assert (unit["subject"], unit["form"], unit["example_ids"]) == ("Oakwick", "distilled", [])
    assert {source for unit in row["units"] for source in unit["source_ids"]} == {"a", "b"}


def test_a_subject_that_is_asked_about_is_written_for_that_question_and_gives_its_name_as_title() -> None:
    def respond(prompt: str) -> str:
        return "Oakwick is a town on the Osk." if prompt.startswith("Evidence:") else read(prompt)

    row, llm = written(request(SAYS, question="Which river is Oakwick on?", subject="Oakwick"), SUBJECT, respond)
    assert all("Which river is Oakwick on?" in prompt for prompt in llm.prompts)
    assert [unit["title"] for unit in row["units"]] == ["Oakwick"]


def test_a_draft_is_taken_as_it_is() -> None:
    draft = {"title": "Town 1", "text": "Ada is mayor of town1.", "evidence": HELPFUL.text}
    row, llm = written(request([HELPFUL, OTHER], draft=draft, examples=["e"]))
    (unit,) = row["units"]
    assert (unit["title"], unit["text"], unit["source_ids"]) == (draft["title"], draft["text"], ["p1", "p2"])
    assert (llm.prompts, row["status"]) == ([], "kept")
    assert unit["id"] == unit_id(draft["title"], draft["text"], ("p1", "p2"))


def test_a_bad_rewrite_of_a_subject_is_left_out_with_what_is_wrong_and_its_other_units_stay() -> None:
    def respond(prompt: str) -> str:
        return "I'm sorry, I cannot help." if prompt.startswith("Evidence:") and MARKETS in prompt else read(prompt)

    row, _ = written(request(SAYS, question="", subject="Oakwick"), SUBJECT, respond)
    assert (row["status"], row["units"], row["reason"]) == ("gated", [], "nothing was left to write")
    assert [one["kind"] for one in row["left_out"]] == ["unusable"]
    assert row["left_out"][0]["reason"].startswith("rewrite reply refusal")
    packs = Units(scope="subject", tokens=18)
    row, _ = written(request(SAYS, question="", subject="Oakwick"), packs, respond)
    assert row["status"] == "kept"
    assert row["units"]
    assert [one["kind"] for one in row["left_out"]] == ["unusable"]
    row, _ = written(request(SAYS, question="", subject="Oakwick"), replace(packs, faithful=True), respond)
    assert any(MARKETS in unit["text"] and unit["doubt"] == "fallback" for unit in row["units"])


# Held to the sources

FAITHFUL = Units(faithful=True)
STATED = "Oakwick is a town on the Osk."
MARKETS = "Oakwick has two markets, one of them for wool."
FOREIGN = "Oakwick burned down in 1944."


def drafted(text: str, evidence: str = STATED, **changes: object) -> dict[str, Any]:
    return request(SAYS, draft={"title": "Oakwick", "text": text, "evidence": evidence}, examples=["e"], **changes)


def claims(verdict: str, rewrite: str = "") -> Callable[[str], str]:
    """A generator that gives one verdict on every claim, and one passage."""
    return lambda prompt: rewrite if prompt.startswith("Evidence:") else verdict


def test_a_faithful_draft_stays_and_asks_nobody() -> None:
    row, llm = written(drafted(f"{STATED} {MARKETS}"), FAITHFUL)
    (unit,) = row["units"]
    assert (unit["text"], unit["form"], unit["doubt"]) == (f"{STATED} {MARKETS}", "distilled", "")
    assert (row["left_out"], llm.prompts) == ([], [])


def test_what_no_source_has_is_cut_and_told() -> None:
    row, llm = written(drafted(f"{STATED} {FOREIGN} {MARKETS}"), FAITHFUL)
    (unit,) = row["units"]
    assert (unit["text"], unit["doubt"]) == (f"{STATED} {MARKETS}", "cut")
    assert row["left_out"] == [{"text": FOREIGN, "kind": "foreign", "reason": "number '1944'"}]
    assert llm.prompts == []
    strange = request(SAYS, draft={"title": "Sorrento", "text": STATED, "evidence": STATED})
    assert written(strange, FAITHFUL)[0]["units"][0]["title"] == "Oakwick"  # the first source's, as the draft's is not


@pytest.mark.parametrize(("verdict", "doubt", "kind"), [("SUPPORTS", "supported", None), ("no", "cut", "unsupported")])
def test_what_no_rule_decides_the_critic_does(verdict: str, doubt: str, kind: str | None) -> None:
    row, llm = written(drafted(f"{STATED} In Oakwick wool is sold at markets."), FAITHFUL, claims(verdict))
    assert [(unit["doubt"], unit["form"]) for unit in row["units"]] == [(doubt, "distilled")]
    assert [one["kind"] for one in row["left_out"]] == ([kind] if kind else [])
    (prompt,) = llm.prompts
    assert "In Oakwick wool is sold at markets." in prompt
    silent, llm = written(drafted(f"{STATED} In Oakwick wool is sold at markets."), replace(FAITHFUL, critic="none"))
    assert (silent["units"][0]["text"], llm.prompts) == (STATED, [])


def test_a_draft_of_which_less_than_half_is_left_is_written_once_more_from_what_stands_there() -> None:
    asked = drafted(f"{FOREIGN} It was rebuilt in 1951.", evidence=f"{STATED}\n- Nothing of the sort is written there.")
    row, llm = written(asked, FAITHFUL, claims("no", f"Oakwick\n{STATED}"))
    (unit,) = row["units"]
    assert (unit["text"], unit["form"], unit["doubt"]) == (STATED, "distilled", "")
    (prompt,) = llm.prompts
    assert STATED in prompt
    assert "Nothing of the sort" not in prompt
    assert [one["kind"] for one in row["left_out"]] == ["foreign", "foreign"]


@pytest.mark.parametrize("rewrite", [f"Oakwick\n{FOREIGN}", "I'm sorry, I cannot help."])
def test_after_two_unfaithful_drafts_the_evidence_itself_is_the_unit(rewrite: str) -> None:
    asked = drafted(FOREIGN, evidence=f"{STATED}\n{MARKETS}\nNothing of the sort is written there.")
    row, llm = written(asked, FAITHFUL, claims("no", rewrite))
    (unit,) = row["units"]
    assert (unit["text"], unit["form"], unit["doubt"]) == (f"{STATED} {MARKETS}", "verbatim", "fallback")
    assert len(llm.prompts) == 1
    once, llm = written(drafted(FOREIGN, evidence=STATED), FAITHFUL, claims("no", rewrite))
    assert (once["units"][0]["text"], llm.prompts) == (STATED, [])  # there is no other evidence to write from


def test_a_reply_that_is_no_passage_leaves_the_nearest_sentences() -> None:
    statements = told((STATED, "a"), ("The Osk is a river.", "b"))
    row, _ = written(request(SAYS, statements=statements), FAITHFUL, lambda _: "I cannot help with that.")
    (unit,) = row["units"]
    assert (unit["text"], unit["form"], unit["doubt"]) == (f"{STATED} The Osk is a river.", "verbatim", "fallback")
    (left,) = row["left_out"]
    assert (left["kind"], left["reason"][:21]) == ("unusable", "extract reply refusal")
    assert row["status"] == "kept"
