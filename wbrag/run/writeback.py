"""The write-back store K_wb: what the kept examples of a run become, published as a store of its own beside the base.

Units are a second plan over the written traces, so that they are made again without asking about an example again:

    kept traces -> requests (by question or by subject) -> units -> kept where they help -> units.parquet -> store
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag.config import TrainConfig, one_unit_an_example
from wbrag.metrics import score
from wbrag.retrieval.encoder import nearest_sentences
from wbrag.retrieval.encoding import Encoders, on_encoder
from wbrag.run.actors import Generators, Stage
from wbrag.run.failures import check_errors
from wbrag.run.folder import UNITS, read_fields, write_rows
from wbrag.run.job import Job, complete, generate
from wbrag.run.retrieve import MERGED, READ_ROWS, MergedDocuments, knowledge_of, lent_search, retrieve_all
from wbrag.run.review import decisions_of, what_is_said
from wbrag.schema import LEFT, REQUEST, UNIT, WRITTEN, Document, documents_of
from wbrag.store.build import follow_passages
from wbrag.store.changes import copy_store
from wbrag.store.versions import current, latest, named, reading
from wbrag.units.decisions import decided
from wbrag.units.requests import TRACE_COLUMNS, by_question, by_subject
from wbrag.units.validate import Reading, balances

Row = dict[str, Any]

#: The answers that a training example's trace knows, as `schema.KNOWN` calls them.
ANSWERS = {"closed_book_answer": "answer_closed_book", "rag_answer": "answer_base"}
#: What is read of a question that was answered with other questions' units.
READ = [
    *("id", "golden_answers", "answer_base", "answer_writeback", "error", "documents_base.score"),
    *(f"documents_writeback.{name}" for name in ("id", "source", "score")),
]


def write_back(job: Job, traces: Path, questions: Path, base: Path, generators: Generators) -> Path:
    """K_wb: the units of all kept examples of `traces`, each once, published as the store `writeback/` (absent without
    units); beside it `units.parquet` (schema.UNIT) and `left_out.parquet` (schema.LEFT).

    The units come in order of their id, so that however the examples were scheduled, the store has the same bytes. A
    published store is left alone: what was deleted from it since must not come back.
    """
    store, file = job.run / "writeback", made_units(job, traces, questions, base, generators)
    if pq.read_metadata(file).num_rows and latest(store) is None:
        publish_units(file, store, job.cfg, {"run": job.record.hash}, base, generators.encoders)
    return store


def made_units(job: Job, traces: Path, questions: Path, base: Path, generators: Generators) -> Path:
    """The file of the units that are to be published, and beside it that of what was left out."""
    file = job.run / UNITS
    if not file.exists():
        units, left_out = written_units(job, traces, base, generators)
        if job.cfg.units.validate and units:
            units, harmful = validated(job, units, traces, questions, base, generators)
            left_out += harmful
        decisions = decisions_of(job.run / "writeback")
        if decisions:
            units, refused = decided(units, decisions, what_is_said(base, decisions))
            left_out += refused
        _write(job.run / "left_out.parquet", left_out, LEFT)
        _write(file, units, UNIT)
    return file


def written_units(job: Job, traces: Path, base: Path, generators: Generators) -> tuple[list[Row], list[Row]]:
    """The units of a run's kept examples in order of their id (schema.UNIT), and what was left out of them (LEFT)."""
    cfg = job.cfg
    if one_unit_an_example(cfg.units) and _distilled(traces):
        return units_of(traces), []
    source = job.run / "requests.parquet"
    if not source.exists():
        rows = pq.read_table(traces, columns=list(TRACE_COLUMNS), filters=pc.field("status") == "kept")
        kept = sorted(rows.to_pylist(), key=lambda row: str(row["id"]))
        _write(source, requests(cfg, kept, base, generators.encoders), REQUEST)
    goal = pq.read_metadata(source).num_rows
    if goal and not complete(job, "written", goal):
        generate(job, generators, Stage(cfg, "write"), source, "written", goal)
    check_errors(job, "written")
    rows = pq.read_table(job.run / "written", schema=WRITTEN).to_pylist() if goal else []
    rows.sort(key=lambda row: str(row["id"]))  # files are named at random
    left_out = [{"request": row["id"], **one} for row in rows for one in row["left_out"] or []]
    nothing = [row for row in rows if row["status"] == "failed" or not (row["units"] or row["left_out"])]
    left_out += [{"request": row["id"], "text": "", "kind": row["status"], "reason": row["reason"]} for row in nothing]
    return distinct([unit for row in rows for unit in row["units"] or []]), left_out


