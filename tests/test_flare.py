"""FLARE: what it masks, where a sentence ends, when it searches, and that it stops."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import Method
from wbrag.llm import Token
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.methods import Answer, Search, Tools, flare
from wbrag.methods.flare import (
    Word,
    first_sentence,
    interleaved,
    masked,
    phrases,
    words_of,
)
from wbrag.prompts import Prompts
from wbrag.schema import Document

QUESTION = "Where is the Alder bridge?"
AT_HAND = Document("d1", "Mills", "The mill is in Osterby.", 0.5)
FOUND = Document("d2", "Alder bridge", "The Alder bridge is in Norvale.", 0.9)

PIECES = st.text("ab .!?\n\"'", min_size=1, max_size=4)
TOKENS = st.lists(st.builds(Token, PIECES, st.floats(-5, 0)), max_size=12)
WORDS = st.lists(st.builds(Word, st.text("abc", min_size=1, max_size=3), st.floats(0, 1)), max_size=8)
DOCUMENTS = st.lists(st.builds(Document, st.sampled_from("abcdef"), st.just("t"), st.just("x")), max_size=6)


def text_of(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


@given(TOKENS)
def test_words_are_those_of_the_text_and_as_sure_as_their_least_token(tokens: list[Token]) -> None:
    words = words_of(tokens)
    assert [word.text for word in words] == text_of(tokens).split()
    least = min((token.logprob for token in tokens if token.text.strip()), default=0.0)
    assert min((word.probability for word in words), default=1.0) == pytest.approx(math.exp(least))


@given(TOKENS)
def test_the_first_sentence_begins_the_text_and_holds_one_end(tokens: list[Token]) -> None:
    sentence, whole = text_of(first_sentence(tokens)), text_of(tokens)
    assert whole.startswith(sentence)
    assert bool(sentence.strip()) == bool(whole.strip())
    assert "\n" not in sentence.lstrip()
    assert not any(f"{end} " in sentence.strip() for end in ("a.", "a!", "b?"))
    if sentence != whole:
        assert whole[len(sentence)].isspace()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("in Norvale", "in Norvale"),
        ("It is so. It was.", "It is so."),
        ('He said "no." Then left.', 'He said "no."'),
        ("about 1.5 km away. More", "about 1.5 km away."),
        (" one\ntwo", " one"),
        ("\nlate. More", "\nlate."),
        ("", ""),
    ],
)
def test_where_a_sentence_ends(text: str, sentence: str) -> None:
    assert text_of(first_sentence([Token(letter, -0.1) for letter in text])) == sentence
    assert text_of(first_sentence([Token(text, -0.1)])) == sentence


@given(WORDS, st.floats(0, 1))
def test_masking_drops_the_unsure_words_and_never_all(words: list[Word], beta: float) -> None:
    kept = masked(words, beta).split()
    sure = [word.text for word in words if word.probability >= beta]
    assert kept == (sure or [word.text for word in words])
    assert bool(phrases(words, beta)) == any(word.probability < beta for word in words)
    asked = " ".join(phrases(words, beta)).split()
    assert set(asked) == {word.text for word in words if word.probability < beta}


def test_neighbouring_unsure_words_are_one_phrase() -> None:
    words = [Word("Ada", 0.9), Word("in", 0.1), Word("Port", 0.2), Word("since", 0.9), Word("1900", 0.1)]
    assert phrases(words, 0.5) == ["in Port", "1900"]
    assert masked(words, 0.5) == "Ada since"


@given(st.lists(DOCUMENTS, max_size=4), st.integers(1, 6))
def test_lists_are_merged_by_rank_without_repeats(lists: list[list[Document]], k: int) -> None:
    merged = interleaved(lists, k)
    every = {document.id for documents in lists for document in documents}
    assert len(merged) == len({document.id for document in merged}) == min(k, len(every))
    heads = {documents[0].id for documents in lists if documents}
    assert {document.id for document in merged[: len(heads)]} == heads or k < len(heads)


def tools(llm: ScriptedLLM, search: Search | None, answer_tokens: int = 32, **method: object) -> Tools:
    chosen = Method(name="flare", **method)  # type: ignore[arg-type]
    return Tools(llm, Prompts(), "factoid", answer_tokens, method=chosen, search=search)


def finding(documents: list[Document], queries: list[str]) -> Search:
    async def search(query: str, k: int) -> list[Document]:
        queries.append(query)
        return documents[:k]

    return search


def answered(llm: ScriptedLLM, search: Search | None = None, **options: object) -> Answer:
    given_tools = tools(llm, search, **options)  # type: ignore[arg-type]
    return asyncio.run(flare.answer(QUESTION, [AT_HAND], given_tools))


def test_an_unsure_answer_makes_it_search_and_write_again() -> None:
    llm, queries = ScriptedLLM(read), list[str]()
    answer = answered(llm, finding([FOUND, AT_HAND], queries))
    assert (answer.text, answer.retrievals, answer.calls) == ("in Norvale", 1, 2)
    assert queries == [f"{QUESTION} unknown"]
    p = Prompts()
    assert llm.prompts == [
        p.message("factoid", [AT_HAND], question=QUESTION),
        p.message("factoid", [FOUND], question=QUESTION),
    ]


def test_a_sure_answer_is_not_searched_for() -> None:
    queries: list[str] = []
    given_tools = tools(ScriptedLLM(read), finding([AT_HAND], queries))
    answer = asyncio.run(flare.answer(QUESTION, [FOUND], given_tools))
    assert (answer.text, answer.retrievals, answer.calls, queries) == ("in Norvale", 0, 1, [])


def test_without_a_search_doubt_stands() -> None:
    answer = answered(ScriptedLLM(read), None)
    assert (answer.text, answer.retrievals, answer.calls) == ("unknown", 0, 1)


def test_without_documents_it_answers_closed_book() -> None:
    llm = ScriptedLLM(read)
    assert asyncio.run(flare.answer(QUESTION, [], tools(llm, finding([FOUND], [])))).text == "unknown"
    assert llm.prompts == [Prompts().message("closed_book_factoid", question=QUESTION)]


LONG = "Ada built the bridge. She was born in 1802. It crosses the Osk."


def by_word(unsure: set[str]) -> Callable[[str, str], float]:
    return lambda prompt, word: 0.1 if word.strip(".") in unsure else 0.9


def test_sentences_are_joined_by_blanks_and_the_end_of_the_text_ends_it() -> None:
    llm = ScriptedLLM(lambda prompt: LONG, confidence=by_word({"1802"}))
    queries: list[str] = []
    answer = answered(llm, finding([FOUND], queries))
    assert (answer.text, answer.retrievals, answer.calls) == (LONG, 1, 4)
    assert queries == [f"{QUESTION} She was born in"]
    documents = ["Mills" in prompt for prompt in llm.prompts]
    assert documents == [True, True, False, False]  # what was found stays in the prompt


def test_an_answer_ends_with_its_tokens() -> None:
    llm = ScriptedLLM(lambda prompt: LONG, confidence=by_word(set()))
    answer = answered(llm, answer_tokens=5)
    assert answer.text == "Ada built the bridge. She was born in 1802."
    assert answer.calls == 2


def test_an_unsure_phrase_can_be_asked_about() -> None:
    def respond(prompt: str) -> str:
        return "When was Ada born?" if "Ask one question" in prompt else LONG

    llm = ScriptedLLM(respond, confidence=by_word({"1802"}))
    queries: list[str] = []
    answer = answered(llm, finding([FOUND], queries), query="generated")
    assert queries == ["When was Ada born?"]
    assert (answer.text, answer.retrievals, answer.calls) == (LONG, 1, 5)
    assert [prompt for prompt in llm.prompts if "Ask one" in prompt] == [
        Prompts().message(
            "ask", question=QUESTION, answer="Ada built the bridge. She was born in 1802.", phrase="1802."
        )
    ]


def test_a_search_that_fails_fails_the_answer() -> None:
    async def search(query: str, k: int) -> list[Document]:
        raise ConnectionError("the index is gone")

    with pytest.raises(ConnectionError, match="the index is gone"):
        answered(ScriptedLLM(read), search)


@given(st.lists(st.sampled_from([0.1, 0.5, 0.7, 0.95]), min_size=1, max_size=12), st.floats(0, 1))
def test_it_searches_once_for_each_sentence_below_theta(probabilities: list[float], theta: float) -> None:
    words = [f"w{i}." for i in range(len(probabilities))]
    sure = dict(zip(words, probabilities, strict=True))
    llm = ScriptedLLM(lambda prompt: " ".join(words), confidence=lambda prompt, word: sure[word])
    queries: list[str] = []
    answer = answered(llm, finding([FOUND], queries), theta=theta)
    assert answer.text == " ".join(words)
    assert answer.retrievals == len(queries) == sum(math.exp(math.log(p)) < theta for p in probabilities)
    assert answer.calls == len(words) + answer.retrievals
