"""An update beside a rebuild, in microworlds: `python benchmarks/update.py [--train 500] [--seed 7]`.

Trains on a world, changes 5 % of its passages, removes 1 % and adds 1 %, and follows them twice, each time as a
command in a process of its own: by `wbrag update`, and by `wbrag train` on the new corpus with a run folder and a cache
that are new. Both pairs hold the same passages and units; an encoder's vectors may differ in their last place by what
else was in the batch. Prints a table for each number of training questions, writes OUT/update.json beside it, and
leaves with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from synthetic import environment, table, timed

from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.search import base_of
from wbrag.store.versions import current

ROOT = Path(__file__).resolve().parents[1]
CHANGED, REMOVED, ADDED, SHARE = 0.05, 0.01, 0.01, 0.2
#: The last place of a component of a unit vector in fp16.
LAST = 2**-11
#: What a passage that changes says besides, and a new one.
MORE = "So it was told in later years."

Row = dict[str, Any]


def edited(rows: list[Row], seed: int) -> list[Row]:
    """The corpus with some passages changed, removed and added, which the seed draws."""
    draw, count = random.Random(seed), len(rows)
    order = draw.sample(range(count), round((CHANGED + REMOVED) * count))
    gone, changed = set(order[: round(REMOVED * count)]), set(order[round(REMOVED * count) :])
    kept = [
        {**row, "contents": f"{row['contents'].rstrip()} {MORE}"} if number in changed else row
        for number, row in enumerate(rows)
        if number not in gone
    ]
    for row in draw.sample(rows, round(ADDED * count)):
        kept.append({"id": f"new-{row['id']}", "contents": f"{row['contents'].rstrip()} {MORE}"})
    return kept


def carried_out(*words: object) -> None:
    """A command of this checkout; RuntimeError with what it said where it fails."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", *map(str, words)], env=surroundings, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} failed:\n{ran.stderr}")


def held(run: Path) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """What the pair of a run holds: of its passages and of its units text and vector, by id."""
    found = {}
    for name, store in {"passages": base_of(run) or run, "units": run / "writeback"}.items():
        rows = opened(place_of(store), current(store)).to_table(columns=["id", "title", "text", "vector"]).to_pylist()
        found[name] = {row["id"]: (f"{row['title']}\n{row['text']}", np.asarray(row["vector"])) for row in rows}
    return found


def other(ours: dict[str, tuple[str, np.ndarray]], theirs: dict[str, tuple[str, np.ndarray]]) -> int:
    """How many rows only one of two stores has, or one has otherwise."""
    both = ours.keys() & theirs.keys()
    same = sum(ours[key][0] == theirs[key][0] and np.allclose(ours[key][1], theirs[key][1], 0, LAST) for key in both)
    return len(ours.keys() | theirs.keys()) - same


def calls_of(folder: Path) -> int:
    """LLM calls of a run or of an update."""
    work = json.loads((folder / "run.json").read_text(encoding="utf-8"))["work"]
    return sum(int(stage["calls"]) for stage in work.values())


def measured(out: Path, seed: int, train: int) -> Row:
    """Both ways in the folder `out`, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    world, old, new, corpus = out / "world", out / "updated" / "nq", out / "rebuilt" / "nq", out / "corpus.jsonl"
    carried_out("microworld.generate", "--seed", seed, "--train", train, "--out", world)
    lines = (world / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = edited([json.loads(line) for line in lines], seed)
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ("wbrag", "train", "benchmark=nq", f"world={world}")
    carried_out(*settings, f"run_dir={old}")
    found: Row = {"train": train, "passages": len(rows)}
    found["rebuild_s"] = timed(lambda: carried_out(*settings, f"corpus={corpus}", f"run_dir={new}"))
    found["update_s"] = timed(lambda: carried_out("wbrag", "update", f"run_dir={old}", f"corpus={corpus}"))
    folder = old / "updates" / "0001"
    told = json.loads((new / "run.json").read_text(encoding="utf-8"))
    found |= {"engine_s": told["engine_start_seconds"], "calls": calls_of(folder), "calls_rebuilt": calls_of(new)}
    found["asked"] = pq.read_metadata(folder / "traces_asked.parquet").num_rows
    ours, theirs = held(old), held(new)
    found["other"] = {name: other(ours[name], theirs[name]) for name in ours}
    return found


def shown(found: Row) -> list[tuple[str, str, str, bool | None]]:
    """The rows of the table."""
    share, calls = found["update_s"] / found["rebuild_s"], found["calls"] / found["calls_rebuilt"]
    engine, differ = found["engine_s"] / found["rebuild_s"], found["other"].values()
    return [
        ("update, of a rebuild's time", f"{share:.2f}", f"<= {SHARE}", share <= SHARE),
        ("seconds: update, rebuild", f"{found['update_s']:.0f}, {found['rebuild_s']:.0f}", "", None),
        ("the engine's start alone, of a rebuild's time", f"{engine:.2f}", "", None),
        ("LLM calls, of a rebuild's", f"{calls:.2f}", "", None),
        ("training examples asked", f"{found['asked']} of {found['train']}", "", None),
        ("passages, units that differ", ", ".join(map(str, differ)), "0, 0", not any(differ)),
    ]


def main() -> int:
    """Measure one world after the other."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--train", default="500", help="training questions of the worlds, by commas")
    given.add_argument("--seed", type=int, default=7)
    given.add_argument("--out", type=Path, default=Path("runs/update"))
    args = given.parse_args()
    out: Path = args.out.absolute()
    told: Row = {"environment": environment(), "worlds": []}
    print(*(f"{key}: {value}" for key, value in told["environment"].items()), sep="\n")
    holds = True
    for train in map(int, args.train.split(",")):
        told["worlds"].append(measured(out / str(train), args.seed, train))
        (out / "update.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        holds = table(f"update, {train} training questions", shown(told["worlds"][-1])) and holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
