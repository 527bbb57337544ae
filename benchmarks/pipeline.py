"""What the pipeline costs and saves: `python benchmarks/pipeline.py [--parts engine,feed,plan,scale,gpu]`.

`engine`: on vLLM, beside a bare loop over the same prompts and Ray's own chained processors. `plan`: beside the paper's
plan. `gpu`: an engine beside what a GPU can compute. `feed`, `scale`: see `stub_engine`. Each part runs in a process of
its own; prints one table, writes OUT/bench.json beside it, and leaves with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from stub_engine import Paced, Row, Told, example, feed, rated, scale, settings
from synthetic import apart, environment, table

from microworld.generate import Plan, generate
from microworld.questions import BENCHMARKS
from wbrag import metrics
from wbrag.algorithm import CountedLLM, train_example
from wbrag.config import Backbone, Cluster, TrainConfig
from wbrag.llm import LLM, Reply
from wbrag.llm.engine import engine_arguments
from wbrag.llm.vllm import VllmEngine
from wbrag.methods import Tools
from wbrag.prompts import prompts_of
from wbrag.run import inputs
from wbrag.run.job import Session, ray_session
from wbrag.run.pipeline import base_index, retrieve
from wbrag.schema import RETRIEVED, Example, documents_of

#: A prompt and the most tokens of its reply.
Call = tuple[str, int]

#: Examples that an engine sees before the clock runs, and not again.
WARM = 64
#: wbrag's on CPUs, and vLLM's own there.
BLOCK_SIZES = (32, 128)
FILE, FIRST = ORDERS = ("as in the file", "by first document")
#: Seconds after which all counts of an engine have come from its process.
SETTLED = 0.2
#: Llama-3.1-8B's layers with micro_small's tokenizer, so that no hub is asked; 2 x 6.98e9 operations a token, and what
#: an H100 or H200 does of them in a second at most (bfloat16, dense).
SHAPES = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128}
SHAPES |= {"num_attention_heads": 32, "num_key_value_heads": 8}
TOKEN_FLOP, PEAK_FLOP = 13.96e9, 989e12


def asked(cfg: TrainConfig, session: Session, splits: Sequence[str]) -> dict[str, list[Row]]:
    """The questions of these splits with their documents, rows of `schema.RETRIEVED`, in both of ORDERS."""
    inputs.check_settings(cfg)
    folder, encoders = Path(cfg.run_dir) / "questions", session.lend(cfg.encoder, cfg.cluster)
    shutil.rmtree(folder, ignore_errors=True)
    given = inputs.read_inputs(cfg)
    retrieve(cfg, given, base_index(cfg, given, encoders), folder, encoders)
    tables = [pq.read_table(folder / f"{split}.parquet", columns=RETRIEVED.names) for split in splits]
    rows = [row for table in tables for row in table.to_pylist()]
    place = {one["id"]: i for i, one in enumerate(given.train + given.test)}
    return {FILE: sorted(rows, key=lambda row: place[row["id"]]), FIRST: rows}


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
    """Algorithm 1 on an engine in this process, without Ray: rows of `schema.TRACE` with the calls that were `sent`."""
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

    return await asyncio.gather(*map(one, rows))


async def looped(calls: Sequence[Call], llm: LLM, at_once: int) -> tuple[float, int]:
    """Seconds that the calls take, so many at once and none waiting for another, and the tokens of their replies."""
    places, started = asyncio.Semaphore(at_once), time.perf_counter()

    async def one(call: Call) -> int:
        async with places:
            return (await llm.chat(*call)).completion_tokens

    tokens = await asyncio.gather(*map(one, calls))
    return time.perf_counter() - started, sum(tokens)


@asynccontextmanager
async def opened(backbone: Backbone, **engine_args: object) -> AsyncIterator[VllmEngine]:
    """An engine for the block, beside this process and not forked from it: Ray has run here."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
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
    """Prompt tokens computed so far by vLLM's own counters: looked up in the prefix cache, less those found there."""
    from vllm.v1.metrics.reader import Counter, get_metrics_snapshot

    await asyncio.sleep(SETTLED)
    told = {one.name: one.value for one in get_metrics_snapshot() if isinstance(one, Counter)}
    return told["vllm:prefix_cache_queries"] - told["vllm:prefix_cache_hits"]


