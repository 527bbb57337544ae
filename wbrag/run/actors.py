"""The actors of a run: generators with an engine each, and the dispatcher that takes a plan's blocks to them.

A generator holds one engine and takes whole blocks of examples, each example a coroutine of its own, so that the
calls of many examples share one continuous batch. It belongs to the driver and not to a Ray Data plan: training and
evaluation are two plans (write-back lies between them) and an engine takes most of a minute to start. A block is one
call and comes back as one table in input order, so whatever dies, a block is written whole or asked again, by whichever
engine is up.
"""

from __future__ import annotations

import asyncio
import logging
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
from wbrag.llm.engine import model_path
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.llm.vllm import VllmEngine
from wbrag.methods import Tools
from wbrag.prompts import prompts_of
from wbrag.retrieval.encoding import Encoders, got, lost
from wbrag.retrieval.searching import BatchedSearch
from wbrag.run.placement import Placement, Places
from wbrag.run.progress import Counts
from wbrag.run.retrieve import Knowledge, KnownAnswers, MergedDocuments, MethodSearch
from wbrag.schema import PREDICTION, TRACE, WRITTEN, Example, documents_of
from wbrag.units.write import write_units

log = logging.getLogger(__name__)

Row = dict[str, Any]
RowWork = Callable[[Row], Awaitable[Row]]

