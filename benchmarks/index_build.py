"""Building, merging, publishing and rolling back, beside plain FAISS (the floor) and autofaiss.

    python benchmarks/index_build.py [--rows 100000] [--dimension 768] [--big-rows 1000000] [--repeats 3] [--turns 9]

Every contestant reads the same float32 .npy files, in this run, in turns, each in a process of its own; medians. The
floor loads, adds and writes an IndexFlatIP. wbrag makes four shards, as many at once as there are cores, merges them,
writes the passages beside, hashes, checks and publishes. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from autofaiss_peer import autofaiss
from synthetic import apart, blocks, median, passages, peak_mib, queries, table, timed, write_embeddings

from wbrag.store.manifest import versions
from wbrag.store.passages import conform, write_passages
from wbrag.store.publish import publish, publish_segment
from wbrag.store.revise import rollback
from wbrag.store.search import KnowledgeBase
from wbrag.store.segment import PASSAGES, VECTORS, seal
from wbrag.store.storage import storage_of
from wbrag.store.template import train_template
from wbrag.store.vectors import merge_vectors, spec_of, write_vectors

SCRIPT = __file__
SHARDS = 4
UNITS = 5_000


def floor(folder: Path, out: Path) -> dict[str, float]:
    """Plain FAISS: load, add, write."""
    import faiss

    def work() -> None:
        index: Any = None
        for file in sorted(folder.glob("*.npy")):
            block = np.load(file)
            index = index or faiss.IndexFlatIP(block.shape[1])
            index.add(block)
        faiss.write_index(index, str(out / "floor.faiss"))

    return {"seconds": timed(work), "peak": peak_mib()}


def ours(folder: Path, out: Path) -> dict[str, float]:
    """wbrag: shards, merge, passages, segment, version."""
    import faiss  # noqa: F401 - its import is nobody's work

    files = sorted(folder.glob("*.npy"))
    dimension = np.load(files[0], mmap_mode="r").shape[1]
    spec, rows = spec_of("flat_fp16", dimension), sum(len(np.load(file, mmap_mode="r")) for file in files)
    table_of_passages = conform(passages(0, rows), "benchmark")

    def work() -> None:
        store = out / "store"
        with storage_of(store).scratch() as scratch:
            cuts = np.array_split(np.arange(len(files)), SHARDS)
            shards = [scratch / f"{number}.faiss" for number in range(SHARDS)]

            def shard(number: int) -> int:
                rounded = (np.load(files[i]).astype(np.float16) for i in cuts[number])
                return write_vectors(shards[number], rounded, spec)

            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as actors:  # wbrag.store.build has actors here
                list(actors.map(shard, range(SHARDS)))
            (scratch / "segment").mkdir()
            merge_vectors(scratch / "segment" / VECTORS, shards, spec)
            write_passages(scratch / "segment" / PASSAGES, [table_of_passages])
            publish_segment(store, seal(store, scratch / "segment", spec, "benchmark"), {})

    return {"seconds": timed(work), "peak": peak_mib()}


def merge(kind: str, shards: int, rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """Peak memory that merging so many shards adds to a process that has everything imported."""
    import faiss  # noqa: F401

    template = (folder / f"{kind}.template").read_bytes()
    spec = spec_of(kind, dimension, template, 256 if template else 0)
    parts = sorted((folder / f"{kind}-{shards}").glob("*.faiss"))
    before = peak_mib()
    seconds = timed(lambda: merge_vectors(folder / "merged", parts, spec, template))
    return {"seconds": seconds, "added": peak_mib() - before, "size": (folder / "merged").stat().st_size / 2**20}


def cut(kind: str, shards: int, rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """Write the shards that `merge` will join."""
    sample = next(blocks(rows, dimension)).astype(np.float16)
    template = train_template(sample, 256) if kind == "ivf_fp16" else b""
    (folder / f"{kind}.template").write_bytes(template)
    spec = spec_of(kind, dimension, template, 256 if template else 0)
    (folder / f"{kind}-{shards}").mkdir()
    vectors = np.concatenate([block.astype(np.float16) for block in blocks(rows, dimension)])
    for number, part in enumerate(np.array_split(vectors, shards)):
        write_vectors(folder / f"{kind}-{shards}" / f"{number:03d}.faiss", [part], spec, template)
    return {}


def big(rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """A base of so many rows: built, opened, searched."""
    base, spec = folder / f"base-{rows}", spec_of("flat_fp16", dimension)

    def build() -> None:
        with storage_of(base).scratch() as scratch:
            (scratch / "segment").mkdir()
            write_vectors(scratch / "segment" / VECTORS, (b.astype(np.float16) for b in blocks(rows, dimension)), spec)
            tables = (conform(passages(i, min(i + 65_536, rows)), "") for i in range(0, rows, 65_536))
            write_passages(scratch / "segment" / PASSAGES, tables)
            publish_segment(base, seal(base, scratch / "segment", spec, "benchmark"), {})

    found = {"build": timed(build), "open": timed(lambda: KnowledgeBase(base))}
    xq, knowledge = queries(64, dimension), KnowledgeBase(base)
    knowledge.search(xq, 5)  # maps are read
    return found | {"queries": len(xq) / timed(lambda: knowledge.search(xq, 5)), "peak": peak_mib()}


def publishing(small: int, large: int, dimension: int, turns: int, folder: Path) -> dict[str, float]:
    """Units published beside and into a small and a large base, in turns; ratios are medians over turns. Rollback."""
    os.sync()  # what the builds wrote is not flushed on a publish's time
    found: dict[str, list[float]] = {"beside": [], "into": [], "beside_ratio": [], "into_ratio": []}

    def took(turn: int, store: str) -> float:
        units = np.concatenate(list(blocks(UNITS, dimension, seed=turn + 1))).astype(np.float16)
        text = passages(turn * UNITS, (turn + 1) * UNITS, "wb-")
        return timed(lambda: publish(folder / store, units, text, "benchmark", {}))

    for turn in range(turns + 1):
        sizes = (small, large) if turn % 2 else (large, small)
        for name, store in (("beside", "writeback"), ("into", "base")):
            seconds = {rows: took(turn, f"{store}-{rows}") for rows in sizes}
            if turn:  # the first one warms up
                found[name].append(seconds[large])
                found[f"{name}_ratio"].append(seconds[large] / seconds[small])
    base = folder / f"base-{large}"
    newest = len(versions(base))
    back = [timed(lambda v=v: rollback(base, v, {})) for v in (1, newest) * 5]
    return {name: median(values) for name, values in (found | {"rollback": back}).items()}


def compare(args: argparse.Namespace, folder: Path) -> bool:
    """Contestants in turns."""
    write_embeddings(folder / "embeddings", args.rows, args.dimension)
    seconds: dict[str, list[float]] = {"floor": [], "ours": [], "autofaiss": [], "metrics": []}
    told = ""
    for turn in range(args.repeats):
        for name in ("floor", "ours"):
            out = folder / f"{name}-{turn}"
            out.mkdir()
            os.sync()  # what the last contestant left to the disk is not this one's work
            seconds[name].append(apart(SCRIPT, name, folder / "embeddings", out)["seconds"])
        peer = autofaiss(folder / "embeddings", folder)
        if isinstance(peer, str):
            told = peer
        else:
            seconds["autofaiss"].append(peer[0])
            seconds["metrics"].append(peer[1])
    plain, built = median(seconds["floor"]), median(seconds["ours"])
    rows: list[tuple[str, str, str, bool | None]] = [
        ("plain FAISS: load, add, write (fp32)", f"{plain:.2f} s", "", None),
        ("wbrag: shards, merge, hash, publish", f"{built:.2f} s", "", None),
        ("wbrag / plain FAISS", f"{built / plain:.2f}", "<= 2", built <= 2 * plain),
    ]
    if seconds["autofaiss"]:
        theirs, metrics = median(seconds["autofaiss"]), median(seconds["metrics"])
        rows.append(("autofaiss Flat: build_index", f"{theirs:.2f} s", "", None))
        rows.append(("wbrag / autofaiss", f"{built / theirs:.2f}", "<= 0.5", built <= theirs / 2))
        rows.append(("  its metrics, which it cannot leave out", f"{metrics:.2f} s", "", None))
        rows.append(("  wbrag / autofaiss less its metrics", f"{built / (theirs - metrics):.2f}", "", None))
    else:
        rows.append(("autofaiss", told, "", None))
    return table(f"build of {args.rows:,} x {args.dimension}, median of {args.repeats}", rows)


def memory(args: argparse.Namespace, folder: Path) -> bool:
    """Peak memory of merging by number of shards."""
    rows: list[tuple[str, str, str, bool | None]] = []
    for kind in ("flat_fp16", "ivf_fp16"):
        added = {}
        for shards in (4, 16, 64):
            words = (kind, shards, args.rows, args.dimension, folder)
            apart(SCRIPT, "cut", *words)
            found = apart(SCRIPT, "merge", *words)
            added[shards], size = found["added"], found["size"]
            value = (
                f"+{found['added']:.0f} MiB = {found['added'] / size:.2f} x {size:.0f} MiB, {found['seconds']:.1f} s"
            )
            rows.append((f"{kind}, {shards} shards", value, "<= 1.5 x", found["added"] <= 1.5 * size))
        spread = added[64] - added[4]
        rows.append((f"{kind}, 64 against 4 shards", f"{spread:+.0f} MiB", "<= 0.1 x", spread <= 0.1 * size))
    return table("peak memory that a merge adds", rows)


def scale(args: argparse.Namespace, folder: Path) -> bool:
    """What depends on the size of the base and what must not."""
    small, large = args.big_rows // 10, args.big_rows
    apart(SCRIPT, "big", small, 384, folder)
    base = apart(SCRIPT, "big", large, 384, folder)
    found = apart(SCRIPT, "publishing", small, large, 384, args.turns, folder)
    rows: list[tuple[str, str, str, bool | None]] = [
        (f"make and build {large:,} x 384, one process", f"{base['build']:.1f} s", "", None),
        ("open that version", f"{base['open'] * 1e3:.0f} ms", "< 100", base["open"] < 0.1),
        ("search it, k = 5, batch of 64", f"{base['queries']:.1f} queries/s", "", None),
        ("peak memory of all that, mapped files too", f"{base['peak']:.0f} MiB", "", None),
        (f"publish {UNITS:,} units beside it", f"{found['beside'] * 1e3:.0f} ms", "", None),
        (f"  against beside {small:,}", f"{found['beside_ratio']:.2f}", "<= 1.2", found["beside_ratio"] <= 1.2),
        (f"publish {UNITS:,} passages into it", f"{found['into'] * 1e3:.0f} ms", "", None),
        (f"  against into {small:,}", f"{found['into_ratio']:.2f}", "", None),
        ("roll it back", f"{found['rollback'] * 1e3:.0f} ms", "< 50", found["rollback"] < 0.05),
    ]
    return table(f"size of the base; publishing in turns, medians of {args.turns}", rows)


def main() -> int:
    """Run the parts and print their tables."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 100_000), ("dimension", 768), ("big-rows", 1_000_000), ("repeats", 3), ("turns", 9)):
        asked.add_argument(f"--{name}", type=int, default=value)
    asked.add_argument("--only", choices=["compare", "memory", "scale"])
    asked.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = asked.parse_args()
    if args.part:
        name, *words = args.part
        known = (floor, ours, merge, cut, big, publishing)
        parts: dict[str, Any] = {part.__name__: part for part in known}
        typed = [int(w) if w.isdigit() else Path(w) if "/" in w else w for w in words]
        print(json.dumps(parts[name](*typed)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [part for part in (compare, memory, scale) if args.only in (None, part.__name__)]
        held = [part(args, Path(folder)) for part in chosen]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
