"""REPLUG on scripted generators: weights, prompts, what is dropped, and how its calls are counted."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag import config
from wbrag.algorithm import CountedLLM, train_example
from wbrag.config import ConfigError, Gates
from wbrag.llm import Reply
from wbrag.llm.fit import PromptTooLong
from wbrag.llm.scripted import ScriptedLLM
from wbrag.methods import Answer, Tools, naive, open_method, replug
from wbrag.methods.replug import mixture_weights
from wbrag.prompts import Prompts
from wbrag.schema import Document, Example

QUESTION = "Where is the Alder bridge?"
NEAR = Document("d1", "Alder bridge", "The bridge is in Norvale.", 0.9)
FAR = Document("d2", "Mills", "The mill is in Osterby.", 0.5)
TWIN = Document("d3", "Mills", "A mill stands in Osterby.", 0.5)
LONG = Document("d4", "Long", "word " * 100, 0.8)


def tools_for(llm: ScriptedLLM, temperature: float = 1.0) -> Tools:
    return Tools(llm, Prompts(), "factoid", 16, method=config.Method("replug", temperature))


def answered(llm: ScriptedLLM, documents: Sequence[Document], temperature: float = 1.0) -> Answer:
    return asyncio.run(replug.answer(QUESTION, documents, tools_for(llm, temperature)))


def town(prompt: str) -> str:
    return next((name for name in ("Norvale", "Osterby") if name in prompt), "unknown")


class Noted(ScriptedLLM):
    """A scripted generator that keeps what it was asked to mix."""

    mixed: tuple[list[str], list[float], str]

    async def mixture(
        self,
        contents: Sequence[str],
        weights: Sequence[float],
        max_tokens: int,
        pooling: str = "probabilities",
        bad_words: Sequence[str] = (),
    ) -> Reply:
        self.mixed = (list(contents), list(weights), pooling)
        return await super().mixture(contents, weights, max_tokens, pooling, bad_words)


def test_a_bad_word_has_no_vote() -> None:
    """An abstention is one word, so that those who do not know outvote the one who does."""
    documents = [Document(str(i), "", text, 0.5) for i, text in enumerate(("elsewhere", "nowhere", "in Norvale"))]
    assert answered(ScriptedLLM(town), documents).text == "unknown"
    tools = tools_for(ScriptedLLM(town))
    unsaid = dataclasses.replace(tools, method=config.Method("replug", bad_words=["unknown"]))
    assert asyncio.run(replug.answer(QUESTION, documents, unsaid)).text == "Norvale"


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0.01, 10))
def test_weights_are_a_softmax(scores: list[float], temperature: float) -> None:
    documents = [Document(str(i), "", "", score) for i, score in enumerate(scores)]
    weights = mixture_weights(documents, temperature)
    assert math.fsum(weights) == pytest.approx(1)
    best = max(scores)
    for score, weight in zip(scores, weights, strict=True):
        assert weight == pytest.approx(max(weights) * math.exp((score - best) / temperature), abs=1e-12)
    further = [Document(str(i), "", "", score + 3) for i, score in enumerate(scores)]
    assert mixture_weights(further, temperature) == pytest.approx(weights)
    assert mixture_weights(documents[::-1], temperature) == pytest.approx(weights[::-1])


def test_equal_scores_weigh_the_same() -> None:
    assert mixture_weights([FAR, TWIN], 0.1) == [0.5, 0.5]


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(score: float) -> None:
    with pytest.raises(ValueError, match="'dX' has the score"):
        mixture_weights([NEAR, Document("dX", "", "", score)], 1.0)


def test_one_prompt_per_document_with_naive_rags_words() -> None:
    llm = Noted(town)
    answer = answered(llm, [NEAR, FAR, TWIN], temperature=0.1)
    prompts, weights, pooling = llm.mixed
    assert prompts == [Prompts().message("factoid", [document], question=QUESTION) for document in (NEAR, FAR, TWIN)]
    assert weights == mixture_weights([NEAR, FAR, TWIN], 0.1)
    assert pooling == "probabilities"
    tokens = sum(map(llm.prompt_tokens, prompts))
    assert answer == Answer("Norvale", tokens, 3, calls=3, dropped_documents=0)


def test_the_weight_decides_and_not_the_number_of_documents() -> None:
    assert answered(ScriptedLLM(town), [NEAR, FAR, TWIN], temperature=0.1).text == "Norvale"
    assert answered(ScriptedLLM(town), [NEAR, FAR, TWIN], temperature=10).text == "Osterby"


def test_one_document_is_naive_rag() -> None:
    asked, plain = ScriptedLLM(town), ScriptedLLM(town)
    answer = answered(asked, [NEAR])
    assert answer == asyncio.run(naive.answer(QUESTION, [NEAR], tools_for(plain)))
    assert asked.prompts == plain.prompts


def test_no_document_is_closed_book() -> None:
    llm = ScriptedLLM(town)
    assert answered(llm, []).calls == 1
    assert llm.prompts == [Prompts().message("closed_book_factoid", question=QUESTION)]


@pytest.mark.parametrize(("documents", "read"), [([NEAR, LONG, FAR], [NEAR, FAR]), ([LONG, FAR, NEAR], [FAR, NEAR])])
def test_a_document_that_does_not_fit_leaves_its_weight_to_the_others(
    documents: list[Document], read: list[Document]
) -> None:
    llm = Noted(town, max_model_len=80)
    assert answered(llm, documents).dropped_documents == 1
    assert llm.mixed[1] == mixture_weights(read, 1.0)
    assert len(llm.prompts) == 2


def test_nothing_that_fits_is_refused() -> None:
    with pytest.raises(PromptTooLong, match="document 'd4' alone"):
        answered(ScriptedLLM(town, max_model_len=80), [LONG, LONG])


def test_a_weight_of_nothing_is_not_asked() -> None:
    llm = ScriptedLLM(town)
    assert answered(llm, [NEAR, FAR], temperature=1e-4).calls == 1
    assert llm.prompts == [Prompts().message("factoid", [NEAR], question=QUESTION)]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (config.Method("replug", pooling="mean"), r"method\.pooling='mean' is unknown; known are probabilities, log"),
        (config.Method("replug", temperature=0.0), r"method\.temperature=0\.0"),
        (config.Method("replug", temperature=math.nan), r"method\.temperature=nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(method: config.Method, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_method(method)
    assert open_method(config.Method("replug")) is replug.answer


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [1.0, 0.0], [1.5, -0.5]])
def test_what_is_no_mixture_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="mixture"):
        asyncio.run(ScriptedLLM(town).mixture(["a", "b"], weights, 4, "probabilities", []))


@pytest.mark.parametrize(("remember", "calls", "saved"), [(True, 4, 4), (False, 8, 0)])
def test_a_mixture_counts_its_documents_and_is_not_asked_twice(remember: bool, calls: int, saved: int) -> None:
    scripted = ScriptedLLM(town)
    llm = CountedLLM(scripted, remember)

    async def ask() -> list[Reply]:
        weights = [[0.6, 0.4], [0.6, 0.4], [0.4, 0.6]]  # two at the same time, then one afterwards
        replies = await asyncio.gather(*[llm.mixture(["in Norvale", "x"], w, 4) for w in weights])
        return [*replies, await llm.mixture(["in Norvale", "x"], [0.6, 0.4], 4)]

    assert [reply.text for reply in asyncio.run(ask())] == ["Norvale", "Norvale", "unknown", "Norvale"]
    assert (llm.calls, llm.calls_saved) == (calls, saved) == (len(scripted.prompts), saved)
    assert llm.prompt_tokens_sent == calls // 2 * 3


def test_an_example_is_trained_with_it() -> None:
    def respond(prompt: str) -> str:
        if prompt.startswith("Evidence:"):
            return "Alder bridge\nThe Alder bridge is in Norvale."
        return "The bridge is in Norvale." if "Extract the sentences" in prompt else town(prompt)

    llm = ScriptedLLM(respond)
    example = Example("q", QUESTION, ("Norvale",))
    tools = tools_for(llm, temperature=0.1)

    def metric(answer: str, golden: Sequence[str]) -> float:
        return float(answer == golden[0])

    row = asyncio.run(train_example(example, [NEAR, FAR, TWIN], tools, Gates(), metric))
    assert (row["status"], row["rag_answer"], row["kept_ranks"]) == ("kept", "Norvale", [1])
    assert row["document_answers"] == ["Norvale", "Osterby", "Osterby"]
    assert row["calls"] == 1 + 3 + 3 + 2 == len(llm.prompts)
