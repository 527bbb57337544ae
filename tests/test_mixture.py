"""REPLUG's mixture in the engine: its arithmetic, both runners' classes, and a real engine against Hugging Face."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

from wbrag.llm.mixture import Member, MixtureV1, MixtureV2, Row, mix, pool
from wbrag.llm.vllm import VllmEngine

END, V = 1, 7
POOLINGS = ("probabilities", "logits")
#: The pooling of the paper, and no bad word.
PLAIN: Any = ("probabilities", ())


def reference(log_p: torch.Tensor, weights: Sequence[float], pooling: str) -> torch.Tensor:
    """The pooled log-probabilities [vocabulary] of [K, vocabulary], written down as the definition has it."""
    p, w = log_p.double().exp(), torch.tensor(weights, dtype=torch.float64)
    if pooling == "probabilities":
        return (w[:, None] * p).sum(0).log()
    product = (p ** w[:, None]).prod(0)
    return (product / product.sum()).log()


@st.composite
def groups(draw: st.DrawFn, least: int = 1) -> tuple[torch.Tensor, list[float]]:
    """Logits [K, V] of one group and its weights."""
    k = draw(st.integers(least, 5))
    rows = draw(st.lists(st.lists(st.floats(-30, 30), min_size=V, max_size=V), min_size=k, max_size=k))
    raw = draw(st.lists(st.floats(0.01, 1), min_size=k, max_size=k))
    return torch.tensor(rows), [x / math.fsum(raw) for x in raw]


def pooled(logits: torch.Tensor, weights: Sequence[float], pooling: str) -> torch.Tensor:
    return pool(logits.log_softmax(-1), [range(len(weights))], torch.tensor(weights), pooling)[0]


@pytest.mark.parametrize("pooling", POOLINGS)
@given(group=groups())
def test_pool_is_its_definition(pooling: str, group: tuple[torch.Tensor, list[float]]) -> None:
    logits, weights = group
    got = pooled(logits, weights, pooling)
    assert got.exp().sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(got.exp().double(), reference(logits.log_softmax(-1), weights, pooling).exp(), **CLOSE)


CLOSE: Any = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("pooling", POOLINGS)
@given(group=groups(), seed=st.integers(0, 1000))
def test_pool_does_not_depend_on_the_order(pooling: str, group: tuple[torch.Tensor, list[float]], seed: int) -> None:
    logits, weights = group
    order = random.Random(seed).sample(range(len(weights)), len(weights))
    shuffled = pooled(logits[order], [weights[i] for i in order], pooling)
    torch.testing.assert_close(shuffled.exp(), pooled(logits, weights, pooling).exp(), **CLOSE)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(group=groups())
def test_equal_documents_are_one_document(pooling: str, group: tuple[torch.Tensor, list[float]]) -> None:
    logits, weights = group
    same = logits[:1].expand(len(weights), -1)
    torch.testing.assert_close(pooled(same, weights, pooling).exp(), logits[0].softmax(-1), **CLOSE)


def test_the_poolings_differ() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0], [0.0, 8.0, 5.0]])
    assert pooled(logits, [0.6, 0.4], "probabilities").argmax() == 0
    assert pooled(logits, [0.6, 0.4], "probabilities")[2] > -4
    assert pooled(logits, [0.6, 0.4], "logits")[2] > pooled(logits, [0.6, 0.4], "probabilities")[2] - 4


def member(group: str, number: int, size: int, weight: float = 0.5, pooling: str = "probabilities") -> Member:
    return Member(group, number, size, weight, pooling, END)


def ended(row: torch.Tensor) -> bool:
    return bool(row[END] == 0 and torch.isneginf(row).sum() == V - 1)


@given(seed=st.integers(0, 10_000))
def test_mix_serves_every_group_of_a_batch(seed: int) -> None:
    draw = random.Random(seed)
    logits, rows, free = torch.randn(32, V, generator=torch.Generator().manual_seed(seed)), [], list(range(32))
    draw.shuffle(free)
    whole: dict[str, list[Row]] = {}
    for g in range(draw.randint(0, 5)):
        size, pooling, generated = draw.randint(1, 5), draw.choice(POOLINGS), draw.randint(0, 4)
        mine = [Row(free.pop(), member(f"g{g}", n, size, 1 / size, pooling), generated) for n in range(size)]
        rows += mine
        whole[f"g{g}"] = mine
    draw.shuffle(rows)
    before = logits.clone()
    mix(logits, rows)
    for mine in whole.values():
        index = [row.index for row in mine]
        want = reference(before[index].log_softmax(-1), [1 / len(mine)] * len(mine), mine[0].member.pooling)
        assert all(torch.equal(logits[i], logits[index[0]]) for i in index)
        torch.testing.assert_close(logits[index[0]].double(), want, **CLOSE)
    assert torch.equal(logits[free], before[free])


@pytest.mark.parametrize(
    "rows",
    [
        [Row(0, member("g", 0, 2), 3)],
        [Row(0, member("g", 0, 2), 3), Row(1, member("g", 1, 2), 2)],
        [Row(0, member("g", 0, 2), 0), Row(1, member("g", 1, 2), -5)],
    ],
)
def test_a_member_out_of_step_is_ended(rows: list[Row]) -> None:
    logits = torch.randn(2, V)
    mix(logits, rows)
    assert all(ended(logits[row.index]) for row in rows)


def params(member: Member | None) -> SamplingParams:
    return SamplingParams(extra_args=member.extra_args() if member else None)


def test_v1_follows_its_batch() -> None:
    processor = MixtureV1(None, torch.device("cpu"), False)  # type: ignore[arg-type]
    a, b, other = [5], [6], [7, 8]
    add = [(0, params(member("g", 0, 2)), [], a), (1, params(None), [], other), (2, params(member("g", 1, 2)), [], b)]
    processor.update_state(BatchUpdate(3, [], add, []))

    def seen() -> list[bool]:
        """Which rows were mixed, and so are equal to no original row."""
        logits = torch.randn(4, V)
        before = logits.clone()
        return [not torch.equal(x, y) for x, y in zip(processor.apply(logits), before, strict=True)]

    assert seen() == [True, False, True, False]
    processor.update_state(None)
    processor.update_state(BatchUpdate(3, [], [], [(1, 2, MoveDirectionality.SWAP)]))
    assert seen() == [True, True, False, False]
    processor.update_state(BatchUpdate(2, [2], [], []))
    processor.update_state(BatchUpdate(2, [], [(3, params(member("h", 0, 1, 1.0)), [], [])], []))
    processor.update_state(BatchUpdate(2, [], [], [(3, 2, MoveDirectionality.UNIDIRECTIONAL)]))
    assert sorted(processor.rows) == [0, 1, 2]
    logits = torch.randn(3, V)
    processor.apply(logits)
    assert torch.equal(logits[0], logits[1])
    b.append(9)  # the runner goes on appending to the list that it gave
    processor.apply(logits)
    assert ended(logits[0])
    assert ended(logits[1])
    processor.update_state(BatchUpdate(2, [0], [(0, params(None), [], [])], []))
    assert sorted(processor.rows) == [1, 2]


def context(slots: list[int], visible: list[int]) -> LogitsContext:
    given: Any = dict.fromkeys(LogitsContext.__dataclass_fields__)
    return LogitsContext(**given | {"idx_mapping_np": np.array(slots), "seq_lens_upper_bound_np": np.array(visible)})


def test_v2_reads_slots_and_lengths() -> None:
    lengths: Any = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([10, 20, 30, 40])))
    processor = MixtureV2(None, lengths)  # type: ignore[arg-type]
    slots = [member("g", 0, 2), None, member("g", 1, 2)]
    assert [processor.add_request(slot, params(m)) for slot, m in enumerate(slots)] == [True, False, True]
    logits = torch.randn(3, V)
    before = logits.clone()
    processor.apply(logits, context([2, 1, 0], [33, 25, 13]))
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], before[0])
    assert torch.equal(logits[1], before[1])
    processor.apply(logits, context([2, 0], [12, 10]))  # the first is in the middle of its prompt
    assert ended(logits[0])
    assert ended(logits[1])
    assert not processor.add_request(0, params(None))
    assert sorted(processor.members) == [2]


def step_by_step(
    model: LlamaForCausalLM,
    prompts: Sequence[list[int]],
    weights: Sequence[float],
    max_tokens: int,
    pooling: str,
) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of the mixture, one forward pass per document and token, in float64."""
    tokens: list[int] = []
    found: list[float] = []
    while len(tokens) < max_tokens and tokens[-1:] != [END]:
        with torch.no_grad():
            log_p = [model(torch.tensor([ids + tokens])).logits[0, -1].double().log_softmax(-1) for ids in prompts]
        best = reference(torch.stack(log_p), weights, pooling).max(-1)
        tokens.append(int(best.indices))
        found.append(float(best.values))
    return tokens, found


