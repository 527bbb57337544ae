"""A synthetic run folder: what the pipeline leaves, for the tests of its readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbrag import schema

CONFIG = """\
benchmark: {name: toy_nq, train: train.jsonl, test: test.jsonl, task: factoid, metric: acc, labels: {}}
method: {name: naive}
backbone: {name: micro_small, model: models/micro_small}
encoder: {name: minilm}
gates: {tau_s: 0.1, tau_delta: 0.01, tau_doc: 0.01, n_min: 2}
run_dir: runs/toy
k: 3
seed: 7
"""
RUN = {
    "command": "python jobs/train.py benchmark=toy_nq backbone=micro_small run_dir=runs/toy",
    "versions": {"python": "3.11.9", "ray": "2.60.0", "vllm": "0.32.0", "wbrag": "0.1.0"},
    "seconds": {"retrieve": 3.25, "train": 61.5, "index": 2.0, "evaluate": 40.0},
    "tokens_per_second": 812.5,
    "identity": {"corpus": "03d54f258644dce5"},
}
Row = dict[str, Any]


def document(key: str, title: str, text: str, score: float = 0.8, source: str = "base") -> Row:
    """A row of a DOCUMENT list column."""
    return {"id": key, "title": title, "text": text, "score": score, "source": source}


PASSAGES = [
    document("p-0412", "Almira Trevane", "Almira Trevane was a glass painter. She kept a shop by the river.", 0.812),
    document("p-0077", "Harbour towns of the north", "Tarnholm, where Almira Trevane was born, lies inland.", 0.774),
    document("p-1290", "Almiro Trevani", "Almiro Trevani was born in Port Elden.", 0.769),
]
UNIT = document(
    "wb-00c0ffee00c0ffee",
    "Almira Trevane",
    "Almira Trevane was a glass painter who was born in Tarnholm, an inland town of the north.",
    0.873,
    "writeback",
)


def kept(**changes: object) -> Row:
    """A trace row of an example that became a unit."""
    row = dict.fromkeys(schema.TRACE.names) | {
        "id": "train-17",
        "question": "In which town was Almira Trevane born?",
        "golden_answers": ["Tarnholm"],
        "metadata": "{}",
        "documents": PASSAGES,
        "status": "kept",
        "reason": "passed: delta 1.00 > tau_delta 0.01 and s_rag 1.00 > tau_s 0.1 (s_nr 0.00, s_rag 1.00); "
        "1 of 3 documents gains more than tau_doc 0.01: rank 2 (gains 0.00, 1.00, 0.00)",
        "closed_book_answer": "Port Elden",
        "s_nr": 0.0,
        "rag_answer": "Tarnholm",
        "s_rag": 1.0,
        "delta": 1.0,
        "document_answers": ["Almira Trevane", "Tarnholm", "Port Elden"],
        "document_scores": [0.0, 1.0, 0.0],
        "kept_ranks": [2],
        "fallback": False,
        "evidence": "Tarnholm, where Almira Trevane was born, lies inland.\nAlmira Trevane was a glass painter.",
        "unit_id": UNIT["id"],
        "unit_title": UNIT["title"],
        "unit_text": UNIT["text"],
        "source_tokens": 58,
        "unit_tokens": 26,
        "calls": 7,
        "calls_saved": 0,
        "prompt_tokens": 1210,
        "completion_tokens": 84,
        "dropped_documents": 0,
        "retrievals": 0,
        "seconds": 0.84,
    }
    return row | changes


def gated(**changes: object) -> Row:
    """A trace row that the utility gate closed without the with-documents call: the model knew the answer."""
    told = "gated: delta 0.00 <= tau_delta 0.01 (s_nr 1.00, s_rag 1.00 at best, not asked)"
    nothing = dict.fromkeys(
        [
            *("rag_answer", "s_rag", "delta", "document_answers", "document_scores", "kept_ranks", "fallback"),
            *("evidence", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"),
        ]
    )
    known = {"id": "train-18", "question": "Which river flows through Port Elden?", "golden_answers": ["the Osk"]}
    answered = {"closed_book_answer": "the Osk", "s_nr": 1.0, "status": "gated", "reason": told}
    spent = {"calls": 1, "calls_saved": 1, "prompt_tokens": 41, "completion_tokens": 4, "seconds": 0.07}
    return kept(**nothing) | known | answered | spent | changes


def failed(**changes: object) -> Row:
    """A trace row of an example whose distillation went wrong."""
    lost = dict.fromkeys(("unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"))
    told = "UnusableReply: rewrite reply repetition: it says the same again and again; it begins 'a a a a'"
    return kept(**lost) | {"id": "train-19", "status": "failed", "reason": told} | changes


def prediction(**changes: object) -> Row:
    """A prediction row of a test question that the unit fixed."""
    return {
        "id": "test-4",
        "question": "What is the birthplace of the glass painter Almira Trevane?",
        "golden_answers": ["Tarnholm"],
        "metadata": json.dumps({"overlap": "answer"}),
        "documents_base": PASSAGES,
        "documents_writeback": [UNIT, *PASSAGES[:2]],
        "answer_closed_book": "Port Elden",
        "answer_base": "Port Elden",
        "answer_writeback": "Tarnholm",
        "context_tokens_base": 64,
        "context_tokens_writeback": 70,
        "retrievals_base": 0,
        "retrievals_writeback": 0,
        "calls": 3,
        "prompt_tokens": 310,
        "completion_tokens": 12,
        "error": None,
    } | changes


def population(examples: int, questions: int, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Traces and predictions in bulk, with rates like those of a small real run."""
    generator = np.random.default_rng(seed)
    traces = [kept(), *(_random_trace(i, generator) for i in range(1, examples))]
    return traces, [_random_prediction(i, generator) for i in range(questions)]


