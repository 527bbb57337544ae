"""What takes a GPU; on one H100 or H200 all three parts end within ten minutes. Without a GPU each says so.

`llama`: the calls of the paper's NQ run on Llama-3.1-8B's layers, beside what the GPU can compute. `mixture`: REPLUG's
mixture in vLLM, token for token beside its definition. `faiss`: the search on the GPU beside that on the CPU.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bare_engine import WARM, completed, computed, emptied, looped, opened, trained
from stub_engine import Row, Told, example, reply, settings
from synthetic import blocks, median, queries, say, timed

from wbrag.config import TrainConfig
from wbrag.llm import Reply
from wbrag.llm.engine import model_path
from wbrag.llm.scripted import ScriptedLLM
from wbrag.llm.vllm import VllmEngine
from wbrag.prompts import prompts_of
from wbrag.schema import documents_of
from wbrag.store.search import CACHE_BYTES
from wbrag.store.topk import Search, block_search, held_search
from wbrag.store.vectors import gpus

DEVICE = "cuda"
COMMAND = "make EXTRA=gpu bench PARTS=gpu"
#: Llama-3.1-8B with micro_small's tokenizer, so that no hub is asked.
SHAPES = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128}
SHAPES |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256}
#: Operations of a token: 2 x 8.03e9; and what an H100 or H200 does of them in a second at most (bfloat16, dense).
TOKEN_FLOP, PEAK_FLOP = 16e9, 989e12
#: Lines of a document of `stub_engine.example` with which micro_small's tokenizer makes as many tokens of it as Llama's
#: makes of a passage of a hundred words; tokens of an answer, and of evidence or a unit.
LLAMA_LINES, ANSWER, DISTIL = 4, 8, 96
#: Tokens of a mixture, documents of one at most.
MIXED, DOCUMENTS = 16, 5
#: A mixture: prompts as token ids, their weights, the most tokens, the pooling.
Group = tuple[list[list[int]], list[float], int, str]
DIMENSION, NEAREST, QUERIES, REPEATS = 768, 5, 1024, 3
#: Of two inner products of unit vectors, fp16 on the CPU and on the GPU.
AGREEMENT = 1e-3


def gpu_name() -> str:
    """The CUDA device, "" without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def not_run(what: str) -> tuple[list[Told], Row]:
    """The table of a part that needs a GPU, where there is none."""
    return [(what, f"not run on a GPU: {COMMAND}", "", None)], {}


class Ruled(ScriptedLLM):
    """A real engine that does the work of every call, its replies as long as they may be, and a rule that answers:
    random weights decide nothing.
    """

    def __init__(self, engine: VllmEngine) -> None:
        super().__init__(reply, engine.max_model_len)
        self.engine = engine

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The rule's reply, once the engine has made its own."""
        ids = self.engine.render(content, prefix)
        made = await completed(self.engine, ids, max_tokens, ignore_eos=True)
        return Reply(self.respond(content), len(ids), made)

    def count_tokens(self, text: str) -> int:
        """The engine's."""
        return self.engine.count_tokens(text)

    def prompt_tokens(self, content: str) -> int:
        """The engine's."""
        return self.engine.prompt_tokens(content)


def llama(out: Path, n: int) -> tuple[list[Told], Row]:
    """Algorithm 1 over n made-up examples, of which as many are kept as in the paper's NQ run, and a bare loop over its
    calls, on Llama-3.1-8B's layers with random weights.
    """
    if not (device := gpu_name()):
        return not_run("Llama-3.1-8B's layers")
    lengths = (f"backbone.answer_tokens={ANSWER}", f"backbone.distil_tokens={DISTIL}")
    more = ("backbone.dtype=bfloat16", "cluster.examples_in_flight=384")
    cfg = settings(out / "llama", f"world={out}", *lengths, *more)
    facts = asyncio.run(on_llama(cfg, [example(i, LLAMA_LINES) for i in range(n)]))
    shown: list[Told] = [(f"Llama-3.1-8B's layers, {device}: calls", f"{facts['calls']:,}", "", None)]
    for name, what in (("fused", "Algorithm 1"), ("loop", "a bare loop over its calls")):
        calls, tokens = facts["calls"] / facts[name], facts[f"{name}_tokens"] / facts[name]
        share = tokens * TOKEN_FLOP / PEAK_FLOP
        shown += [
            (f"  {what}", f"{calls:,.0f} calls/s, {tokens:,.0f} computed tokens/s", "", None),
            ("    share of the compute bound", f"{share:.3f}", "", None),
        ]
    return shown, facts


