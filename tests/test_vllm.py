"""The vLLM engine: pure choices, then real ones, on a random-weight checkpoint and on the reader of this repository."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_actors import ASKED, MICRO, TEXTS, WEIGHTS

from microworld.generate import Plan, generate
from wbrag.config import Backbone, ConfigError, Encoder, Method
from wbrag.data.benchmarks import read_examples
from wbrag.data.flashrag import parse_passage
from wbrag.llm import Reply, Token
from wbrag.llm.engine import engine_arguments, pick_dtype, resolve_model
from wbrag.llm.reasoning import NoAnswer
from wbrag.llm.vllm import Places, VllmEngine, pieces, speller
from wbrag.methods import Answer, Tools, flare, open_method, selfrag
from wbrag.prompts import Prompts
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.retrieval.searching import BatchedSearch
from wbrag.schema import Document


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/m") == str(tmp_path / "models" / "m")
    assert resolve_model("microworld") == str(Path(__file__).parents[1] / "microworld")


def test_a_hub_name_stays() -> None:
    assert resolve_model("meta-llama/Llama-3.1-8B-Instruct") == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize("model", ["/no/such/folder", "./models", "microworld/models/none"])
def test_a_path_that_is_no_folder_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=f"'{model}' is neither a folder nor"):
        resolve_model(model)


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_dtype_needs_native_bf16(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert pick_dtype("auto", on_cpu=True) == expected
    assert pick_dtype("float16", on_cpu=True) == "float16"
    assert pick_dtype("auto", on_cpu=False) == "auto"


def test_arguments_for_cpu_and_gpu(tmp_path: Path) -> None:
    backbone = Backbone(name="m", model=str(tmp_path), dtype="float32", tensor_parallel_size=2)
    cpu, gpu = engine_arguments(backbone, on_cpu=True), engine_arguments(backbone, on_cpu=False)
    assert (cpu["enforce_eager"], cpu["kv_cache_memory_bytes"]) == (True, 1 << 30)
    assert "gpu_memory_utilization" not in cpu
    assert (gpu["gpu_memory_utilization"], gpu["distributed_executor_backend"]) == (0.9, "mp")
    assert gpu["tensor_parallel_size"] == 2
    assert cpu["language_model_only"] is gpu["language_model_only"] is True


def test_a_dead_engine_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        assert code == 1
        raise Ended

    async def generate(*_: object) -> AsyncIterator[None]:
        raise EngineDeadError
        yield

    engine: Any = object.__new__(VllmEngine)
    engine.engine, engine.numbers, engine.max_model_len = SimpleNamespace(generate=generate), count(), 100
    engine.places = Places(1)
    engine.render, engine.thinking = (lambda content, prefix: [1, 2]), 0
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended):
        asyncio.run(engine.chat("x", 4))


def test_pieces_are_text_without_special_tokens_and_whole_characters() -> None:
    euro = "\u20ac".encode()
    parts = [b"It", b" costs", b" ", euro[:1], euro[1:], b"", b"5"]  # the empty one: a special token

    def decode(ids: Sequence[int]) -> str:
        return b"".join(parts[i] for i in ids).decode(errors="replace")

    found = pieces(range(len(parts)), [-0.1, -0.2, -0.3, -0.4, -0.5, -9.0, -0.6], decode)
    assert found == (
        *(Token("It", -0.1), Token(" costs", -0.2), Token(" ", -0.3)),
        *(Token("\u20ac", -0.5), Token("5", -0.6)),
    )


class Spelling:
    """A tokenizer of whole words, some of them special."""

    def __init__(self, words: list[str], special: list[str]) -> None:
        self.words, self.all_special_tokens = words, special
        self.all_special_ids = [words.index(one) for one in special]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **more: object) -> str:
        kept = [self.words[i] for i in ids]
        return "".join(word for word in kept if not (skip_special_tokens and word in self.all_special_tokens))


WORDS = ["[THINK]", "Rome?", "[/THINK]", " Paris", "</s>", "<think>", "</think>"]


@pytest.mark.parametrize(
    ("said", "special", "opened", "text"),
    [
        ([0, 1, 2, 3, 4], ["[THINK]", "[/THINK]", "</s>"], False, "Paris"),  # marks that are special tokens
        ([5, 1, 6, 3, 4], ["</s>"], False, "Paris"),
        ([1, 6, 3, 4], ["</s>"], True, "Paris"),
        ([3, 4], ["</s>"], False, "Paris"),
        ([3, 4], [], False, "Paris"),  # what ends a reply is no part of it, special or not
        ([4], ["</s>"], False, ""),  # it said nothing: the empty answer
        ([0, 1], ["[THINK]", "[/THINK]", "</s>"], False, None),
        ([1, 3], ["</s>"], True, None),
        ([5, 1, 6], ["</s>"], False, None),
    ],
)
def test_a_completion_is_scored_without_its_reasoning(
    said: list[int], special: list[str], opened: bool, text: str | None
) -> None:
    tokenizer = Spelling(WORDS, special)
    engine: Any = object.__new__(VllmEngine)
    engine.decode = speller(tokenizer)
    reason = "stop" if 4 in said else "length"
    completion = SimpleNamespace(token_ids=said, finish_reason=reason)
    if text is None:
        with pytest.raises(NoAnswer, match=r"reasoning.*; raise backbone\.thinking_tokens"):
            engine._reply(completion, 7, opened)
    else:
        assert engine._reply(completion, 7, opened) == Reply(text, 7, len(said))


def test_a_completion_that_the_limit_cut_says_so() -> None:
    engine: Any = object.__new__(VllmEngine)
    engine.decode = speller(Spelling([" Par", "\ufffd"], []))
    reply = engine._reply(SimpleNamespace(token_ids=[0, 1], finish_reason="length"), 7, False)
    assert (reply.text, reply.completion_tokens, reply.cut) == ("Par", 2, True)


@pytest.mark.slow
def test_greedy_chat(engine: VllmEngine, run: Callable[..., Any]) -> None:
    first, again = (
        run(engine.chat("What is the capital of France?", 8)),
        run(engine.chat("What is the capital of France?", 8)),
    )
    assert isinstance(first, Reply)
    assert first == again
    assert 1 <= first.completion_tokens <= 8
    assert first.prompt_tokens == engine.prompt_tokens("What is the capital of France?")


@pytest.mark.slow
def test_many_chats_at_once_are_told_apart(engine: VllmEngine, run: Callable[..., Any]) -> None:
    contents = [f"question {i}" for i in range(40)]

    async def together() -> list[Reply]:
        return await asyncio.gather(*[engine.chat(content, 4) for content in contents])

    replies = run(together())
    assert [reply.prompt_tokens for reply in replies] == [engine.prompt_tokens(content) for content in contents]


@pytest.mark.slow
def test_prompt_has_the_template_and_one_bos(engine: VllmEngine) -> None:
    ids = engine.render("hello")
    assert ids.count(engine.tokenizer.bos_token_id) == 1
    assert engine.tokenizer.decode(ids) == "<|bos|><|user|>hello<|eos|><|assistant|>"
    assert engine.count_tokens("hello") == len(ids) - 4


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused_with_its_length(engine: VllmEngine, run: Callable[..., Any]) -> None:
    content = "word " * 300
    with pytest.raises(ValueError, match=f"prompt of {engine.prompt_tokens(content)} tokens and 8 .* 256"):
        run(engine.chat(content, 8))


@pytest.mark.slow
def test_an_answer_is_continued_inside_its_turn(engine: VllmEngine, run: Callable[..., Any]) -> None:
    ids = engine.render("hello", "It is")
    assert engine.tokenizer.decode(ids) == "<|bos|><|user|>hello<|eos|><|assistant|>It is"
    reply = run(engine.chat("hello", 4, prefix="It is"))
    assert (reply.prompt_tokens, reply.tokens) == (len(ids), ())


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_pieces_of_the_reply(engine: VllmEngine, run: Callable[..., Any]) -> None:
    plain, told = run(engine.chat("hello there", 8)), run(engine.chat("hello there", 8, logprobs=True))
    assert (told.text, plain.tokens) == (plain.text, ())
    assert "".join(token.text for token in told.tokens).strip() == told.text
    assert all(token.logprob <= 0 for token in told.tokens)


@pytest.mark.slow
def test_first_token_probabilities_are_the_models_whole_softmax(
    engine: VllmEngine, tiny_model: Path, run: Callable[..., Any]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    candidates = ["yes", "no", "Paris", "yellow"]  # the last begins as the first does, where words are spelt out
    told = run(engine.first_token("What is the capital of France?", candidates))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        logits = model(torch.tensor([engine.render("What is the capital of France?")])).logits[0, -1]
    softmax = torch.softmax(logits, -1)
    firsts = [engine.tokenizer.encode(candidate, add_special_tokens=False)[0] for candidate in candidates]
    expected = [float(softmax[first]) if first not in firsts[:i] else 0.0 for i, first in enumerate(firsts)]
    assert list(told.probabilities.values()) == pytest.approx(expected, rel=1e-3)
    assert (told.prompt_tokens, told.completion_tokens) == (engine.prompt_tokens("What is the capital of France?"), 1)


@pytest.fixture(scope="session")
def micro(run: object) -> Iterator[VllmEngine]:
    """The reader in this process."""
    opened = VllmEngine(MICRO)
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["naive", "replug", "selfrag", "flare"])
def test_each_method_answers_on_the_engine(micro: VllmEngine, run: Callable[..., Any], name: str) -> None:
    texts = ["Bitter Harborhouse was written by Thomas Glenhart.", "Quiet Meadowgate was written by Anna Fairwell."]
    documents = [Document(f"d{i}", "Journal", text, score=0.7 - 0.1 * i) for i, text in enumerate(texts)]

    async def search(query: str, k: int) -> list[Document]:
        return documents[:k]

    method = Method(name=name)
    tools = Tools(micro, Prompts(), "factoid", 16, 64, method, search)
    answer: Answer = run(open_method(method)("Who wrote Bitter Harborhouse?", documents, tools))
    assert answer.text
    assert answer.calls >= {"naive": 1, "replug": 2, "selfrag": 2, "flare": 1}[name]


@pytest.mark.slow
def test_an_abstention_is_left_out_as_a_reply_begins_with_it(micro: VllmEngine, run: Callable[..., Any]) -> None:
    """The micro models' "unknown" is one token after the template, and five pieces anywhere else."""
    prompts = [Prompts().message("factoid", [Document("d", "", text)], question=ASKED) for text in TEXTS]

    def answer(*bad_words: str) -> str:
        return str(run(micro.mixture(prompts, WEIGHTS, 8, "probabilities", bad_words)).text)

    assert answer() == "unknown"
    assert answer("unknown") == "none"  # abstains otherwise
    assert answer("unknown", "none") == "Thomas Glenhart"