def _random_trace(i: int, generator: np.random.Generator) -> Row:
    fate = generator.random()
    if fate < 0.35:
        return gated(id=f"train-{i}")
    if fate < 0.72:
        told = "gated: delta 0.00 <= tau_delta 0.01 (s_nr 0.00, s_rag 0.00)"
        return gated(id=f"train-{i}", rag_answer="Elm", s_rag=0.0, delta=0.0, reason=told, calls=2, calls_saved=0)
    if fate < 0.74:
        return failed(id=f"train-{i}")
    ranks = [rank for rank in range(1, 6) if generator.random() < 0.9 / rank] or [1, 2]
    source = int(generator.integers(40, 110)) * len(ranks)
    return kept(
        id=f"train-{i}",
        kept_ranks=ranks,
        fallback=bool(generator.random() < 0.1),
        unit_id=f"wb-{i:016x}",
        source_tokens=source,
        unit_tokens=int(30 + 0.15 * source + generator.normal(0, 8)),
    )


def _random_prediction(i: int, generator: np.random.Generator) -> Row:
    overlap = str(generator.choice(["none", "answer", "question"], p=[0.5, 0.3, 0.2]))
    base = generator.random() < 0.55
    exposed = generator.random() < 0.6
    lift = {"none": 0.2, "answer": 0.3, "question": 0.6}[overlap]
    writeback = (generator.random() < lift or base) and generator.random() > 0.03 if exposed else base
    return prediction(
        id=f"test-{i}",
        metadata=json.dumps({"overlap": overlap}),
        documents_base=[PASSAGES[0] | {"id": f"p-{i // 2:04d}"}, *PASSAGES[1:]],  # two questions a topic
        documents_writeback=[UNIT, *PASSAGES[:2]] if exposed else PASSAGES,
        answer_closed_book="Tarnholm" if generator.random() < 0.15 else "Elm Port",
        answer_base="Tarnholm" if base else "Port Elden",
        answer_writeback="Tarnholm" if writeback else "Port Elden",
    )


def write_run(folder: Path, traces: Sequence[Row], predictions: Sequence[Row], config: str = CONFIG) -> Path:
    """A run folder with these rows, each table in two files as parallel writers leave them; returns the folder."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "run.json").write_text(json.dumps(RUN))
    rejected = {"file": "train.jsonl", "line": 3, "reason": "question is empty", "raw": '{"id": "x", "question": ""}'}
    (folder / "quarantine.jsonl").write_text(json.dumps(rejected) + "\n")
    write_table(folder / "traces", traces, schema.TRACE)
    write_table(folder / "predictions", predictions, schema.PREDICTION)
    pq.write_table(pa.Table.from_pylist(units_of(traces), schema.UNIT), folder / "units.parquet")
    return folder


def units_of(traces: Sequence[Row]) -> list[Row]:
    """The units of the kept examples (rows of `schema.UNIT`), each once, with the examples behind it."""
    units: dict[str, Row] = {}
    for row in traces:
        if row["unit_id"]:
            unit = {"id": row["unit_id"], "title": row["unit_title"], "text": row["unit_text"], "example_ids": []}
            told = {key: row[key] for key in ("source_tokens", "unit_tokens")}
            told |= {"subject": "", "form": "distilled", "doubt": ""}
            sources = [document["id"] for i, document in enumerate(row["documents"], 1) if i in row["kept_ranks"]]
            units.setdefault(row["unit_id"], {**unit, **told, "source_ids": sources})["example_ids"].append(row["id"])
    return list(units.values())


def write_table(folder: Path, rows: Sequence[Row], table: pa.Schema) -> None:
    """The rows as `folder/part-0.parquet` (every second row) and `folder/part-1.parquet` (the others)."""
    folder.mkdir()
    for part in range(2):
        file = folder / f"part-{part}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows[part::2]), schema=table), file)