def requests(cfg: TrainConfig, kept: Sequence[Row], base: Path, encoders: Encoders | None) -> list[Row]:
    """The requests for the units of kept examples (`wbrag.units.requests`), searched and chosen on encoder actors."""

    def search(names: Sequence[str]) -> list[list[Document]]:
        found = retrieve_all(replace(cfg, k=cfg.units.search), names, base, encoders)
        return [documents_of(rows) for rows in found.rows(names, ["documents"])["documents"].to_pylist()]

    def nearest(questions: Sequence[str], there: Sequence[Sequence[str]]) -> list[list[int]]:
        count = cfg.units.sentences if cfg.units.scope == "question" else 1
        return on_encoder(cfg.encoder, cfg.cluster, encoders, nearest_sentences, questions, there, count)

    if cfg.units.scope == "subject":
        return by_subject(kept, cfg.units, search, nearest)
    return by_question(kept, cfg.units, nearest)


def validated(
    job: Job, units: list[Row], traces: Path, questions: Path, base: Path, generators: Generators
) -> tuple[list[Row], list[Row]]:
    """The units that do not take more than they give (`wbrag.units.validate`), and those that do, with their numbers.

    Training questions that would read units other than their own are answered with them, one call each; without them
    they were answered when they were trained on. Those whose answer with documents nobody needed are not asked.
    """
    candidates, file = job.run / "candidates", job.run / "candidates.parquet"
    _write(file, units, UNIT)
    if latest(candidates) is None and job.before and (job.before / "candidates").is_dir():
        copy_store(job.before / "candidates", candidates)  # units that are as they were are not encoded again
    publish_units(file, candidates, job.cfg, {"run": job.record.hash}, base, generators.encoders)
    source, known = job.run / "readers.parquet", job.run / "readers_known.parquet"
    if not source.exists():
        answers = pq.read_table(traces, columns=["id", *ANSWERS], filters=pc.field("rag_answer").is_valid())
        answers = answers.rename_columns(["id", *ANSWERS.values()])
        write_rows(known, answers.schema, [answers])
        rows = readers(job.cfg, units, questions / "train.parquet", answers["id"], (base, candidates))
        write_rows(source, MERGED, rows)
    goal = pq.read_metadata(source).num_rows
    if goal and not complete(job, "readings", goal):
        with lent_search(job.cfg, base, encoders=generators.encoders) as found:
            generate(job, generators, Stage(job.cfg, "validate", None, known, found), source, "readings", goal)
    check_errors(job, "readings")
    answered = sorted(read_fields(job.run / "readings", READ), key=lambda row: str(row["id"]))
    told = balances(units, [_reading(row, job.cfg) for row in answered])
    judged = [(unit, told[unit["id"]]) for unit in units]
    harmful = [
        {
            "request": ", ".join(unit["example_ids"]) or unit["subject"],
            "text": f"{unit['title']}\n{unit['text']}",
            "kind": "harmful",
            "reason": f"{found.reason}; read by {found.readings}"
            + (f", changed {', '.join(found.questions)}" if found.questions else ""),
        }
        for unit, found in judged
        if found.reason
    ]
    return [unit for unit, found in judged if not found.reason], harmful


