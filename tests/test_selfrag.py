"""Self-RAG: scores from critiques, the choice among answers, both ways of judging, and what it refuses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import build_tokenizer

from wbrag.algorithm import train_example
from wbrag.config import Backbone, ConfigError, Gates, Method
from wbrag.llm import FirstToken, Reply, Token
from wbrag.llm.fit import PromptTooLong
from wbrag.llm.scripted import SURE, ScriptedLLM, read
from wbrag.methods import Answer, Tools, check_method, selfrag
from wbrag.methods.selfrag import (
    LEAST,
    REFLECTION,
    SUPPORT,
    UTILITY,
    YES_NO,
    answer_tokens,
    best_answer,
    judged,
    likelihood,
    spoken,
)
from wbrag.methods.selfrag import Path as Candidate
from wbrag.metrics import acc, normalise
from wbrag.prompts import Prompts
from wbrag.schema import Document, Example

QUESTION = "Where is the Alder bridge?"
HELPFUL = Document("d1", "Alder bridge", "The Alder bridge is in Norvale.", 0.9)
USELESS = Document("d2", "Mills", "The mill is in Osterby.", 0.5)

PROBABILITY = st.floats(0.01, 1)
TEXTS = st.sampled_from(["yes", "Yes.", "no", "the no", "maybe"])
PATHS = st.lists(st.builds(Candidate, TEXTS, st.floats(0, 3)), min_size=1, max_size=6)


@given(st.lists(PROBABILITY, min_size=5, max_size=5), st.floats(0.1, 1))
def test_a_judgement_is_a_mean_of_the_weights_whatever_the_rest_of_the_vocabulary_has(
    probabilities: list[float], share: float
) -> None:
    told = dict(zip(UTILITY, probabilities, strict=True))
    value = judged(told, UTILITY)
    assert value is not None
    assert -1.0 <= value <= 1.0
    assert judged({key: share * p for key, p in told.items()}, UTILITY) == pytest.approx(value)


@pytest.mark.parametrize(
    ("probabilities", "value"),
    [((0.6, 0.2, 0.2), 0.7), ((1, 0, 0), 1.0), ((0, 0, 0.5), 0.0), ((0, LEAST / 2, 0), None)],
)
def test_support_counts_in_full_and_by_half(probabilities: Sequence[float], value: float | None) -> None:
    assert judged(dict(zip(SUPPORT, probabilities, strict=True)), SUPPORT) == (value and pytest.approx(value))


@given(PATHS)
def test_an_open_answer_is_that_of_the_best_path(paths: list[Candidate]) -> None:
    best = max(path.score for path in paths)
    assert best_answer(paths, closed=False) == next(path.text for path in paths if path.score == best)


@given(PATHS)
def test_equal_answers_of_a_closed_task_add_up(paths: list[Candidate]) -> None:
    chosen = best_answer(paths, closed=True)

    def total(text: str) -> float:
        return sum(path.score for path in paths if normalise(path.text) == normalise(text))

    assert total(chosen) == pytest.approx(max(total(path.text) for path in paths))


def test_two_weak_votes_beat_a_strong_one_where_answers_are_few() -> None:
    paths = [Candidate("yes", 1.5), Candidate("no", 1.0), Candidate("No.", 1.0)]
    assert (best_answer(paths, closed=True), best_answer(paths, closed=False)) == ("no", "yes")


@given(st.lists(st.floats(-9, 0), min_size=1, max_size=9))
def test_likelihood_lies_between_the_least_and_the_most_probable_token(logprobs: list[float]) -> None:
    value = likelihood([Token("x", logprob) for logprob in logprobs])
    assert math.exp(min(logprobs)) - 1e-9 <= value <= math.exp(max(logprobs)) + 1e-9
    assert likelihood([]) == 0.0


def test_what_a_checkpoint_says_about_its_text_is_no_part_of_it() -> None:
    assert spoken("[Retrieval]<paragraph>A\nb</paragraph>[Relevant]Norvale[Fully supported][Utility:5]") == "Norvale"
    tokens = [Token(text, -0.1) for text in ("Nor", "vale", "[Fully supported]", "[Utility:5]", "again")]
    assert [token.text for token in answer_tokens(tokens)] == ["Nor", "vale"]


def tools(llm: ScriptedLLM, task: str = "factoid", **method: object) -> Tools:
    return Tools(llm, Prompts(), task, 16, method=Method(name="selfrag", **method))  # type: ignore[arg-type]


def ask(llm: ScriptedLLM, documents: Sequence[Document], question: str = QUESTION, **method: object) -> Answer:
    return asyncio.run(selfrag.answer(question, documents, tools(llm, **method)))


def test_the_supported_answer_wins_over_its_rank() -> None:
    llm = ScriptedLLM(read)
    answer = ask(llm, [USELESS, HELPFUL])
    assert (answer.text, answer.retrievals, answer.calls) == ("in Norvale", 1, 1 + 3 * 2)
    p = Prompts()
    assert llm.prompts[0] == p.message("retrieve", question=QUESTION)
    expected = [p.message("relevance", [d], question=QUESTION) for d in (USELESS, HELPFUL)]
    expected += [p.message("factoid", [d], question=QUESTION) for d in (USELESS, HELPFUL)]
    expected += [
        p.message("support", [USELESS], question=QUESTION, answer="unknown"),
        p.message("support", [HELPFUL], question=QUESTION, answer="in Norvale"),
    ]
    assert sorted(llm.prompts[1:]) == sorted(expected)


def test_what_it_knows_it_does_not_read() -> None:
    llm, question = ScriptedLLM(read), "What is the capital of France?"
    answer = ask(llm, [HELPFUL], question)
    assert (answer.text, answer.retrievals, answer.calls) == ("Paris", 0, 2)
    assert llm.prompts == [
        Prompts().message("retrieve", question=question),
        Prompts().message("closed_book_factoid", question=question),
    ]


def test_the_threshold_decides_whether_it_reads() -> None:
    question = "What is the capital of France?"
    unsure = (1 - SURE) / 3 * 2  # yes and Yes, of a model that means no
    assert ask(ScriptedLLM(read), [HELPFUL], question, threshold=unsure / 2).retrievals == 1
    assert ask(ScriptedLLM(read), [HELPFUL], question, threshold=min(1.0, unsure * 2)).retrievals == 0


def test_a_model_that_does_not_judge_is_an_error_and_not_a_coin() -> None:
    with pytest.raises(ValueError, match="no judgement on whether to retrieve"):
        ask(ScriptedLLM(lambda prompt: "perhaps"), [HELPFUL])


def test_a_document_that_does_not_fit_is_dropped_and_counted() -> None:
    long = Document("d9", "T", "word " * 5_000)
    answer = ask(ScriptedLLM(read), [long, HELPFUL])
    assert (answer.text, answer.dropped_documents) == ("in Norvale", 1)
    with pytest.raises(PromptTooLong):
        ask(ScriptedLLM(read), [long])


@pytest.mark.parametrize("mode", ["prompted", "tokens"])
@pytest.mark.parametrize("words", [60, 84, 90, 96, 5_000])
def test_a_document_that_its_own_prompts_cannot_hold_is_cut_and_fails_no_example(mode: str, words: int) -> None:
    long = Document("d1", "T", "The Alder bridge is in Norvale. " + "word " * words)
    llm = ScriptedLLM(read if mode == "prompted" else lambda prompt: f"[Retrieval]{read(prompt)}", max_model_len=150)
    example = Example("q", QUESTION, ("in Norvale",), "{}")
    row = asyncio.run(train_example(example, [long], tools(llm, mode=mode), Gates(), acc, distils=False))
    assert row["status"] != "failed", row["reason"]


@pytest.mark.parametrize("stage", ["Do the documents help", "Do the documents support", "Answer the factoid"])
def test_an_error_at_any_call_is_the_answers(stage: str) -> None:
    def respond(prompt: str) -> str:
        if stage in prompt:
            raise ConnectionError("connection reset")
        return read(prompt)

    with pytest.raises(ConnectionError):
        ask(ScriptedLLM(respond), [HELPFUL, USELESS])


class Reflective(ScriptedLLM):
    """A Self-RAG checkpoint in small: it reads the paragraph in the prefix, and writes its marks after the answer."""

    prefixes: list[str]

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        said = "in Norvale" if "Alder bridge" in prefix else "Osterby"
        pieces = (*said.partition(" "), "[Fully supported]", "[Utility:5]")
        tokens = tuple(Token(piece, math.log(0.9)) for piece in pieces if piece)
        return Reply("".join(pieces), 1, len(tokens), tokens)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        self.prefixes = [*getattr(self, "prefixes", []), prefix]
        good = "Alder bridge" in prefix or not prefix
        best = candidates[0] if good or "[Utility:1]" in candidates else candidates[1]
        return FirstToken({c: 0.8 if c == best else 0.1 / len(candidates) for c in candidates}, 1)


def test_a_checkpoint_judges_by_its_own_tokens_in_their_order() -> None:
    llm = Reflective(read)
    answer = ask(llm, [USELESS, HELPFUL], mode="tokens")
    assert (answer.text, answer.retrievals, answer.calls) == ("in Norvale", 1, 1 + 4 * 2)
    given_ = f"[Retrieval]<paragraph>{HELPFUL.contents}</paragraph>"
    assert [prefix for prefix in llm.prefixes if HELPFUL.title in prefix] == [
        given_,
        f"{given_}[Relevant]in Norvale",
        f"{given_}[Relevant]in Norvale[Fully supported]",
    ]
    assert f"[Retrieval]<paragraph>{USELESS.contents}</paragraph>[Irrelevant]Osterby" in llm.prefixes


def test_a_checkpoint_that_needs_nothing_answers_without_its_marks() -> None:
    answer = ask(Reflective(read), [HELPFUL], mode="tokens", threshold=0.999)
    assert (answer.text, answer.retrievals, answer.calls) == ("Osterby", 0, 2)


TOKENS = Method(name="selfrag", mode="tokens")


def test_token_mode_on_a_model_without_the_tokens_is_refused(tmp_path: Path) -> None:
    build_tokenizer(tmp_path)
    backbone = Backbone(name="tiny", model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"mode=tokens, but the tokenizer of .* lacks '\[Retrieval\]' \(12 of 12\)"):
        check_method(TOKENS, backbone)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(list(REFLECTION))
    tokenizer.save_pretrained(tmp_path)
    check_method(TOKENS, backbone)


def test_the_scripted_reader_has_no_such_tokens_and_judges_when_asked() -> None:
    with pytest.raises(ConfigError, match="lacks"):
        check_method(TOKENS, Backbone(name="s", kind="scripted", model="scripted"))
    told = asyncio.run(
        ScriptedLLM(read).first_token(Prompts().message("relevance", [HELPFUL], question=QUESTION), list(YES_NO))
    )
    assert told.probabilities["yes"] == SURE
    assert sum(told.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Method(name="selfrag", mode="magic"), "method.mode='magic'"),
        (Method(name="selfrag", threshold=1.5), "method.threshold=1.5"),
        (Method(name="flare", theta=-0.1), "method.theta=-0.1"),
        (Method(name="flare", beta=2.0), "method.beta=2.0"),
        (Method(name="flare", query="magic"), "method.query='magic'"),
    ],
)
def test_settings_that_cannot_work_are_named(method: Method, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_method(method, Backbone(name="s", kind="scripted", model="scripted"))