#: Times a generator that died is started again before the run gives up.
MAX_RESTARTS = 10
#: Of a call that waits for a generator which Ray is starting again. Any other one fails at once, so that its block goes
#: to another: the node that this one needs may never come back.
PATIENT: dict[str, Any] = {"max_task_retries": -1}
#: An engine that takes longer to close is killed.
CLOSE_SECONDS = 30.0
#: A generator that does not say in this time what it has done is being restarted, and will count anew.
COUNT_SECONDS = 30.0
#: Between two looks at which engines have come up meanwhile.
LOOK_SECONDS = 1.0
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
            return VllmEngine(backbone)
        case "scripted":
            return ScriptedLLM(read, backbone.max_model_len, remember=False)
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
        """`schema.RETRIEVED` rows, and `earlier` beside them in an update, to `schema.TRACE` rows (Algorithm 1)."""
        tools = self._tools(cfg, method_search)
        metric = partial(
            metrics.score, cfg.benchmark.metric, labels=cfg.benchmark.labels, language=cfg.benchmark.language
        )
        how: dict[str, Any] = {"judge": cfg.judge == "llm", "distils": one_unit_an_example(cfg.units)}

        async def work(row: Row) -> Row:
            known = (row.get("known") or {}).get("answer_closed_book")
            given = (_example(row), documents_of(row["documents"]), tools, cfg.gates, metric)
            made = await train_example(*given, closed_book_answer=known, earlier=row.get("earlier"), **how)
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
        return self.counts + Counts(told | {"cut": llm.cut, "empty": llm.empty})

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
    """The generator actors of a run: started when first asked for, stopped with `stop`, counted over restarts.

    They are in `places`, on CPUs without. `make_room`, where it is set, ends what holds their GPUs before they start.
    """

    def __init__(self, cfg: TrainConfig, places: Places | None = None) -> None:
        self.places = places or Places(Placement(cfg.cluster.engines))
        memory = cfg.backbone.gpu_memory_utilization * min(1.0, self.places.plan.engine_gpus or 1.0)
        # A relative checkpoint folder means another one in the actor's working directory.
        sent = replace(cfg.backbone, model=model_path(cfg.backbone), gguf="", gpu_memory_utilization=memory)
        self.cfg = replace(cfg, backbone=sent)
        self.encoders: Encoders  # the session's, which outlive them
        self.make_room: Callable[[], None] | None = None
        self.handles: list[Any] = []
        self.starts: list[Any] = []  # of each, the seconds that its engine took, once it is up
        self.start_seconds = 0.0

    def start(self) -> list[Any]:
        """The actors' handles; does not wait for their engines."""
        import ray

        if not self.handles:
            if self.make_room:
                self.make_room()
            actor: Any = ray.remote(Generator)
            how: dict[str, Any] = {"max_concurrency": 1000, "max_restarts": MAX_RESTARTS}
            self.handles = [actor.options(**how, **where).remote(self.cfg) for where in self.places.engines()]
            self.starts = [handle.started.options(**PATIENT).remote() for handle in self.handles]
        return self.handles

    def wait(self) -> None:
        """Until an engine is ready; others join as they come. One that cannot start raises here what it said."""
        import ray

        self.start()
        ray.wait(self.starts, num_returns=1)
        up = self._up()
        self.start_seconds = max(ray.get(list(up)))
        if len(up) < len(self.handles):
            log.info("%d of %d engines are ready; the others join as they come", len(up), len(self.handles))

    def counts(self, seconds: float = COUNT_SECONDS) -> Counts | None:
        """The sum over the generators that have started and answer in so many seconds; None where none does."""
        import ray

        asked = [handle.progress.remote() for handle in self._up().values()]
        told, _ = ray.wait(asked, num_returns=len(asked), timeout=seconds) if asked else ([], [])
        counts = [one for one in map(got, told) if not isinstance(one, Exception)]
        return sum(counts, Counts()) if counts else None

    def stop(self) -> None:
        """End the actors and their engines' processes; on GPUs their memory is free on return."""
        import ray

        closed = [handle.close.remote() for handle in self._up().values()] if self.cfg.cluster.gpus else []
        if closed:
            ray.wait(closed, num_returns=len(closed), timeout=CLOSE_SECONDS)
        for handle in self.handles:
            ray.kill(handle)
        self.handles, self.starts = [], []

    def _up(self) -> dict[Any, Any]:
        """Of those that have started, or failed to: the reference to how long that took, and the handle."""
        import ray

        done, _ = ray.wait(self.starts, num_returns=len(self.starts), timeout=0) if self.starts else ([], [])
        return {ref: handle for ref, handle in zip(self.starts, self.handles, strict=True) if ref in done}


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

    There is one for all generators, so that it knows who is busy. A generator has at most `most` blocks, and none
    before its engine is up: what is left waits here for whoever comes. The blocks of one that died go to others. With
    `stage.knowledge`, questions that `retrieve_block` encoded first gain Top-K(R(q, K) u R(q, K_wb)).
    """

    def __init__(self, generators: list[Any], stage: Stage, most: int) -> None:
        self.generators, self.stage, self.most = generators, stage, most
        self.blocks: dict[int, int] = {}  # of the generators that are up, by number
        self.starting = {one.started.options(**PATIENT).remote(): number for number, one in enumerate(generators)}
        self.changed = threading.Condition()
        self.merged = MergedDocuments(stage.knowledge) if stage.knowledge else None
        self.known = KnownAnswers(stage.known) if stage.known else None

    def __call__(self, block: pa.Table) -> pa.Table:
        import ray

        work, made = WORKS[self.stage.work]
        if not block.num_rows:
            return made.empty_table()
        block = self.merged(block) if self.merged else block
        block = self.known(block) if self.known else block
        while True:
            chosen = self._choose()
            try:
                ask = getattr(self.generators[chosen], work)
                return ray.get(ask.remote(block, self.stage.cfg, self.stage.method_search))
            except lost():
                self._lost(chosen)
            finally:
                self._left(chosen)

    def _choose(self) -> int:
        """The generator with the fewest blocks, once one has a place for another; an engine that cannot start raises
        here what it said.
        """
        import ray

        with self.changed:
            while True:
                refs = list(self.starting)
                for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else []:
                    ray.get(ref)
                    self.blocks[self.starting.pop(ref)] = 0
                chosen = min(self.blocks, key=self.blocks.__getitem__, default=None)
                if chosen is not None and self.blocks[chosen] < self.most:
                    self.blocks[chosen] += 1
                    return chosen
                self.changed.wait(LOOK_SECONDS)

    def _lost(self, number: int) -> None:
        """A generator died, or its node: Ray starts it again, and until then it gets nothing."""
        with self.changed:
            if self.blocks.pop(number, None) is not None:
                self.starting[self.generators[number].started.options(**PATIENT).remote()] = number

    def _left(self, number: int) -> None:
        """A generator has a block less."""
        with self.changed:
            if self.blocks.get(number):
                self.blocks[number] -= 1
            self.changed.notify()