QUESTIONS = ["What is the capital of France?", "Who wrote it?", "Where was she born, and when, and why there?"]


def a_group(engine: VllmEngine, seed: int) -> tuple[list[list[int]], list[float], int, str]:
    """Prompts of 1 to 5 documents of unequal lengths, weights, tokens to generate, pooling."""
    draw = random.Random(seed)
    k = draw.randint(1, 5)
    documents = [
        " ".join(draw.choices(["Paris", "is", "the", "capital", "of", "France"], k=draw.randint(1, 25)))
        for _ in range(k)
    ]
    raw = [draw.uniform(0.1, 1) for _ in range(k)]
    ids = [engine.render(f"{document}\n\n{draw.choice(QUESTIONS)}") for document in documents]
    return ids, [x / math.fsum(raw) for x in raw], draw.choice([1, 5, 12]), POOLINGS[seed % 2]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


Run = Callable[..., Any]


def check(engine: VllmEngine, run: Run, model: LlamaForCausalLM, seeds: Sequence[int], chats: int = 0) -> None:
    """Groups asked at the same time, with ordinary calls among them, are what the reference gives."""
    asked = [a_group(engine, seed) for seed in seeds]

    async def together() -> list[Any]:
        others = [engine.chat(f"{i} and nothing else {'x ' * i}", 8) for i in range(chats)]
        made = await asyncio.gather(*[engine.mixed(*group) for group in asked], *others)
        return made[: len(asked)]

    for completion, group in zip(run(together()), asked, strict=True):
        tokens, log_p = step_by_step(model, *group)
        assert list(completion.token_ids) == tokens
        got = [token[i].logprob for token, i in zip(completion.logprobs, tokens, strict=True)]
        assert got == pytest.approx(log_p, abs=1e-5)