def engine(out: Path, n: int, chained_n: int) -> tuple[list[Told], Row]:
    """Calls a second on micro_small: bare loop, pipeline over the same calls, chained processors of ray.data.llm."""
    import ray

    cfg = settings(out / "engine", f"world={out / 'world'}", f"cache_dir={out / 'cache'}")
    with Session() as session:
        every = asked(cfg, session, ("train", "test"))[FIRST]
    rows, warm, source = every[:n], every[n : n + WARM], out / "engine.parquet"
    prompts, facts = asyncio.run(bare(cfg, rows))
    pq.write_table(pa.Table.from_pylist(rows, RETRIEVED), source)
    with Session() as session:
        generators = session.open(cfg)
        ray.get(generators.start()[0].train.remote(pa.Table.from_pylist(warm, RETRIEVED), cfg))
        facts |= rated(cfg, generators, source, len(rows))
    ratio = facts["whole"] / facts["loop"]
    shown: list[Told] = [
        (f"bare loop, {facts['loop_calls']:,} calls", f"{facts['loop']:.1f} calls/s", "", None),
        ("Algorithm 1 on the bare engine, without Ray", f"{facts['fused']:.1f} calls/s", "", None),
        (f"pipeline, {facts['calls']:,} calls", f"{facts['whole']:.1f} calls/s", "", None),
        ("  without begin and end", f"{facts['steady']:.1f} calls/s", "", None),
        ("  against the bare loop", f"{ratio:.2f}", ">= 0.95", ratio >= 0.95),
    ]
    what = f"processors of ray.data.llm, chained, {len(prompts[:chained_n])} examples"
    try:
        facts["chained"] = chained(cfg, prompts[:chained_n], out)
    except ImportError as error:
        return [*shown, (what, f"not there: {error}", ">= 2.5", None)], facts
    ratio = facts["whole"] / facts["chained"]
    shown.append((what, f"{facts['chained']:.1f} calls/s", "", None))
    return [*shown, ("  the pipeline against them", f"{ratio:.2f}", ">= 2.5", ratio >= 2.5)], facts


async def bare(cfg: TrainConfig, rows: Sequence[Row]) -> tuple[list[Row], Row]:
    """The prompts that each example's `answers` and `distil` take, token ids as JSON, with the rates of Algorithm 1 and
    of a loop over its calls, example by example: what shares a prefix is as near in time as can be.
    """
    prompts, most = list[Row](), cfg.backbone.answer_tokens  # longer replies are those of the distiller alone
    async with opened(cfg.backbone) as llm:
        started = time.perf_counter()
        made = await trained(rows, cfg, llm)
        fused = time.perf_counter() - started
        await emptied(llm)
        calls = [call for row in made for call in row["sent"]]
        loop, _ = await looped(calls, llm, cfg.backbone.max_num_seqs)
        for row in made:
            answers = [llm.render(content, "") for content, tokens in row["sent"] if tokens == most]
            distil = [llm.render(content, "") for content, tokens in row["sent"] if tokens != most]
            prompts.append({"id": row["id"], "answers": json.dumps(answers), "distil": json.dumps(distil)})
    return prompts, {"loop_calls": len(calls), "loop": len(calls) / loop, "fused": len(calls) / fused}


