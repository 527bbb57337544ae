"""The actors of a run: generators with an engine each, and the dispatcher that takes a plan's blocks to them.

A generator holds one engine and takes whole blocks of examples, each example a coroutine of its own, so that the
calls of many examples share one continuous batch. It belongs to the driver and not to a Ray Data plan: training and
evaluation are two plans (write-back lies between them) and an engine takes most of a minute to start. A block is one
call and comes back as one table in input order, so whatever dies, a block is written whole or asked again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from wbrag import metrics
from wbrag.algorithm import CountedLLM, answer_question, train_example
from wbrag.config import Backbone, ConfigError, TrainConfig, one_unit_an_example
from wbrag.llm import LLM
from wbrag.llm.engine import gpus_of, model_path
from wbrag.methods import Tools
from wbrag.prompts import prompts_of
from wbrag.retrieval.encoding import Encoders
from wbrag.retrieval.searching import BatchedSearch
from wbrag.run.progress import Counts
from wbrag.run.retrieve import Knowledge, KnownAnswers, MergedDocuments, MethodSearch
from wbrag.schema import PREDICTION, TRACE, WRITTEN, Example, documents_of
from wbrag.units.write import write_units

Row = dict[str, Any]
RowWork = Callable[[Row], Awaitable[Row]]

#: Times a generator that died is started again before the run gives up.
MAX_RESTARTS = 10
#: An engine that takes longer to close is killed.
CLOSE_SECONDS = 30.0
#: What can be done with a block: the generator's method for it, and the table that it makes. `validate` is `predict`
#: for training questions, read with units that they did not make.
WORKS = {
    "train": ("train", TRACE),
    "predict": ("predict", PREDICTION),
    "validate": ("predict", PREDICTION),
    "write": ("write", WRITTEN),
}


def open_llm(backbone: Backbone) -> LLM:
    """The generator that `backbone.kind` names; ConfigError for another kind."""
    match backbone.kind:
        case "vllm":
            from wbrag.llm.vllm import VllmEngine

            return VllmEngine(backbone)
        case "scripted":
            from wbrag.llm.scripted import ScriptedLLM, read

            return ScriptedLLM(read, backbone.max_model_len)
        case "openai":
            from wbrag.llm.openai import Endpoint

            return Endpoint(backbone)
        case unknown:
            raise ConfigError(f"backbone.kind={unknown!r} is unknown; known are vllm, openai, scripted")


class Generator:
    """An asyncio Ray actor with one engine: blocks of examples in, blocks of rows out, in input order. Method,
    benchmark and gates come with each block, so that points of a sweep that have a backbone in common share its engine.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        started = time.perf_counter()
        self.engine = open_llm(cfg.backbone)
        self.llm = CountedLLM(self.engine, remember=False)  # of all examples together, call by call
        self.handles: dict[MethodSearch, BatchedSearch] = {}
        self.places = asyncio.Semaphore(cfg.cluster.examples_in_flight)
        self.counts = Counts()
        self.start_seconds = time.perf_counter() - started

    async def train(self, block: pa.Table, cfg: TrainConfig, method_search: MethodSearch | None = None) -> pa.Table:
        """`schema.RETRIEVED` rows to `schema.TRACE` rows (Algorithm 1)."""
        tools = self._tools(cfg, method_search)
        metric = partial(metrics.score, cfg.benchmark.metric, labels=cfg.benchmark.labels)
        how: dict[str, Any] = {"judge": cfg.judge == "llm", "distils": one_unit_an_example(cfg.units)}

        async def work(row: Row) -> Row:
            known = (row.get("known") or {}).get("answer_closed_book")
            given = (_example(row), documents_of(row["documents"]), tools, cfg.gates, metric)
            made = await train_example(*given, closed_book_answer=known, **how)
            self.counts["calls_saved"] += made["calls_saved"]
            return made

        return await self._all(block, work, TRACE)

    async def predict(self, block: pa.Table, cfg: TrainConfig, method_search: MethodSearch | None = None) -> pa.Table:
        """Test questions with both lists of documents to `schema.PREDICTION` rows."""
        handle = self._handle(method_search)
        tools, merged = self._tools(cfg, method_search), handle.merged if handle else None

        async def work(row: Row) -> Row:
            base, both = documents_of(row["documents"]), documents_of(row["documents_writeback"])
            made, saved = await answer_question(_example(row), base, both, tools, merged, row.get("known"))
            self.counts["calls_saved"] += saved
            return made

        return await self._all(block, work, PREDICTION)

    async def write(self, block: pa.Table, cfg: TrainConfig, method_search: MethodSearch | None = None) -> pa.Table:
        """`schema.REQUEST` rows to `schema.WRITTEN` rows."""
        tools = self._tools(cfg, method_search)
        return await self._all(block, lambda row: write_units(row, tools, cfg.units, cfg.gates.n_min), WRITTEN)

    async def progress(self) -> Counts:
        """What this process has done so far: examples begun, done, kept and failed, calls saved; calls and tokens as
        they come, not only those of finished examples.
        """
        llm = self.llm
        told = {"calls": llm.ended, "prompt_tokens": llm.prompt_tokens_sent, "completion_tokens": llm.completion_tokens}
        return self.counts + Counts(told)

    async def started(self) -> float:
        """The seconds that opening the engine took; answers once it is ready."""
        return self.start_seconds

    async def close(self) -> None:
        """End the engine's processes now; after a kill they go by themselves, but seconds later."""
        if close := getattr(self.engine, "close", None):
            close()

    def _handle(self, method_search: MethodSearch | None) -> BatchedSearch | None:
        """The one handle to a search, whichever block asks for it."""
        return self.handles.setdefault(method_search, BatchedSearch(method_search.search)) if method_search else None

    async def _all(self, block: pa.Table, work: RowWork, schema: pa.Schema) -> pa.Table:
        rows = block.to_pylist()
        self.counts["begun"] += len(rows)
        return pa.Table.from_pylist(await asyncio.gather(*[self._in_turn(work, row) for row in rows]), schema)

    async def _in_turn(self, work: RowWork, row: Row) -> Row:
        async with self.places:
            made = await work(row)
        self.counts["done"] += 1
        self.counts["kept"] += made.get("status") == "kept"
        self.counts["failed"] += made.get("status") == "failed" or made.get("error") is not None
        return made

    def _tools(self, cfg: TrainConfig, method_search: MethodSearch | None) -> Tools:
        handle, replies = self._handle(method_search), (cfg.backbone.answer_tokens, cfg.backbone.distil_tokens)
        search = handle.base if handle else None
        return Tools(self.llm, prompts_of(cfg), cfg.benchmark.task, *replies, cfg.method, search)


