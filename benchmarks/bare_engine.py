"""vLLM in this process, without Ray: Algorithm 1 on it, a bare loop over its calls, and what vLLM counts of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from stub_engine import Row

from wbrag import metrics
from wbrag.algorithm import CountedLLM, train_example
from wbrag.config import Backbone, TrainConfig
from wbrag.llm import LLM, Reply
from wbrag.llm.vllm import VllmEngine
from wbrag.methods import Tools
from wbrag.prompts import prompts_of
from wbrag.schema import Example, documents_of

#: A prompt and the most tokens of its reply.
Call = tuple[str, int]

#: Examples that an engine sees before the clock runs.
WARM = 64
#: Seconds after which all counts of an engine have come from its process.
SETTLED = 0.2
NUMBERS = count()


@asynccontextmanager
async def opened(backbone: Backbone, **engine_args: object) -> AsyncIterator[VllmEngine]:
    """An engine for the block, beside this process and not forked from it: Ray or CUDA may have run here."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    llm = VllmEngine(replace(backbone, engine_args={**backbone.engine_args, **engine_args}))
    try:
        yield llm
    finally:
        llm.close()


async def emptied(llm: VllmEngine) -> None:
    """Forget the prefix cache; RuntimeError where a request still holds blocks of it."""
    await asyncio.sleep(SETTLED)
    if not await llm.engine.reset_prefix_cache():
        raise RuntimeError("vLLM did not reset its prefix cache: a request is still running")


async def computed() -> int:
    """Prompt tokens computed so far by vLLM's own counters (of an engine opened with `disable_log_stats=False`): looked
    up in the prefix cache, less those found there.
    """
    from vllm.v1.metrics.reader import Counter, get_metrics_snapshot

    await asyncio.sleep(SETTLED)
    told = {one.name: one.value for one in get_metrics_snapshot() if isinstance(one, Counter)}
    return told["vllm:prefix_cache_queries"] - told["vllm:prefix_cache_hits"]


class Recorded(CountedLLM):
    """A generator that keeps the calls of one example in the order in which they were sent."""

    def __init__(self, llm: LLM) -> None:
        super().__init__(llm, remember=False)
        self.sent: list[Call] = []

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The generator's reply."""
        self.sent.append((content, max_tokens))
        return await super().chat(content, max_tokens, prefix=prefix, logprobs=logprobs)


async def trained(rows: Sequence[Row], cfg: TrainConfig, llm: LLM, paper_plan: bool = False) -> list[Row]:
    """Algorithm 1 on an engine in this process: rows of `schema.TRACE` with the calls that were `sent`. RuntimeError
    where an example failed: what it cost compares with nothing.
    """
    places = asyncio.Semaphore(cfg.cluster.examples_in_flight)
    replies = (cfg.backbone.answer_tokens, cfg.backbone.distil_tokens)
    tools = Tools(llm, prompts_of(cfg), cfg.benchmark.task, *replies, cfg.method)
    metric = partial(metrics.score, cfg.benchmark.metric, labels=cfg.benchmark.labels)

    async def one(row: Row) -> Row:
        async with places:
            own = Recorded(llm)
            of = Example(row["id"], row["question"], tuple(row["golden_answers"]), row["metadata"])
            given = (of, documents_of(row["documents"]), replace(tools, llm=own), cfg.gates, metric)
            return await train_example(*given, paper_plan=paper_plan) | {"sent": own.sent}

    made = await asyncio.gather(*map(one, rows))
    if failed := [row for row in made if row["status"] == "failed"]:
        raise RuntimeError(f"{len(failed)} of {len(made)} examples failed; {failed[0]['id']}: {failed[0]['reason']}")
    return made


async def completed(llm: VllmEngine, ids: list[int], most: int, **more: Any) -> int:  # noqa: ANN401 - vLLM's own
    """Tokens, at most so many, that vLLM's AsyncLLM itself makes of a prompt of token ids, their text beside them, told
    once at the end; `more` goes to its sampling. Nothing of wbrag's takes part.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(temperature=0.0, max_tokens=most, output_kind=RequestOutputKind.FINAL_ONLY, **more)
    prompt = {"type": "token", "prompt_token_ids": ids}  # "type": the ids are final, no thread renders them again
    stream = llm.engine.generate(prompt, params, f"bare-{next(NUMBERS)}")
    outputs = [output async for output in stream]
    return len(outputs[-1].outputs[0].token_ids)


async def looped(calls: Sequence[Call], llm: VllmEngine, **more: Any) -> tuple[float, int]:  # noqa: ANN401
    """Seconds that the calls take, as many at once as the engine has sequences and none waiting for another, and the
    tokens of their replies. Prompts are rendered on the way, as in the pipeline.
    """
    places, started = asyncio.Semaphore(llm.places.capacity), time.perf_counter()

    async def one(call: Call) -> int:
        content, most = call
        async with places:
            return await completed(llm, llm.render(content, ""), most, **more)

    tokens = await asyncio.gather(*map(one, calls))
    return time.perf_counter() - started, sum(tokens)
