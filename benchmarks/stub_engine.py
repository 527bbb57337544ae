"""The pipeline where a rule answers in place of a model: at once (`feed`), or at the rate of a GPU (`scale`).

Its examples are made up: five documents of a hundred words each; one example of KEPT_EVERY passes the gates.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from hydra import compose, initialize_config_dir
from synthetic import say

from wbrag.algorithm import CountedLLM
from wbrag.command import command_line
from wbrag.config import Cluster, TrainConfig
from wbrag.llm import Reply
from wbrag.llm.scripted import ScriptedLLM
from wbrag.retrieval.encoding import ON_CPUS
from wbrag.run.actors import Generator, Generators, Stage
from wbrag.run.folder import write_rows
from wbrag.run.job import Job, generate, ray_session
from wbrag.run.progress import Counts
from wbrag.run.record import RunRecord
from wbrag.schema import RETRIEVED, Document, document_rows

Row = dict[str, Any]
#: Measure, value, bar, whether it holds (None: no bar).
Told = tuple[str, str, str, bool | None]
CONF = Path(__file__).resolve().parents[1] / "conf"
LOOK_SECONDS, DOCUMENTS, KEPT_EVERY = 0.25, 5, 6
CALLS_AN_EXAMPLE = 2 + (DOCUMENTS + 2) / KEPT_EVERY
#: The paper's 220,000 calls in 30 minutes on two GPUs: calls a second of one.
GPU_CALLS = 61.0
ENGINES = (1, 2, 4, 8)
SENTENCE = "Number {0} is kept by keeper {0}, as the ledger of the old harbour office says."
LINES = 8


def settings(run: Path, *overrides: str) -> TrainConfig:
    """conf/train.yaml with these overrides; without other units with the paper's, for which all is one stage."""
    units = [] if any(one.startswith("units=") for one in overrides) else ["units=paper"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose("train", overrides=[*units, f"run_dir={run}", *overrides])
    return command_line.settings(chosen, TrainConfig)


def rated(cfg: TrainConfig, generators: Generators, source: Path, goal: int) -> Row:
    """`run.job.generate` with training as its work, into an empty run folder, once all engines are up: `calls`, and how
    many a second, from the first example's begin to the last file written (`whole`) and between a tenth and nine tenths
    of the calls (`steady`), where begin and end of a run are not felt. ValueError for a run that is too short.
    """
    import ray

    run = Path(cfg.run_dir)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    job = Job(cfg, run, RunRecord(run, {"benchmark": "rate"}))
    generators.start()
    ray.get(generators.starts)
    before, over = generators.counts() or Counts(), threading.Event()
    seen = [(time.perf_counter(), 0)]  # moments and the calls ended by then; at the first no example had begun

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if (now := generators.counts(1.0)) is not None:
                moment = (time.perf_counter(), now["calls"] - before["calls"])
                seen[:] = [*seen, moment] if now["begun"] > before["begun"] else [moment]

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        generate(job, generators, Stage(cfg, "train"), source, "traces", goal)
        ended = time.perf_counter()
    finally:
        over.set()
        looking.join()
    calls = job.record.facts["work"]["train"]["calls"]
    middle = [moment for moment in seen if 0.1 * calls <= moment[1] <= 0.9 * calls]
    if len(middle) < 2:
        raise ValueError(f"{run}: {calls} calls in {ended - seen[0][0]:.1f} s are too few for a rate: ask for more")
    (since, first), (until, last) = middle[0], middle[-1]
    return {"calls": calls, "whole": calls / (ended - seen[0][0]), "steady": (last - first) / (until - since)}


def example(number: int, lines: int = LINES) -> Row:
    """A row of `schema.RETRIEVED`; each of its documents holds the answer, and so many lines more of a dozen words."""
    filler = " ".join(f"Line {i} of this page tells of ships and of their cargo." for i in range(lines))
    texts = [f"Page {rank}. {SENTENCE.format(number)} {filler}" for rank in range(DOCUMENTS)]
    documents = [Document(f"{number}-{rank}", f"Ledger {rank}", text) for rank, text in enumerate(texts)]
    asked = {"id": f"q{number}", "question": f"Who keeps number {number}?", "golden_answers": [f"keeper {number}"]}
    return {**asked, "metadata": "{}", "documents": document_rows(documents)}


def reply(prompt: str) -> str:
    """What the rule answers; each prompt ends in its question."""
    number = int(prompt.rpartition(" ")[2].rstrip("?"))
    if prompt.startswith("Evidence:"):
        return f"Number {number}\n{SENTENCE.format(number)}"
    if "\n\nExtract " in prompt:
        return SENTENCE.format(number)
    return f"keeper {number}" if prompt.startswith("Document") and number % KEPT_EVERY == 0 else "unknown"


class Paced(ScriptedLLM):
    """An engine that does `rate` calls a second, one after the other; 0: as many as it can."""

    def __init__(self, rate: float) -> None:
        super().__init__(reply, remember=False)
        self.rate, self.free = rate, 0.0

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """As `ScriptedLLM.chat`, once the calls before it are done."""
        if self.rate:
            self.free = max(self.free, time.perf_counter()) + 1 / self.rate
            await asyncio.sleep(self.free - time.perf_counter())
        return await super().chat(content, max_tokens, prefix=prefix, logprobs=logprobs)


class StubGenerator(Generator):
    """The generator actor with such an engine."""

    def __init__(self, cfg: TrainConfig, rate: float) -> None:
        super().__init__(cfg)
        self.engine = Paced(rate)
        self.llm = CountedLLM(self.engine, remember=False)


def stub_rates(run: Path, engines: int, rate: float, n: int, *overrides: str) -> Row:
    """The rates (`rated`) of n made-up examples on so many stub engines; within a Ray session."""
    import ray

    cfg = settings(run, "backbone=scripted", f"world={run}", f"cluster.engines={engines}", *overrides)
    source = run.with_suffix(".parquet")
    actor: Any = ray.remote(StubGenerator)
    batches = (range(start, min(n, start + 1000)) for start in range(0, n, 1000))
    write_rows(source, RETRIEVED, (pa.Table.from_pylist([example(i) for i in some], RETRIEVED) for some in batches))
    generators = Generators(cfg)
    generators.handles = [actor.options(max_concurrency=1000, **ON_CPUS).remote(cfg, rate) for _ in range(engines)]
    generators.starts = [handle.started.remote() for handle in generators.handles]
    try:
        return rated(cfg, generators, source, n)
    finally:
        generators.stop()


def feed(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls a second that the pipeline can feed to one engine that answers at once, its traces written as Parquet."""
    say(f"feed: {n:,} examples to a stub")
    with ray_session(Cluster()):
        rates = stub_rates(out / "feed", 1, 0.0, n)
    what, value = f"{rates['calls']:,} calls fed to a stub, Parquet written", f"{rates['whole']:,.0f} calls/s"
    return [(what, value, ">= 2,500", rates["whole"] >= 2500)], rates


def scale(out: Path, seconds: int) -> tuple[list[Told], Row]:
    """What share of n engines' calls a second is had, on engines of GPU_CALLS each that are kept busy for so long."""
    shown: list[Told] = []
    facts: Row = {}
    small = ("cluster.block_rows=16", "cluster.examples_in_flight=64")  # a second's work of such an engine
    with ray_session(Cluster()):
        for engines in ENGINES:
            say(f"scale: {engines} engines")
            n = engines * round(seconds * GPU_CALLS / CALLS_AN_EXAMPLE)
            rates = facts[f"{engines} engines"] = stub_rates(out / f"scale-{engines}", engines, GPU_CALLS, n, *small)
            steady, whole = (rates[key] / (engines * GPU_CALLS) for key in ("steady", "whole"))
            bar, held = (">= 0.97", steady >= 0.97) if engines == ENGINES[-1] else ("", None)
            value = f"{steady:.3f} (with begin and end {whole:.3f})"
            shown.append((f"{engines} engines of {GPU_CALLS:g} calls/s: share that is had", value, bar, held))
    return shown, facts