def _example(row: Row) -> Example:
    return Example(row["id"], row["question"], tuple(row["golden_answers"]), row["metadata"])


class Generators:
    """The generator actors of a run: started when first asked for, stopped with `stop`, counted over restarts."""

    def __init__(self, cfg: TrainConfig) -> None:
        # A relative checkpoint folder means another one in the actor's working directory.
        self.cfg = replace(cfg, backbone=replace(cfg.backbone, model=model_path(cfg.backbone), gguf=""))
        self.encoders: Encoders | None = None  # the session's, which outlive them; None: whoever needs one starts it
        self.handles: list[Any] = []
        self.start_seconds = 0.0

    def start(self) -> list[Any]:
        """The actors' handles; does not wait for their engines."""
        import ray

        if not self.handles:
            on_gpu = self.cfg.cluster.gpus and self.cfg.backbone.kind == "vllm"
            device = {"num_gpus": gpus_of(self.cfg.backbone)} if on_gpu else {"num_cpus": 0}
            again: dict[str, Any] = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}
            actor: Any = ray.remote(Generator).options(max_concurrency=1000, **again, **device)
            self.handles = [actor.remote(self.cfg) for _ in range(self.cfg.cluster.engines)]
        return self.handles

    def wait(self) -> None:
        """Until every engine is ready; an engine that cannot start raises here what it said."""
        import ray

        self.start_seconds = max(ray.get([handle.started.remote() for handle in self.start()]))

    def counts(self) -> Counts:
        """The sum over all generators; waits for one that is being restarted."""
        import ray

        return sum(ray.get([handle.progress.remote() for handle in self.handles]), Counts())

    def counts_now(self) -> Counts | None:
        """`counts` for a display: None where a generator does not answer within a second (starting, restarting)."""
        import ray

        asked = [handle.progress.remote() for handle in self.handles]
        _, late = ray.wait(asked, num_returns=len(asked), timeout=1.0)
        return None if late else sum(ray.get(asked), Counts())

    def stop(self) -> None:
        """End the actors and their engines' processes; on GPUs their memory is free on return."""
        import ray

        if self.cfg.cluster.gpus and self.handles:
            ray.wait([h.close.remote() for h in self.handles], num_returns=len(self.handles), timeout=CLOSE_SECONDS)
        for handle in self.handles:
            ray.kill(handle)
        self.handles = []


@dataclass(frozen=True, slots=True)
class Stage:
    """What is done with the blocks of a plan: the `work` (a key of WORKS) under the settings of `cfg`.

    `knowledge`: the stores, for questions that are to gain merged documents. `known`: the table of answers that need
    not be asked again (`run.retrieve.KnownAnswers`). `method_search`: what a method searches with meanwhile.
    """

    cfg: TrainConfig
    work: str
    knowledge: Knowledge | None = None
    known: Path | None = None
    method_search: MethodSearch | None = None


class Dispatcher:
    """A Ray Data actor of many threads: takes blocks to the generator with the fewest of them, and waits.

    There is one for all generators, so that it knows who is busy; a generator that restarts keeps its blocks (Ray asks
    it again) and gets no new ones meanwhile. With `stage.knowledge`, questions that `retrieve_block` encoded first gain
    Top-K(R(q, K) u R(q, K_wb)).
    """

    def __init__(self, generators: list[Any], stage: Stage) -> None:
        self.generators, self.stage = generators, stage
        self.blocks = [0] * len(generators)
        self.lock = threading.Lock()
        self.merged = MergedDocuments(stage.knowledge) if stage.knowledge else None
        self.known = KnownAnswers(stage.known) if stage.known else None

    def __call__(self, block: pa.Table) -> pa.Table:
        import ray

        work, made = WORKS[self.stage.work]
        if not block.num_rows:
            return made.empty_table()
        block = self.merged(block) if self.merged else block
        block = self.known(block) if self.known else block
        with self.lock:
            chosen = min(range(len(self.blocks)), key=self.blocks.__getitem__)
            self.blocks[chosen] += 1
        try:
            asked = getattr(self.generators[chosen], work).remote(block, self.stage.cfg, self.stage.method_search)
            return ray.get(asked)
        finally:
            with self.lock:
                self.blocks[chosen] -= 1