async def on_llama(cfg: TrainConfig, rows: Sequence[Row]) -> Row:
    """Seconds, and tokens that were computed (prompts' uncached and replies'), of Algorithm 1 and of a bare loop."""
    more: dict[str, Any] = {"load_format": "dummy", "hf_overrides": SHAPES, "disable_log_stats": False}
    say("llama: an engine with random weights")
    async with opened(cfg.backbone, **more) as llm:
        await trained([example(-1 - i, LLAMA_LINES) for i in range(WARM)], cfg, Ruled(llm))
        await emptied(llm)
        say(f"llama: Algorithm 1, {len(rows):,} examples")
        before, started = await computed(), time.perf_counter()
        made = await trained(rows, cfg, Ruled(llm))
        fused = time.perf_counter() - started
        replies = sum(row["completion_tokens"] for row in made)
        facts: Row = {"fused": fused, "fused_tokens": await computed() - before + replies}
        calls = [call for row in made for call in row["sent"]]
        await emptied(llm)
        say(f"llama: a bare loop, {len(calls):,} calls")
        before = await computed()
        facts["loop"], replies = await looped(calls, llm, ignore_eos=True)
        facts["loop_tokens"] = await computed() - before + replies
        prompts = sum(row["prompt_tokens"] for row in made)
    return facts | {"calls": len(calls), "prompt_tokens": prompts, "reply_tokens": replies}


def mixture(out: Path, n: int) -> tuple[list[Told], Row]:
    """REPLUG's mixture of micro_small (float32) in vLLM on the GPU, n groups at once among other calls, against the
    definition: Hugging Face's model reads every document again for every token.
    """
    if not gpu_name():
        return not_run("REPLUG's mixture in the engine")
    import torch
    from transformers import AutoModelForCausalLM

    cfg = settings(out / "mixture", f"world={out}", "backbone.dtype=float32", "backbone.gpu_memory_utilization=0.3")
    groups, made, facts = asyncio.run(mixed(cfg, n))
    say("mixture: step by step")
    model: Any = AutoModelForCausalLM.from_pretrained(model_path(cfg.backbone), dtype=torch.float32)
    model.to(DEVICE).eval()

    def log_p(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=DEVICE)).logits[0, -1]
        found: np.ndarray = logits.double().log_softmax(-1).cpu().numpy()
        return found

    same, worst = 0, 0.0
    for group, (tokens, got) in zip(groups, made, strict=True):
        wanted, definition = stepwise(log_p, *group, facts["end"])
        same += tokens == wanted
        if tokens == wanted:
            worst = max([worst, *(abs(a - b) for a, b in zip(got, definition, strict=True))])
    facts |= {"same": same, "worst": worst}
    what = f"REPLUG's mixture, model runner {facts['runner']}: answers alike, token for token"
    shown: list[Told] = [
        (what, f"{same} of {n}", "all", same == n),
        ("  log-probabilities of those: the largest difference", f"{worst:.1e}", "", None),
        ("  groups that vLLM split, asked again", f"{facts['split']}", "", None),
    ]
    return shown, facts


async def mixed(cfg: TrainConfig, n: int) -> tuple[list[Group], list[tuple[list[int], list[float]]], Row]:
    """n groups with the tokens and log-probabilities that the engine gives them, other calls running beside."""
    say("mixture: an engine")
    async with opened(cfg.backbone) as llm:
        groups = [group_of(cfg, llm, seed) for seed in range(n)]
        say(f"mixture: {n} groups")
        others = asyncio.gather(*(llm.chat(f"{seed} and nothing else", MIXED) for seed in range(n)))
        found: Any = await asyncio.gather(*(llm.mixed(*group) for group in groups))
        await others
        runner = "V2" if llm.engine.vllm_config.use_v2_model_runner else "V1"
        facts = {"runner": runner, "split": llm.groups_split, "end": llm.tokenizer.eos_token_id}
    made = []
    for completion in found:
        tokens = list(completion.token_ids)
        made.append((tokens, [told[i].logprob for told, i in zip(completion.logprobs, tokens, strict=True)]))
    return groups, made, facts


