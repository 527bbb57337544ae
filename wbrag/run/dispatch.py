"""How the blocks of a plan reach the generators: what is to be done with them, and the actor that takes them there."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wbrag.config import TrainConfig
from wbrag.run.retrieve import Knowledge, KnownAnswers, MergedRetriever, Searcher
from wbrag.schema import PREDICTION, TRACE, WRITTEN

#: What a generator can be asked to do with a block, and the table it makes of it.
OUTPUT = {"train": TRACE, "predict": PREDICTION, "validate": PREDICTION, "write": WRITTEN}


@dataclass(frozen=True, slots=True)
class Stage:
    """What is done with the blocks of a plan: the `work` of a generator under the settings of `cfg`.

    `knowledge`: the stores, for questions that are to gain merged documents. `known`: the table of answers that need
    not be asked again (`run.retrieve.KnownAnswers`). `searcher`: what a method searches with meanwhile.
    """

    cfg: TrainConfig
    work: str
    knowledge: Knowledge | None = None
    known: Path | None = None
    searcher: Searcher | None = None


class Dispatcher:
    """A Ray Data actor of many threads: takes blocks to the generator with the fewest of them, and waits.

    There is one for all generators, so that it knows who is busy; a generator that restarts keeps its blocks (Ray asks
    it again) and gets no new ones meanwhile. With `stage.knowledge`, questions that `run.retrieve` encoded first
    gain Top-K(R(q, K) u R(q, K_wb)).
    """

    def __init__(self, generators: list[Any], stage: Stage) -> None:
        self.generators, self.stage = generators, stage
        self.blocks = [0] * len(generators)
        self.lock = threading.Lock()
        self.merged = MergedRetriever(stage.knowledge) if stage.knowledge else None
        self.known = KnownAnswers(stage.known) if stage.known else None

    def __call__(self, block: pa.Table) -> pa.Table:
        import ray

        work, cfg, searcher = self.stage.work, self.stage.cfg, self.stage.searcher
        if not block.num_rows:
            return OUTPUT[work].empty_table()
        block = self.merged(block) if self.merged else block
        block = self.known(block) if self.known else block
        with self.lock:
            chosen = min(range(len(self.blocks)), key=self.blocks.__getitem__)
            self.blocks[chosen] += 1
        try:
            made: pa.Table = ray.get(getattr(self.generators[chosen], work).remote(block, cfg, searcher))
        finally:
            with self.lock:
                self.blocks[chosen] -= 1
        return made