def chained(cfg: TrainConfig, prompts: Sequence[Row], out: Path) -> float:
    """Calls a second of five chained processors with an engine each, from the first row on: all engines are up by then.

    Prompts come as token ids, and which there are tells what the gates decided: only engines and plan are measured.
    ImportError where ray.data.llm cannot be had.
    """
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    begun, few = out / "begun.txt", {"num_cpus": 0.25}
    begun.unlink(missing_ok=True)

    def step(rows: Any, kind: str, number: int) -> Any:  # noqa: ANN401 - Ray's Dataset
        def asking(row: Row) -> Row:
            if not begun.exists():
                begun.write_text(str(time.time()))
            most = cfg.backbone.distil_tokens if kind == "distil" else cfg.backbone.answer_tokens
            sampling = {"temperature": 0.0, "max_tokens": most}
            return {**row, "tokenized_prompt": json.loads(row[kind])[number], "sampling_params": sampling}

        arguments = engine_arguments(cfg.backbone, on_cpu=True) | {"distributed_executor_backend": "mp"}
        stages = ("chat_template_stage", "tokenize_stage", "detokenize_stage", "log_engine_metrics")
        config = vLLMEngineProcessorConfig(
            model_source=arguments.pop("model"),
            engine_kwargs=arguments,
            placement_group_config={"bundle_per_worker": {"CPU": 0.1, "GPU": 0}},  # else it waits for a GPU
            **dict.fromkeys(stages, False),
        )
        how: Row = {"preprocess_map_kwargs": few, "postprocess_map_kwargs": few, "preprocess": asking}
        how["postprocess"] = lambda row: {key: row[key] for key in ("id", "answers", "distil")}
        return build_processor(config, **how)(rows.filter(lambda row: len(json.loads(row[kind])) > number, **few))

    def each(row: Row) -> list[Row]:
        return [{**row, "one": json.dumps([ids])} for ids in json.loads(row["answers"])[2:]]

    with ray_session(Cluster()):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.wait_for_min_actors_s = False, 900
        rows = ray.data.from_arrow(pa.Table.from_pylist(list(prompts))).repartition(-(-len(prompts) // 64))
        rows = step(step(rows, "answers", 0), "answers", 1)
        grouped = step(rows.flat_map(each, **few), "one", 0).groupby("id", num_partitions=2)
        rows = grouped.map_groups(lambda group: group.slice(0, 1), batch_format="pyarrow", **few)
        for _ in step(step(rows, "distil", 0), "distil", 1).iter_batches():
            pass
        seconds = time.time() - float(begun.read_text())
    return sum(len(json.loads(row[kind])) for row in prompts for kind in ("answers", "distil")) / seconds


def plan(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls and computed prompt tokens against the paper's plan, on n examples of each benchmark of the microworld."""
    given = (f"world={out / 'world'}", f"cache_dir={out / 'cache'}", f"train_limit={n}", "test_limit=1")
    cfgs = [settings(out / "plan" / name, f"benchmark={name}", *given) for name in BENCHMARKS]
    with Session() as session:
        rows = [asked(cfg, session, ("train",)) for cfg in cfgs]
    return asyncio.run(plans(cfgs, rows))


async def plans(cfgs: Sequence[TrainConfig], rows: Sequence[dict[str, list[Row]]]) -> tuple[list[Told], Row]:
    """Both plans on all benchmarks, with each block size and in both orders, each time from an empty prefix cache."""
    shown: list[Told] = []
    facts: Row = {}
    for block in BLOCK_SIZES:
        cached = 0  # what vLLM computes of the paper's plan without anything of wbrag's
        async with opened(cfgs[0].backbone, block_size=block, disable_log_stats=False) as llm:
            for order in ORDERS:
                own, paper, alike = Counter[str](), Counter[str](), list[bool]()
                for cfg, orders in zip(cfgs, rows, strict=True):
                    decided = []
                    for name, sums in (("wbrag", own), ("paper", paper)):
                        await emptied(llm)
                        before = await computed()
                        made = await trained(orders[order], cfg, llm, name == "paper")
                        told = {key: sum(row[key] for row in made) for key in ("calls", "prompt_tokens")}
                        told["computed"] = await computed() - before
                        facts[f"{cfg.benchmark.name}, blocks of {block}, {order}, {name}"] = told
                        sums.update(told)
                        decided.append([(row["status"], row["kept_ranks"]) for row in made])
                    alike += map(eq, *decided)
                cached = paper["computed"] if order == FILE else cached
                share, default = own["computed"] / paper["prompt_tokens"], (block, order) == (BLOCK_SIZES[0], FIRST)
                calls, left = own["calls"] / paper["calls"], own["computed"] / cached
                shown += [
                    (f"blocks of {block}, {order}: calls against the paper's plan", f"{calls:.3f}", "", None),
                    (
                        "  computed against its prompt tokens",
                        f"{share:.3f}",
                        "<= 0.7",
                        share <= 0.7 if default else None,
                    ),
                    ("  against what vLLM computes of it, as in the file", f"{left:.3f}", "", None),
                    ("  examples decided alike", f"{sum(alike):,} of {len(alike):,}", "all", all(alike)),
                ]
    return shown, facts


def gpu(out: Path, n: int) -> tuple[list[Told], Row]:
    """A loop over the calls of n made-up examples on Llama-3.1-8B's layers with random weights, on one GPU."""
    import torch

    if not torch.cuda.is_available():
        return [("Llama-3.1-8B's layers", "not run on a GPU: make EXTRA=gpu bench PARTS=gpu", "", None)], {}
    cfg = settings(out / "gpu", f"world={out}", "backbone.dtype=bfloat16", "backbone.answer_tokens=32")

    async def measured() -> Row:
        made = await trained([example(i) for i in range(n)], cfg, Paced(0.0))  # its rule decides which calls there are
        calls = [call for row in made for call in row["sent"]]
        async with opened(cfg.backbone, load_format="dummy", hf_overrides=SHAPES, disable_log_stats=False) as llm:
            await looped(calls[:WARM], llm, cfg.backbone.max_num_seqs)
            await emptied(llm)
            before = await computed()
            seconds, written = await looped(calls, llm, cfg.backbone.max_num_seqs)
            done = await computed() - before + written
        return {"calls": len(calls), "calls_per_second": len(calls) / seconds, "tokens_per_second": done / seconds}

    facts = asyncio.run(measured())
    value = f"{facts['calls_per_second']:,.0f} calls/s, {facts['tokens_per_second']:,.0f} computed tokens/s"
    share = facts["tokens_per_second"] * TOKEN_FLOP / PEAK_FLOP
    what = f"Llama-3.1-8B's layers, {torch.cuda.get_device_name()}"
    return [(what, value, "", None), ("  share of the compute bound", f"{share:.3f}", "", None)], facts


PARTS: dict[str, tuple[Callable[..., tuple[list[Told], Row]], tuple[int, ...]]] = {
    "engine": (engine, (1100, 300)),  # examples of the pipeline, of the chained processors
    "feed": (feed, (12_000,)),  # examples
    "plan": (plan, (50,)),  # examples of each benchmark
    "scale": (scale, (15,)),  # seconds of work for each number of engines
    "gpu": (gpu, (2000,)),  # examples
}


def main() -> int:
    """Run the parts, each in its own process, or with `--part` one of them in this process."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--parts", default=",".join(PARTS))
    given.add_argument("--out", type=Path, default=Path("runs/bench"))
    given.add_argument("--size", type=float, default=1.0, help="multiplies examples and seconds")
    given.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = given.parse_args()
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "world" / "world.json").is_file():
        generate(out / "world", Plan())  # the demo's
    if args.part:
        part, sizes = PARTS[args.part]
        print(json.dumps(part(out, *(max(1, round(size * args.size)) for size in sizes))))
        return 0
    if unknown := set(chosen := args.parts.split(",")) - set(PARTS):
        given.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    told = environment()
    print(*(f"{key}: {value}" for key, value in told.items()), sep="\n")
    held = True
    for name in chosen:
        shown, facts = apart(__file__, name, "--out", out, "--size", args.size)
        held &= table(name, shown)
        told[name] = {"table": shown, "facts": facts}
        (out / "bench.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