@pytest.mark.slow
def test_on_the_microworld_methods_retrieve_when_in_doubt_and_only_then(
    micro: VllmEngine, run: Callable[..., Any], tmp_path: Path
) -> None:
    """FLARE's rate of searching is neither 0 nor 1, Self-RAG reads for what is not famous; one searcher serves all."""
    generate(tmp_path, Plan(seed=3, districts=1, train=5, test=40))
    files = [tmp_path / name / "test.jsonl" for name in ("nq", "hotpotqa")]
    questions = [text for file in files for some in read_examples(file, []) for text in some["question"].to_pylist()]
    corpus = [parse_passage(line) for line in (tmp_path / "corpus.jsonl").read_bytes().splitlines()]
    encoder = open_encoder(Encoder(name="hashing", kind="hashing", model="hashing", dimension=512))
    xb = encoder.encode_passages([passage_text(d.title, d.text) for d in corpus]).astype("float32")
    batches: list[int] = []

    async def search_many(queries: list[str], k: int, merged: list[bool]) -> list[list[Document]]:
        batches.append(len(queries))
        ranked = (-(encoder.encode_queries(queries).astype("float32") @ xb.T)).argsort(axis=1)[:, :k]
        return [[corpus[i] for i in row] for row in ranked]

    async def answers() -> tuple[list[Answer], list[Answer]]:
        handle = BatchedSearch(search_many)
        found = await search_many(questions, 5, [])
        batches.clear()
        pairs = list(zip(questions, found, strict=True))
        tools = Tools(micro, Prompts(), "factoid", 16, 64, Method(), handle.base)
        searched = await asyncio.gather(*[flare.answer(q, documents, tools) for q, documents in pairs])
        judged = await asyncio.gather(*[selfrag.answer(q, documents, tools) for q, documents in pairs])
        return searched, judged

    searched, judged = run(answers())
    rate = sum(answer.retrievals > 0 for answer in searched) / len(searched)
    assert 0.05 < rate < 0.95
    assert len(batches) < sum(batches) == sum(answer.retrievals for answer in searched)
    assert all(answer.text and answer.calls >= 1 + answer.retrievals for answer in searched)
    assert {answer.calls for answer in judged} <= {2, 1 + 3 * 5}
    assert all(answer.text and answer.retrievals == (answer.calls > 2) for answer in judged)
    assert sum(answer.retrievals for answer in judged) > 0
