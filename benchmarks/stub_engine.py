"""What the pipeline does where a rule answers in place of a model: at once (`feed`), or at the rate of a GPU (`scale`).

The examples are made up: five documents of a hundred words each, and one example of KEPT_EVERY passes the gates.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from hydra import compose, initialize_config_dir

from jobs import command_line
from wbrag.algorithm import CountedLLM
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

ROOT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 0.25
DOCUMENTS, KEPT_EVERY = 5, 6
CALLS_AN_EXAMPLE = 2 + (DOCUMENTS + 2) / KEPT_EVERY
#: The paper's 220,000 calls in 30 minutes on two GPUs, calls a second of one.
GPU_CALLS = 61.0
ENGINES = (1, 2, 4, 8)
SENTENCE = "Number {0} is kept by keeper {0}, as the ledger of the old harbour office says."
FILLER = " ".join(f"Line {i} of this page tells of ships and of their cargo." for i in range(8))


def settings(run: Path, *overrides: str) -> TrainConfig:
    """conf/train.yaml with these overrides; with the paper's units all of Algorithm 1 is one stage."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = compose("train", overrides=["units=paper", f"run_dir={run}", *overrides])
    return command_line.settings(chosen, TrainConfig)


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls of a plan, and how many a second: from the first example's begin to the last file written (`whole`), and
    between a tenth and nine tenths of the calls (`steady`), where neither the begin nor the end of a run is felt.
    """

    calls: int
    whole: float
    steady: float


def filled(cfg: TrainConfig, generators: Generators, source: Path, table: str, goal: int) -> Rates:
    """`run.job.generate` with training as its work, into a new run folder; the engines are up before the clock runs.

    ValueError for a run that is too short for a rate.
    """
    import ray

    run = Path(cfg.run_dir) / table
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    job = Job(cfg, run, RunRecord(run, {"benchmark": table}))
    generators.start()
    ray.get(generators.starts)
    with watched(generators) as seen:
        generate(job, generators, Stage(cfg, "train"), source, "traces", goal)
        ended = time.perf_counter()
    calls: int = job.record.facts["work"]["train"]["calls"]
    middle = [moment for moment in seen if 0.1 * calls <= moment[1] <= 0.9 * calls]
    if len(middle) < 2:
        raise ValueError(
            f"{run}: {calls} calls in {ended - seen[0][0]:.1f} s are too few for a rate: give more examples"
        )
    (since, first), (until, last) = middle[0], middle[-1]
    return Rates(calls, calls / (ended - seen[0][0]), (last - first) / (until - since))


@contextmanager
def watched(generators: Generators) -> Iterator[list[tuple[float, int]]]:
    """Moments and the calls that had ended by then, several a second while the block runs; the first moment is the
    last one at which no example had begun.
    """
    before = generators.counts() or Counts()
    seen, over = [(time.perf_counter(), 0)], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if (now := generators.counts(1.0)) is None:
                continue
            if now["begun"] == before["begun"]:
                seen.clear()
            seen.append((time.perf_counter(), now["calls"] - before["calls"]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def examples(n: int) -> Iterator[pa.Table]:
    """Rows of `schema.RETRIEVED`, in batches."""
    for start in range(0, n, 1000):
        yield pa.Table.from_pylist([example(i) for i in range(start, min(n, start + 1000))], RETRIEVED)


def example(number: int) -> Row:
    """Every document answers its question."""
    text = f"{SENTENCE.format(number)} {FILLER}"
    documents = [
        Document(f"{number}-{rank}", f"Ledger {rank}", f"Page {rank}. {text}", 0.9 - rank / 10)
        for rank in range(DOCUMENTS)
    ]
    asked = {"id": f"q{number}", "question": f"Who keeps number {number}?", "golden_answers": [f"keeper {number}"]}
    return {**asked, "metadata": "{}", "documents": document_rows(documents)}


def reply(prompt: str) -> str:
    """What the rule answers; each prompt ends in the question."""
    number = int(prompt.rpartition(" ")[2].rstrip("?"))
    if prompt.startswith("Evidence:"):
        return f"Number {number}\n{SENTENCE.format(number)}"
    if "\n\nExtract " in prompt:
        return SENTENCE.format(number)
    return f"keeper {number}" if prompt.startswith("Document") and number % KEPT_EVERY == 0 else "unknown"


class Paced(ScriptedLLM):
    """An engine that does `rate` calls a second, one after the other; 0: as many as it can."""

    def __init__(self, rate: float) -> None:
        super().__init__(reply)
        self.rate, self.free = rate, 0.0

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """As `ScriptedLLM.chat`, once the calls before it are done."""
        if self.rate:
            self.free = max(self.free, time.perf_counter()) + 1 / self.rate
            await asyncio.sleep(self.free - time.perf_counter())
        self.prompts.clear()  # of a long run they fill the memory
        return await super().chat(content, max_tokens, prefix=prefix, logprobs=logprobs)


class StubGenerator(Generator):
    """The generator actor with such an engine."""

    def __init__(self, cfg: TrainConfig, rate: float) -> None:
        super().__init__(cfg)
        self.engine = Paced(rate)
        self.llm = CountedLLM(self.engine, remember=False)


class StubGenerators(Generators):
    """Actors with such engines, on CPUs."""

    def __init__(self, cfg: TrainConfig, rate: float) -> None:
        super().__init__(cfg)
        self.rate = rate

    def start(self) -> list[Any]:
        """As `Generators.start`."""
        import ray

        if not self.handles:
            actor: Any = ray.remote(StubGenerator)
            options = {"max_concurrency": 1000, **ON_CPUS}
            self.handles = [
                actor.options(**options).remote(self.cfg, self.rate) for _ in range(self.cfg.cluster.engines)
            ]
            self.starts = [handle.started.remote() for handle in self.handles]
        return self.handles


def stub_rates(run: Path, engines: int, rate: float, n: int, *overrides: str) -> Rates:
    """The rates of a run of n made-up examples on so many stub engines; within a Ray session."""
    given = ("benchmark=nq", "backbone=scripted", f"world={run}", f"cluster.engines={engines}", *overrides)
    cfg = settings(run, *given)
    source = run / f"questions-{n}.parquet"
    write_rows(source, RETRIEVED, examples(n))
    generators = StubGenerators(cfg, rate)
    try:
        return filled(cfg, generators, source, f"{engines}-engines", n)
    finally:
        generators.stop()


def feed(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls a second that the pipeline can feed to one engine that answers at once, its traces written as Parquet."""
    with ray_session(Cluster()):
        rates = stub_rates(out / "feed", 1, 0.0, n)
    shown: list[Told] = [
        (f"{rates.calls:,} calls fed to a stub", f"{rates.whole:,.0f} calls/s", ">= 2,500", rates.whole >= 2500),
        ("  without begin and end", f"{rates.steady:,.0f} calls/s", "", None),
    ]
    return shown, asdict(rates)


def scale(out: Path, seconds: int) -> tuple[list[Told], Row]:
    """What share of n engines' calls a second is had, on engines of GPU_CALLS each that are kept busy for so long."""
    shown: list[Told] = []
    facts: Row = {}
    with ray_session(Cluster()):
        for engines in ENGINES:
            n = engines * round(seconds * GPU_CALLS / CALLS_AN_EXAMPLE)
            small = ("cluster.block_rows=16", "cluster.examples_in_flight=64")
            rates = stub_rates(out / "scale", engines, GPU_CALLS, n, *small)
            steady, whole = (rate / (engines * GPU_CALLS) for rate in (rates.steady, rates.whole))
            bar, held = (">= 0.97", steady >= 0.97) if engines == ENGINES[-1] else ("", None)
            what = f"{engines} engines of {GPU_CALLS:g} calls/s, {rates.calls:,} calls"
            shown.append((what, f"{steady:.3f} ({whole:.3f} with begin and end)", bar, held))
            facts[str(engines)] = asdict(rates) | {"of_steady": steady, "of_whole": whole}
    return shown, facts