def group_of(cfg: TrainConfig, llm: VllmEngine, seed: int) -> Group:
    """A question with 1 to 5 documents of unequal lengths, each in naive RAG's prompt, and random weights."""
    draw, prompts = random.Random(seed), prompts_of(cfg)
    lines = [draw.randint(0, 6) for _ in range(draw.randint(1, DOCUMENTS))]
    rows = [example(seed, more) for more in lines]
    documents = [documents_of(row["documents"])[rank] for rank, row in enumerate(rows)]
    asked = [prompts.message(cfg.benchmark.task, [one], question=rows[0]["question"]) for one in documents]
    raw = [draw.uniform(0.1, 1) for _ in documents]
    pooling = ("probabilities", "logits")[seed % 2]
    return [llm.render(content, "") for content in asked], [x / sum(raw) for x in raw], MIXED, pooling


def stepwise(
    log_p: Callable[[list[int]], np.ndarray],
    prompts: Sequence[list[int]],
    weights: Sequence[float],
    most: int,
    pooling: str,
    end: int,
) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of a mixture by its definition, in float64: sum w p, or softmax(sum w log p).

    `log_p` gives the log-probabilities (vocabulary,) of what follows a list of token ids.
    """
    tokens: list[int] = []
    found: list[float] = []
    w = np.asarray(weights, dtype=np.float64)[:, None]
    while len(tokens) < most and tokens[-1:] != [end]:
        read = np.stack([log_p([*ids, *tokens]) for ids in prompts]).astype(np.float64)
        if pooling == "probabilities":
            pooled = np.log((w * np.exp(read)).sum(0))
        else:
            pooled = (w * read).sum(0)
            pooled = pooled - np.logaddexp.reduce(pooled)
        tokens.append(int(pooled.argmax()))
        found.append(float(pooled[tokens[-1]]))
    return tokens, found


def nearest(out: Path, n: int) -> tuple[list[Told], Row]:
    """The nearest of n vectors for a batch of queries: on the CPU block by block, as a store searches them there, and
    on the GPU, held there and sent block by block.
    """
    what = f"nearest of {n:,} x {DIMENSION} fp16"
    if not gpu_name():
        return not_run(what)
    if not gpus():
        return [(what, f"not run: this FAISS has no GPU: {COMMAND}", "", None)], {}
    say(f"faiss: {n:,} vectors")
    codes = np.concatenate([block.astype(np.float16) for block in blocks(n, DIMENSION)])
    xq, cached = queries(QUERIES, DIMENSION), CACHE_BYTES // (2 * DIMENSION)
    ways: dict[str, Search] = {
        "CPU, block by block": block_search(codes, None, cached),
        "GPU, held there": held_search(codes, None),
        "GPU, block by block": block_search(codes, None, max(1, n // 4), gpu=True),
    }
    facts: Row = {}
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, search in ways.items():
        say(f"faiss: {name}")
        found[name] = search(xq, NEAREST)  # warm, too
        facts[name] = QUERIES / median([timed(partial(search, xq, NEAREST)) for _ in range(REPEATS)])
    return searched(what, facts, found), facts


def searched(what: str, rates: Row, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Told]:
    """Rows of the table: queries a second of each way, and how many of its answers are those of the first."""
    first, *others = rates
    shown: list[Told] = [(f"{what}, {first}", f"{rates[first]:,.0f} queries/s", "", None)]
    for name in others:
        same = (np.abs(found[name][0] - found[first][0]) <= AGREEMENT).all(axis=1).mean()
        ids = (found[name][1] == found[first][1]).all(axis=1).mean()
        shown += [
            (f"  {name}", f"{rates[name]:,.0f} queries/s, {rates[name] / rates[first]:.1f} x", "", None),
            (f"    its scores within {AGREEMENT:g}", f"{same:.1%} (same ids {ids:.1%})", "100 %", bool(same == 1)),
        ]
    return shown