@pytest.mark.slow
def test_engine_is_the_step_by_step_mixture(engine: VllmEngine, run: Run, model: LlamaForCausalLM) -> None:
    check(engine, run, model, range(24), chats=10)


@pytest.mark.slow
def test_split_groups_are_noticed_and_asked_again(
    engine: VllmEngine, run: Run, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.places, "capacity", 1000)  # so all groups are sent at once to an engine of 16 places
    before = engine.groups_split
    check(engine, run, model, range(100, 124), chats=40)
    assert engine.groups_split > before


@pytest.mark.slow
def test_reply_of_a_mixture(engine: VllmEngine, run: Run) -> None:
    contents = ["a document and a question", "another document and the same question"]
    reply = run(engine.mixture(contents, [0.7, 0.3], 6, *PLAIN))
    assert reply.prompt_tokens == sum(map(engine.prompt_tokens, contents))
    assert reply.completion_tokens % 2 == 0
    alone = run(engine.chat(contents[0], 6))
    assert run(engine.mixture(contents[:1], [1.0], 6, *PLAIN)) == alone
    assert run(engine.mixture([contents[0]] * 3, [0.2, 0.3, 0.5], 6, *PLAIN)).text == alone.text


@pytest.mark.slow
def test_a_bad_word_leaves_every_document_before_they_are_pooled(
    engine: VllmEngine, run: Run, model: LlamaForCausalLM
) -> None:
    """Not the mixture's second choice: without the word the weights of the documents' other words are other ones."""
    changed = 0
    for seed in range(12):
        prompts, weights, _, pooling = a_group(engine, seed)
        first, _ = step_by_step(model, prompts, weights, 1, pooling)
        log_p = [model(torch.tensor([ids])).logits[0, -1].double() for ids in prompts]
        for row in log_p:
            row[first[0]] = -math.inf
        found = reference(torch.stack(log_p).detach().log_softmax(-1), weights, pooling).max(-1)
        completion = run(engine.mixed(prompts, weights, 1, pooling, [first]))
        token = completion.token_ids[0]
        assert token == int(found.indices)
        assert completion.logprobs[0][token].logprob == pytest.approx(float(found.values), abs=1e-5)
        changed += token != first[0]
    assert changed == 12


@pytest.mark.slow
def test_a_group_that_fills_the_batch_is_mixed_on_an_idle_engine(engine: VllmEngine, run: Run) -> None:
    contents = [f"question {number}" for number in range(16)]
    first, again = (run(engine.mixture(contents, [1 / 16] * 16, 8, *PLAIN)) for _ in range(2))
    assert first == again
    assert first.completion_tokens == 16 * (first.completion_tokens // 16) > 0


@pytest.mark.slow
def test_a_mixture_that_cannot_be_is_refused(engine: VllmEngine, run: Run) -> None:
    with pytest.raises(ValueError, match="17 requests that belong together > 16 sequences"):
        run(engine.mixture(["x"] * 17, [1 / 17] * 17, 4, *PLAIN))
    with pytest.raises(ValueError, match="have to be > 0 and sum to 1"):
        run(engine.mixture(["x", "y"], [0.7, 0.7], 4, *PLAIN))
    with pytest.raises(ValueError, match="exceed max_model_len 256"):
        run(engine.mixture(["x", "word " * 300], [0.5, 0.5], 4, *PLAIN))
