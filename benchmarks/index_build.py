"""Building, publishing, changing and rolling back, beside plain FAISS (the floor) and autofaiss.

    python benchmarks/index_build.py [--rows 100000] [--dimension 768] [--big-rows 1000000] [--repeats 3] [--turns 9]
        [--only compare|memory|scale]

Every contestant reads the same float32 .npy files, in this run, in turns, each in a process of its own; medians. The
floor loads, adds and writes an IndexFlatIP. wbrag makes four fragments, as many at once as there are cores: rows and
vectors in Lance, an index each, all hashed and published as one version. The bases of `scale` have 384
dimensions. Exit code 1 when a bar is missed.
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
from synthetic import (
    apart,
    blocks,
    median,
    passages,
    peak_mib,
    piece,
    published,
    queries,
    table,
    timed,
    write_embeddings,
)

from wbrag.store.changes import publish
from wbrag.store.place import place_of
from wbrag.store.rows import opened
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import spec_of
from wbrag.store.versions import current, numbers, rollback

SCRIPT = __file__
FRAGMENTS = 4
UNITS = 5_000
#: Random rows that are looked up at once: 256 questions of five documents.
LOOKED_UP = 1_280


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
    """wbrag: fragments side by side, hashed, one version."""
    import faiss  # noqa: F401 - its import is nobody's work
    import lance  # noqa: F401

    files = sorted(folder.glob("*.npy"))
    counts = [len(np.load(file, mmap_mode="r")) for file in files]
    ends, dimension = np.cumsum([0, *counts]), np.load(files[0], mmap_mode="r").shape[1]
    texts, spec = passages(0, int(ends[-1])), spec_of("flat_fp16", dimension)

    def work() -> None:
        place = place_of(out / "store")

        def fragment(cut: np.ndarray) -> Any:  # noqa: ANN401
            vectors = np.concatenate([np.load(files[i]).astype(np.float16) for i in cut])
            return piece(place, vectors, texts.slice(int(ends[cut[0]]), len(vectors)), spec)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as actors:  # wbrag.store.build has tasks here
            pieces = list(actors.map(fragment, np.array_split(np.arange(len(files)), FRAGMENTS)))
        publish(place, pieces, spec, "benchmark", {})

    return {"seconds": timed(work), "peak": peak_mib()}


def fragments(count: int, rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """Peak memory that a build of so many fragments, one after the other, adds to a process with all imported."""
    import faiss  # noqa: F401
    import lance  # noqa: F401

    spec, place = spec_of("flat_fp16", dimension), place_of(folder / f"fragments-{count}")
    before, size = peak_mib(), rows // count

    def work() -> None:
        made = []
        for number in range(count):
            vectors = np.concatenate([block.astype(np.float16) for block in blocks(size, dimension, number)])
            made.append(piece(place, vectors, passages(number * size, (number + 1) * size), spec))
        publish(place, made, spec, "benchmark", {})

    seconds = timed(work)
    return {"seconds": seconds, "added": peak_mib() - before, "size": 2 * size * dimension / 2**20}


def big(rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """A base of so many rows: built, opened, searched, looked into."""
    base, spec = folder / f"base-{rows}", spec_of("flat_fp16", dimension)
    place, size = place_of(base), 262_144

    def build() -> None:
        made = []
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            vectors = np.concatenate([block.astype(np.float16) for block in blocks(stop - start, dimension, start)])
            made.append(piece(place, vectors, passages(start, stop), spec))
        publish(place, made, spec, "benchmark", {})

    found = {"build": timed(build), "open": timed(lambda: KnowledgeBase(base).close())}
    xq, knowledge = queries(64, dimension), KnowledgeBase(base)
    knowledge.search(xq, 5)  # maps are read
    data, counts = opened(place, current(place)), np.full(-(-rows // size), size)
    counts[-1] = rows - size * (len(counts) - 1)
    generator = np.random.default_rng(1)

    def look() -> None:
        number = generator.integers(0, len(counts), LOOKED_UP)
        addresses = (number.astype(np.int64) << 32) | (generator.random(LOOKED_UP) * counts[number]).astype(np.int64)
        data._take_rows(addresses.tolist(), columns=["id", "title", "text"])

    look()
    found["rows"] = median([timed(look) for _ in range(9)])
    return found | {"queries": len(xq) / timed(lambda: knowledge.search(xq, 5)), "peak": peak_mib()}


def changing(rows: int, dimension: int, folder: Path) -> dict[str, float]:
    """One passage of a base encoded again (its vector drawn), published in place of the old one, and found."""
    place, spec = place_of(folder / f"base-{rows}"), spec_of("flat_fp16", dimension)

    def change(turn: int) -> float:
        vector = next(blocks(1, dimension, 1000 + turn)).astype(np.float16)
        text = passages(turn, turn + 1)

        def work() -> None:
            publish(place, [piece(place, vector, text, spec)], spec, "benchmark", {}, upsert=True)
            with KnowledgeBase(place) as knowledge:
                assert knowledge.search(vector.astype(np.float32), 1)[0][0].id == f"p{turn}"

        return timed(work)

    change(0)
    return {"change": median([change(turn) for turn in range(1, 6)])}


def publishing(small: int, large: int, dimension: int, turns: int, folder: Path) -> dict[str, float]:
    """Units published beside and into a small and a large base, in turns; ratios are medians over turns. Rollback."""
    os.sync()  # what the builds wrote is not flushed on a publish's time
    found: dict[str, list[float]] = {"beside": [], "into": [], "beside_ratio": [], "into_ratio": []}
    spec = spec_of("flat_fp16", dimension)

    def took(turn: int, store: str) -> float:
        units = np.concatenate(list(blocks(UNITS, dimension, seed=turn + 1))).astype(np.float16)
        text = passages(turn * UNITS, (turn + 1) * UNITS, "wb-")
        return timed(lambda: published(folder / store, units, text, spec))

    for turn in range(turns + 1):
        sizes = (small, large) if turn % 2 else (large, small)
        for name, store in (("beside", "writeback"), ("into", "base")):
            seconds = {rows: took(turn, f"{store}-{rows}") for rows in sizes}
            if turn:  # the first one warms up
                found[name].append(seconds[large])
                found[f"{name}_ratio"].append(seconds[large] / seconds[small])
    base = place_of(folder / f"base-{large}")
    newest = len(numbers(base))
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
        ("wbrag: fragments, hash, publish", f"{built:.2f} s", "", None),
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
    """Peak memory of a build by number of fragments."""
    rows: list[tuple[str, str, str, bool | None]] = []
    added = {}
    for count in (4, 16, 64):
        found = apart(SCRIPT, "fragments", count, args.rows, args.dimension, folder)
        added[count] = found["added"]
        value = f"+{found['added']:.0f} MiB, a fragment's vectors {found['size']:.0f} MiB, {found['seconds']:.1f} s"
        rows.append((f"{count} fragments", value, "", None))
    rows.append(("64 against 4 fragments", f"{added[64] / added[4]:.2f}", "<= 1", added[64] <= added[4]))
    return table(f"peak memory that a build of {args.rows:,} x {args.dimension} adds", rows)


def scale(args: argparse.Namespace, folder: Path) -> bool:
    """What depends on the size of the base and what must not."""
    small, large = args.big_rows // 10, args.big_rows
    apart(SCRIPT, "big", small, 384, folder)
    base = apart(SCRIPT, "big", large, 384, folder)
    changed = apart(SCRIPT, "changing", large, 384, folder)["change"]
    found = apart(SCRIPT, "publishing", small, large, 384, args.turns, folder)
    rows: list[tuple[str, str, str, bool | None]] = [
        (f"make and build {large:,} x 384, one process", f"{base['build']:.1f} s", "", None),
        ("open that version", f"{base['open'] * 1e3:.0f} ms", "< 100", base["open"] < 0.1),
        ("search it, k = 5, batch of 64", f"{base['queries']:.1f} queries/s", "", None),
        (f"look up {LOOKED_UP:,} random rows of it", f"{base['rows'] * 1e3:.0f} ms", "<= 50", base["rows"] <= 0.05),
        ("peak memory of all that, mapped files too", f"{base['peak']:.0f} MiB", "", None),
        ("one passage of it changed, published, found", f"{changed:.2f} s", "<= 2", changed <= 2),
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
        known = (floor, ours, fragments, big, changing, publishing)
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
