"""What grows with the number of examples: `python benchmarks/scale.py [--sizes 10000,100000] [--full]`.

The real job, `run.pipeline.train`, on made-up questions over a small corpus, the scripted generator and the hashing
encoder; each size in a process of its own and a folder of its own. Of each the memory of the driver and its seconds by
stage, and the rows of a file of traces. Prints one table, writes OUT/scale.json beside it, and leaves with 1 when a bar
is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from stub_engine import Row, Told, settings
from synthetic import apart, environment, median, table

from wbrag.run import pipeline
from wbrag.run.record import RunRecord

SIZES, FULL = (10_000, 100_000), 1_000_000
TESTED, TOWNS = 300, 1_999
THINGS = ("mayor", "river", "hill", "bridge", "market")
#: Of so many questions one is answered by the corpus, one without it, and the others by nobody.
KINDS = 6
#: At most so much more for the largest number of examples than for a smaller one; rows of a file from BIG examples on.
MEMORY, SECONDS, FILE_ROWS, BIG = 1.2, 1.15, 1000, 100_000
#: What the kernel tells of a process's memory: now, and the most since it was last reset.
NOW, PEAK = "VmRSS", "VmHWM"


def word(number: int) -> str:
    """Another word for each number."""
    letters = ""
    while number or not letters:
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return letters


def question(number: int, split: str) -> Row:
    """Question `number`, which nobody else asks in these words."""
    town, thing = number // KINDS * 7919 % TOWNS, THINGS[number // KINDS % len(THINGS)]
    asked, golden = f"the {thing} of {word(town).title()}ton", f"{thing.title()}{town}"
    if number % KINDS == 1:
        asked, golden = "the capital of France", "Paris"
    elif number % KINDS:
        asked, golden = f"the harbour of {word(town).title()}ton", "Deep"
    text = f"What is {asked}, {split[:2]}{word(number)}?"
    return {"id": f"{split}-{number:07d}", "question": text, "golden_answers": [golden]}


def passage(town: int) -> Row:
    """All that the corpus says of a town."""
    name = f"{word(town).title()}ton"
    facts = " ".join(f"The {thing} of {name} is {thing.title()}{town}." for thing in THINGS)
    return {"id": f"p{town}", "contents": f"{name}\n{facts}"}


def world(folder: Path, examples: int) -> None:
    """Corpus, training and test questions of FlashRAG's form in a new folder, written line by line."""
    folder.mkdir(parents=True)
    for name, rows in (
        ("corpus", map(passage, range(TOWNS))),
        ("train", (question(number, "train") for number in range(examples))),
        ("test", (question(number, "test") for number in range(TESTED))),
    ):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def memory() -> dict[str, float]:
    """MiB of this process, as /proc/self/status tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(told.split()[0]) / 1024 for name, told in (line.split(":", 1) for line in lines) if "kB" in told}


class Stages:
    """Seconds and memory of this process by stage; peaks are counted anew from the beginning of each."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, float]] = {}

    @contextmanager
    def watched(self, stage: str) -> Iterator[None]:
        """The block is a stage."""
        before, started = memory()[PEAK], time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        yield
        seconds, now = time.perf_counter() - started, memory()
        kinds = {kind: now[kind] for kind in ("RssAnon", "RssFile", "RssShmem")}
        self.told[stage] = {"seconds": seconds, "peak": now[PEAK], "steady": now[NOW], "before": before, **kinds}

    def watch(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each call of which is the stage."""

        @wraps(work)
        def done(*given: object, **named: object) -> object:
            with self.watched(stage):
                return work(*given, **named)

        return done


def trained(out: Path, examples: int, overrides: Sequence[str]) -> Row:
    """A run on so many examples in this process: seconds, memory by stage, rows of its files of traces."""
    folder, stages, timed = out / f"{examples}", Stages(), RunRecord.timed
    shutil.rmtree(folder, ignore_errors=True)
    world(folder / "world", examples)

    @contextmanager
    def both(record: RunRecord, stage: str) -> Iterator[None]:
        with stages.watched(stage), timed(record, stage):
            yield

    RunRecord.timed = both
    pipeline.read_or_quarantine = stages.watch("inputs", pipeline.read_or_quarantine)
    pipeline.write_report = stages.watch("report", pipeline.write_report)
    files = [f"benchmark.{split}={folder}/world/{split}.jsonl" for split in ("train", "test")]
    given = ["benchmark=files", *files, f"corpus={folder}/world/corpus.jsonl", "backbone=scripted", "encoder=hashing"]
    cfg = settings(folder / "run", *given, f"cache_dir={folder}/cache", *overrides)
    started, before = time.perf_counter(), memory()
    metrics = pipeline.train(cfg)
    facts: Row = {"seconds": time.perf_counter() - started, "before": before[NOW], "steady": memory()[NOW]}
    peaks = [one[key] for one in stages.told.values() for key in ("peak", "before")]
    rows = [pq.read_metadata(file).num_rows for file in (folder / "run" / "traces").glob("*.parquet")]
    told = metrics["construction"]
    facts |= {"peak": max(*peaks, memory()[PEAK]), "files": len(rows), "file_rows": median(rows), "stages": stages.told}
    facts |= {"recorded": metrics["seconds"], "kept": told["kept"], "units": told["units"], "failed": told["failed"]}
    shutil.rmtree(folder)
    return facts


def shown(found: dict[int, Row]) -> list[Told]:
    """The table: of each size whether its bars hold, beside the smaller ones; then by stage what grew."""
    first, last, rows = min(found), max(found), list[Told]()
    for n, facts in found.items():
        against = [m for m in found if m < n]
        memory_ratio = facts["peak"] / found[first]["peak"]
        held, bar = (memory_ratio <= MEMORY, f"<= {MEMORY} x") if against else (None, "")
        value = f"{facts['peak']:,.0f} MiB at most, {facts['steady']:,.0f} at the end"
        rows.append((f"{n:,} examples: memory of the driver", f"{value} ({memory_ratio:.2f} x)", bar, held))
        ratios = [facts["seconds"] / n / (found[m]["seconds"] / m) for m in against]
        held, bar = (max(ratios) <= SECONDS, f"<= {SECONDS} x") if against else (None, "")
        beside = f" ({', '.join(f'{ratio:.2f}' for ratio in ratios)} x)" if ratios else ""
        rows.append(("  milliseconds an example", f"{1000 * facts['seconds'] / n:.3f}{beside}", bar, held))
        held, bar = (facts["file_rows"] >= FILE_ROWS, f">= {FILE_ROWS:,}") if n >= BIG else (None, "")
        value = f"{facts['file_rows']:,.0f} in each of {facts['files']:,}"
        rows.append(("  rows of a file of traces, median", value, bar, held))
        rows.append(("  kept, units, failed", f"{facts['kept']:,}, {facts['units']:,}, {facts['failed']:,}", "", None))
    for stage in found[last]["stages"]:
        sizes = [(n, facts["stages"][stage]) for n, facts in found.items() if stage in facts["stages"]]
        seconds = ", ".join(f"{1000 * told['seconds'] / n:.3f}" for n, told in sizes)
        peaks = ", ".join(f"{told['peak']:,.0f}" for _, told in sizes)
        rows.append((f"{stage}: milliseconds an example; peak MiB", f"{seconds}; {peaks}", "", None))
    return rows


def main() -> int:
    """Run the sizes, each in its own process, or with `--part` one of them in this process."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of examples, ascending")
    given.add_argument("--full", action="store_true", help=f"{FULL:,} examples too")
    given.add_argument("--out", type=Path, default=Path("runs/scale"))
    given.add_argument("--part", type=int, help=argparse.SUPPRESS)
    given.add_argument("overrides", nargs="*", help="of conf/train.yaml, as units=subject")
    args = given.parse_args()
    out: Path = args.out.absolute()
    if args.part:
        print(json.dumps(trained(out, args.part, args.overrides)))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    told = environment()
    print(*(f"{key}: {value}" for key, value in told.items()), sep="\n")
    sizes = [int(size) for size in args.sizes.split(",")] + [FULL] * args.full
    found: dict[int, Row] = {}
    for size in sizes:
        found[size] = apart(__file__, str(size), "--out", out, *args.overrides)
        told["sizes"] = found
        (out / "scale.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if table("scale", shown(found)) else 1


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as the command wbrag; each size is a process anew
    sys.exit(main())
