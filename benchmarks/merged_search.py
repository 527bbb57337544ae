"""Merged search: base and write-back as two stores, beside one index over all their rows.

    python benchmarks/merged_search.py [--rows 200000] [--dimension 384] [--queries 256] [--repeats 7]

Rounds in turns, medians; ids are compared with plain FAISS's, up to equal scores. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from synthetic import blocks, median, passages, published, queries, table, timed

from wbrag.config import Merge
from wbrag.store.changes import delete
from wbrag.store.place import place_of
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import spec_of, template_name, train_template

K = 10
NLIST = 512


def stores(folder: Path, vectors: np.ndarray, cut: int) -> dict[str, KnowledgeBase]:
    """The same rows as one fragment, as base and write-back, as 16 fragments, with deletions, as an IVF base."""
    rows, spec = len(vectors), spec_of("flat_fp16", vectors.shape[1])
    published(folder / "one", vectors, passages(0, rows), spec)
    published(folder / "base", vectors[:cut], passages(0, cut), spec)
    published(folder / "units", vectors[cut:], passages(cut, rows), spec)
    for part in np.array_split(np.arange(rows), 16):
        published(folder / "many", vectors[part], passages(int(part[0]), int(part[-1]) + 1), spec)
    made = {"one": KnowledgeBase(folder / "one"), "two": KnowledgeBase(folder / "base", folder / "units")}
    made["many"] = KnowledgeBase(folder / "many")
    made["beside"] = KnowledgeBase(folder / "base", folder / "units", merge=Merge("beside", margin=0.05))
    dead = np.random.default_rng(3).choice(rows, rows // 20, replace=False)
    delete(folder / "one", [f"p{row}" for row in dead], {})
    made["deleted"] = KnowledgeBase(folder / "one")
    template = train_template(vectors[: NLIST * 64], NLIST)
    lists = spec_of("ivf_fp16", vectors.shape[1], template, NLIST)
    place_of(folder / "ivf").create(template_name(lists), template)
    published(folder / "ivf", vectors, passages(0, rows), lists)
    made["ivf"] = KnowledgeBase(folder / "ivf", nprobe=16)
    return made


def faiss_index(vectors: np.ndarray) -> Any:  # noqa: ANN401 - SWIG
    """The floor: one fp16 index in memory."""
    import faiss

    index: Any = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors.astype(np.float32))
    return index


def agreement(found: list[list[Any]], D: np.ndarray, rows: np.ndarray) -> float:
    """Share of queries whose ids are FAISS's own, up to the order of scores that differ by less than 1e-6."""
    same = 0
    for documents, scores, expected in zip(found, D, rows, strict=True):
        ids = {f"p{row}" for row, score in zip(expected, scores, strict=True) if score > scores[-1] + 1e-6}
        same += ids <= {document.id for document in documents} and bool(
            np.allclose([document.score for document in documents], scores, atol=1e-6)
        )
    return same / len(found)


def main() -> int:
    """Measure, print, judge."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=200_000)
    asked.add_argument("--dimension", type=int, default=384)
    asked.add_argument("--queries", type=int, default=256)
    asked.add_argument("--repeats", type=int, default=7)
    args = asked.parse_args()
    vectors = np.concatenate([block.astype(np.float16) for block in blocks(args.rows, args.dimension)])
    xq = queries(args.queries, args.dimension)
    with tempfile.TemporaryDirectory() as folder:
        made = stores(Path(folder), vectors, args.rows - args.rows // 20)
        plain = faiss_index(vectors)
        some = pc.field("id") > "p5"  # about half of the ids
        work: dict[str, Any] = {name: (lambda kb=kb: kb.search(xq, K)) for name, kb in made.items()}
        work["faiss"] = lambda: plain.search(xq, K)
        work["filter"] = lambda: made["one"].search(xq, K, where=some)
        for one in work.values():
            one()  # maps are read, filters computed
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(args.repeats):
            for name, one in work.items():
                seconds[name].append(timed(one))
        D, rows = plain.search(xq, K)
        equal = {name: agreement(made[name].search(xq, K), D, rows) for name in ("one", "two", "many")}
        truth = [{f"p{row}" for row in row_list} for row_list in rows]
        hits = [len(t & {d.id for d in ds}) / K for t, ds in zip(truth, made["ivf"].search(xq, K), strict=True)]

    def against(name: str, other: str) -> float:
        """Rate of `name` in units of that of `other`: the median over rounds of their ratio."""
        return median([b / a for a, b in zip(seconds[name], seconds[other], strict=True)])

    rate = {name: args.queries / median(times) for name, times in seconds.items()}
    shown: list[tuple[str, str, str, bool | None]] = [
        ("plain FAISS, one fp16 index, no passages", f"{rate['faiss']:.0f} queries/s", "", None),
        ("one fragment, with passages", f"{rate['one']:.0f} queries/s", "", None),
        ("  against plain FAISS", f"{against('one', 'faiss'):.2f}", "", None),
    ]
    for name, what, bar in (
        ("two", "base + write-back (5 %)", 0.9),
        ("many", "16 fragments", 0.75),
        ("deleted", "one fragment, 5 % deleted", 0.9),
        ("beside", "base + write-back, units beside", None),
        ("filter", "one fragment, a filter that half pass", None),
        ("ivf", f"IVF {NLIST}, 16 probed", None),
    ):
        ratio = against(name, "one")
        held = None if bar is None else ratio >= bar
        shown.append((f"{what}, against one fragment", f"{ratio:.2f}", f">= {bar}" if bar else "", held))
    for name in ("one", "two", "many"):
        shown.append((f"{name}: queries with FAISS's ids", f"{equal[name]:.1%}", "100 %", equal[name] == 1))
    shown.append(("IVF: recall@10", f"{np.mean(hits):.4f}", "", None))
    return 0 if table(f"{args.rows:,} x {args.dimension}, k = {K}, {args.queries} queries", shown) else 1


if __name__ == "__main__":
    sys.exit(main())