def readers(
    cfg: TrainConfig, units: Sequence[Row], source: Path, answered: pa.ChunkedArray, stores: tuple[Path, Path]
) -> Iterator[pa.Table]:
    """The training questions, of those `answered` with documents, that read a unit which they did not make: rows of
    MERGED, batch by batch.
    """
    own: dict[str, set[str]] = defaultdict(set)
    for unit in units:
        for example in unit["example_ids"]:
            own[example].add(unit["id"])
    ids = answered.combine_chunks()
    with reading(*stores) as versions:
        retriever = MergedDocuments(knowledge_of(cfg, *stores, versions))
        for batch in pq.ParquetFile(source).iter_batches(READ_ROWS):
            rows = pa.Table.from_batches([batch]).filter(pc.is_in(batch["id"], ids))
            if not rows.num_rows:
                continue
            found = retriever(rows, [frozenset(own[key]) for key in rows["id"].to_pylist()])
            read = found["documents_writeback"].to_pylist()
            yield found.filter(pa.array([any(d["source"] == "writeback" for d in some) for some in read], pa.bool_()))


def _reading(row: Row, cfg: TrainConfig) -> Reading:
    def scored(answer: str | None) -> float:
        golden, how = row["golden_answers"], cfg.benchmark
        return 0.0 if answer is None else score(how.metric, answer, golden, how.labels)

    best = max((d["score"] for d in row["documents_base"]), default=0.0)
    units = {d["id"]: d["score"] - best for d in row["documents_writeback"] if d["source"] == "writeback"}
    before = scored(row["answer_base"])
    return Reading(row["id"], before, before if row["error"] else scored(row["answer_writeback"]), units)


def publish_units(
    units: Path, store: Path, cfg: TrainConfig, note: Mapping[str, Any], base: Path, encoders: Encoders | None = None
) -> None:
    """Bring a store of units to those of a Parquet file (`schema.UNIT`) and to the current version of `base`. It is
    searched exactly, whatever kind of index the base is: thousands of units need no lists.
    """
    index, note = replace(cfg.index, kind="flat_fp16"), {**note, "merge": asdict(cfg.merge)}
    follow_passages(units, store, cfg.encoder, index, cfg.cluster, note, encoders, named(current(base)))


def units_of(traces: Path) -> list[Row]:
    """The knowledge units that Algorithm 1 wrote into a folder of traces (schema.UNIT), in order of unit id."""
    columns = ["id", "status", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"]
    rows = read_fields(traces, [*columns, "documents.id", "kept_ranks"], pc.field("status") == "kept")
    return distinct([unit_of(row) for row in rows])


def unit_of(trace: Mapping[str, Any]) -> Row:
    """The unit that Algorithm 1 wrote of a kept example (a row of `schema.UNIT`)."""
    return {
        **{"id": trace["unit_id"], "title": trace["unit_title"], "text": trace["unit_text"]},
        "example_ids": [trace["id"]],
        "source_ids": [trace["documents"][rank - 1]["id"] for rank in trace["kept_ranks"]],
        **{"source_tokens": trace["source_tokens"], "unit_tokens": trace["unit_tokens"]},
        **{"subject": "", "form": "distilled", "doubt": ""},
    }


def _distilled(traces: Path) -> bool:
    """Whether Algorithm 1 wrote the units of all kept examples; a run that makes others leaves that out."""
    kept = pq.read_table(traces, columns=["unit_id"], filters=pc.field("status") == "kept")
    return bool(kept["unit_id"].null_count == 0)


def distinct(units: Sequence[Row]) -> list[Row]:
    """The units in order of their id, each once with the examples of all that are the same."""
    found: dict[str, Row] = {}
    for unit in sorted(units, key=lambda unit: (unit["id"], unit["example_ids"])):
        same = found.setdefault(unit["id"], {**unit, "example_ids": []})
        same["example_ids"] += [example for example in unit["example_ids"] if example not in same["example_ids"]]
    return list(found.values())


def _write(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    write_rows(path, schema, [pa.Table.from_pylist(list(rows), schema)])
