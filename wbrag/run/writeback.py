"""The write-back store K_wb: what the kept examples of a run become, published as a store of its own beside the base.

Units are a second plan over the written traces, so that they are made again without asking about an example again:

    kept traces -> requests (by question or by subject) -> units -> kept where they help -> units.parquet -> store

What is made goes from file to file some thousand rows at a time, and lies in Arrow files where it has to come into
another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from wbrag.config import TrainConfig, fingerprint, one_unit_an_example
from wbrag.metrics import score
from wbrag.retrieval.encoder import nearest_sentences
from wbrag.retrieval.encoding import Encoders
from wbrag.run.actors import Generators, Stage
from wbrag.run.checks import checked_units, harmless_examples, harmless_search
from wbrag.run.decided import decisions_of, what_is_said
from wbrag.run.failures import check_errors
from wbrag.run.folder import LEFT_OUT, UNITS, read_fields, read_rows, read_tables, tables_of, write_rows
from wbrag.run.job import Job, complete, generate
from wbrag.run.lookup import BATCH_ROWS, Keyed, Rows
from wbrag.run.retrieve import MERGED, READ_ROWS, Knowledge, MergedDocuments, lent_search, retrieve_all
from wbrag.schema import LEFT, REQUEST, SEEN_BY, TRACE, UNIT, WRITTEN, Document, documents_of, left_row
from wbrag.store.build import build_store
from wbrag.store.changes import copy_store
from wbrag.store.files import scratch_folder
from wbrag.store.rows import has_labels, labels_of
from wbrag.store.versions import current, latest, named, reading
from wbrag.units.access import seen_by_nobody
from wbrag.units.decisions import decided
from wbrag.units.requests import TRACE_COLUMNS, by_question, by_subject
from wbrag.units.sift import distinct
from wbrag.units.validate import Reading, balances

Row = dict[str, Any]

#: The units before any is judged by its readings.
CANDIDATES = "candidates.parquet"
#: The answers that a training example's trace knows, as `schema.KNOWN` calls them.
ANSWERS = {"closed_book_answer": "answer_closed_book", "rag_answer": "answer_base"}
#: What is read of a question that was answered with other questions' units.
READ = [
    *("id", "golden_answers", "answer_base", "answer_writeback", "error", "documents_base.score"),
    *(f"documents_writeback.{name}" for name in ("id", "source", "score")),
]
#: A `Reading` as a row, with its question as the id.
READING = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.float64()) for name in ("before", "after")),
        *(("units", pa.list_(pa.string())), ("nearness", pa.list_(pa.float64()))),
    ]
)
QUESTION = pa.schema([("question", pa.string())])


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
    """The file of the units that are to be published, and beside it that of what was left out. Where the base has
    labels, units have theirs (schema.SEEN_BY), and those that nobody may see are left out. Those of an update are made
    once more where somebody has decided about units since.
    """
    file, known = job.run / UNITS, decided_so_far(job)
    if file.exists() and (job.before is None or job.record.facts.get("decisions") == known):
        return file
    with scratch_folder(job.run) as scratch:
        units, left_out = written_units(job, traces, base, generators, scratch)
        if job.cfg.units.checks:
            good, refused = checked_units(job, list(units), traces, base, generators.encoders)
            units, left_out = iter(good), chain(left_out, refused)
        first = next(units, None)
        units = units if first is None else chain([first], units)
        if job.cfg.units.validate and first is not None:
            write_rows(job.run / CANDIDATES, UNIT, tables_of(units, UNIT))
            harmful = validated(job, traces, questions, base, generators, scratch)
            units = (unit for unit in read_rows(job.run, UNIT, pattern=CANDIDATES) if unit["id"] not in harmful)
            left_out = chain(left_out, harmful.values())
        if decisions := decisions_of(job.run / "writeback"):
            good, refused = decided(list(units), decisions, what_is_said(base, decisions))
            units, left_out = iter(good), chain(left_out, refused)
        schema, units, hidden = labelled(units, base, scratch)
        write_rows(job.run / LEFT_OUT, LEFT, tables_of(chain(left_out, hidden), LEFT))
        write_rows(file, schema, tables_of(units, schema))
    job.record.facts["decisions"] = known
    job.record.save()
    return file


def decided_so_far(job: Job) -> str:
    """What changes with any decision about a unit of the run."""
    return fingerprint({key: asdict(one) for key, one in decisions_of(job.run / "writeback").items()})


def labelled(units: Iterator[Row], base: Path, scratch: Path) -> tuple[pa.Schema, Iterator[Row], Iterator[Row]]:
    """The units with who may see them, after their schema, and as rows of `schema.LEFT` those that nobody may: as the
    current version of the base labels their sources. Where it has no labels, the units as they are.
    """
    version = current(base)
    if not has_labels(base, version):
        return UNIT, units, iter(())
    rows = Rows.written(scratch / "unlabelled", UNIT, tables_of(units, UNIT))
    labels = labels_of(base, version, rows.column("source_ids").to_pylist())

    def told(hidden: bool) -> Iterator[Row]:
        both = zip(rows, labels, strict=True)
        return ({**unit, SEEN_BY.name: label} for unit, label in both if seen_by_nobody(label) == hidden)

    why = "nobody may see all of its sources: {}"
    unseen = (left_row(unit, "access", why.format(", ".join(unit["source_ids"]))) for unit in told(True))
    return UNIT.append(SEEN_BY), told(False), unseen


def written_units(
    job: Job, traces: Path, base: Path, generators: Generators, scratch: Path
) -> tuple[Iterator[Row], Iterator[Row]]:
    """The units of a run's kept examples in order of their id (schema.UNIT), and what was left out of them (LEFT)."""
    cfg = job.cfg
    if one_unit_an_example(cfg.units) and _distilled(traces):
        return units_of(traces, scratch), iter(())
    source = job.run / "requests.parquet"
    if not source.exists():
        asked = requests(cfg, kept_examples(traces, scratch), base, generators.encoders)
        write_rows(source, REQUEST, tables_of(asked, REQUEST))
    goal = pq.read_metadata(source).num_rows
    if goal and not complete(job, "written", goal):
        generate(job, generators, Stage(cfg, "write"), source, "written", goal)
    check_errors(job, "written")
    rows = in_order_of_id(read_tables(job.run / "written", WRITTEN) if goal else (), WRITTEN, scratch / "written")
    units = (unit for row in rows for unit in row["units"] or [])
    return distinct_units(units, scratch), left_out_of(rows)


def left_out_of(written: Rows) -> Iterator[Row]:
    """What was left out of units that were written (schema.LEFT), then the requests of which nothing came."""
    for row in written:
        yield from ({"request": row["id"], **one} for one in row["left_out"] or [])
    for row in written:
        if row["status"] == "failed" or not (row["units"] or row["left_out"]):
            yield {"request": row["id"], "text": "", "kind": row["status"], "reason": row["reason"]}


def kept_examples(traces: Path, scratch: Path) -> Rows:
    """The kept examples of a folder of traces as requests are made of them, in order of their id."""
    kept = pc.field("status") == "kept"
    schema = pa.schema([TRACE.field(name) for name in TRACE_COLUMNS])
    return in_order_of_id(read_tables(traces, TRACE, TRACE_COLUMNS, kept), schema, scratch / "kept")


def in_order_of_id(tables: Iterable[pa.Table], schema: pa.Schema, scratch: Path) -> Rows:
    """The rows of these tables, which have an id, in order of it; they lie in `scratch`."""
    rows = Rows.written(scratch, schema, tables)
    return rows.chosen(np.asarray(pc.sort_indices(rows.column("id")), dtype=np.int64))


def requests(cfg: TrainConfig, kept: Iterable[Row], base: Path, encoders: Encoders) -> Iterator[Row]:
    """The requests for the units of kept examples (`wbrag.units.requests`), which are gone through twice; searched and
    chosen on encoder actors.
    """

    def search(names: Sequence[str]) -> list[list[Document]]:
        asked = pa.table([pa.array(names, pa.string())], schema=QUESTION)
        found = retrieve_all(replace(cfg, k=cfg.units.search), Rows.of(asked.to_batches(), QUESTION), base, encoders)
        return [documents_of(rows) for rows in found.rows(asked["question"], ["documents"])["documents"].to_pylist()]

    def nearest(questions: Sequence[str], there: Sequence[Sequence[str]]) -> list[list[int]]:
        count = cfg.units.sentences if cfg.units.scope == "question" else 1
        return encoders.on_one(nearest_sentences, questions, there, count)

    kept = harmless_examples(kept) if cfg.units.checks else kept
    if cfg.units.scope == "subject":
        return by_subject(kept, cfg.units, harmless_search(search) if cfg.units.checks else search, nearest)
    return by_question(kept, cfg.units, nearest)


def validated(
    job: Job, traces: Path, questions: Path, base: Path, generators: Generators, scratch: Path
) -> dict[str, Row]:
    """Those of the candidates that take more than they give (`wbrag.units.validate`): by id, as rows of `schema.LEFT`
    with their numbers.

    Training questions that would read units other than their own are answered with them, one call each; without them
    they were answered when they were trained on. Those whose answer with documents nobody needed are not asked.
    """
    candidates, file = job.run / "candidates", job.run / CANDIDATES
    if latest(candidates) is None and job.before and (job.before / "candidates").is_dir():
        copy_store(job.before / "candidates", candidates)  # units that are as they were are not encoded again
    publish_units(file, candidates, job.cfg, {"run": job.record.hash}, base, generators.encoders)
    source, known = job.run / "readers.parquet", job.run / "readers_known.parquet"
    if not source.exists():
        answered = pc.field("rag_answer").is_valid()
        answers = read_tables(traces, TRACE, ("id", *ANSWERS), answered)
        tables = (some.rename_columns(["id", *ANSWERS.values()]) for some in answers)
        write_rows(known, pa.schema([(name, pa.string()) for name in ("id", *ANSWERS.values())]), tables)
        write_rows(source, MERGED, readers(job.cfg, file, questions / "train.parquet", known, (base, candidates)))
    goal = pq.read_metadata(source).num_rows
    if goal and not complete(job, "readings", goal):
        with lent_search(job.cfg, generators.encoders, base) as found:
            generate(job, generators, Stage(job.cfg, "validate", None, known, found), source, "readings", goal)
    check_errors(job, "readings")
    judged = ("id", "form", "doubt", "source_ids", "example_ids")
    told = balances(
        read_rows(job.run, UNIT, judged, pattern=CANDIDATES), readings_of(job.run / "readings", job.cfg, scratch)
    )
    harmful: dict[str, Row] = {}
    for unit in read_rows(job.run, UNIT, pattern=CANDIDATES):
        if (balance := told[unit["id"]]).reason:
            changed = f", changed {', '.join(balance.questions)}" if balance.questions else ""
            why = f"{balance.reason}; read by {balance.readings}{changed}"
            harmful[unit["id"]] = left_row(unit, "harmful", why)
    return harmful


def readers(
    cfg: TrainConfig, units: Path, source: Path, answered: Path, stores: tuple[Path, Path]
) -> Iterator[pa.Table]:
    """The training questions, of those `answered` with documents, that read one of the `units` which they did not make:
    rows of MERGED, batch by batch. All three are Parquet files.
    """
    own = units_behind(units)
    ids = pq.read_table(answered, columns=["id"])
    asked = Keyed(Rows.of(ids.combine_chunks().to_batches(), ids.schema), "id")
    with reading(*stores) as versions:
        retriever = MergedDocuments(Knowledge(cfg, *stores, versions))
        for batch in pq.ParquetFile(source).iter_batches(READ_ROWS):
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pa.array(asked.find(rows["id"]) >= 0))
            if not rows.num_rows:
                continue
            places = own.find(rows["id"])
            made = iter(own.table.take(places[places >= 0], ["unit_list"])["unit_list"].to_pylist())
            found = retriever(rows, [frozenset(next(made) if there else ()) for there in places >= 0])
            read = found["documents_writeback"].to_pylist()
            yield found.filter(pa.array([any(d["source"] == "writeback" for d in some) for some in read], pa.bool_()))


def units_behind(units: Path) -> Keyed:
    """The units of a Parquet file by the examples behind them: of each `example` their ids, `unit_list`."""
    pairs = [pa.table({name: pa.array([], pa.string()) for name in ("example", "unit")})]
    for batch in pq.ParquetFile(units).iter_batches(BATCH_ROWS, columns=["id", "example_ids"]):
        at, examples = (work(batch["example_ids"]) for work in (pc.list_parent_indices, pc.list_flatten))
        pairs.append(pa.table({"example": examples, "unit": batch["id"].take(at)}))
    grouped = pa.concat_tables(pairs).group_by("example").aggregate([("unit", "list")]).combine_chunks()
    return Keyed(Rows.of(grouped.to_batches(), grouped.schema), "example")


def readings_of(folder: Path, cfg: TrainConfig, scratch: Path) -> Iterator[Reading]:
    """What the rows of `readings/` say, in order of their id."""
    told = tables_of((_reading(row, cfg) for row in read_fields(folder, READ)), READING)
    for row in in_order_of_id(told, READING, scratch / "read"):
        nearness = dict(zip(row["units"], row["nearness"], strict=True))
        yield Reading(row["id"], row["before"], row["after"], nearness)


def _reading(row: Row, cfg: TrainConfig) -> Row:
    def scored(answer: str | None) -> float:
        golden, how = row["golden_answers"], cfg.benchmark
        return 0.0 if answer is None else score(how.metric, answer, golden, how.labels, how.language)

    best = max((d["score"] for d in row["documents_base"]), default=0.0)
    units = {d["id"]: d["score"] - best for d in row["documents_writeback"] if d["source"] == "writeback"}
    before = scored(row["answer_base"])
    after = before if row["error"] else scored(row["answer_writeback"])
    return {"id": row["id"], "before": before, "after": after, "units": list(units), "nearness": list(units.values())}


def publish_units(
    units: Path, store: Path, cfg: TrainConfig, note: Mapping[str, Any], base: Path, encoders: Encoders
) -> None:
    """Bring a store of units to those of a Parquet file (`schema.UNIT`) and to the current version of `base`. It is
    searched exactly, whatever kind of index the base is: thousands of units need no lists.
    """
    index, note = replace(cfg.index, kind="flat_fp16"), {**note, "merge": asdict(cfg.merge)}
    note |= {"retrieval": asdict(cfg.retrieval)}
    build_store(units, store, encoders, index, note, named(current(base)), follow=True)


def units_of(traces: Path, scratch: Path) -> Iterator[Row]:
    """The knowledge units that Algorithm 1 wrote into a folder of traces (schema.UNIT), in order of unit id."""
    columns = ["id", "status", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"]
    rows = read_fields(traces, [*columns, "documents.id", "kept_ranks"], pc.field("status") == "kept")
    return distinct_units((unit_of(row) for row in rows), scratch)


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
    without = (pc.field("status") == "kept") & pc.field("unit_id").is_null()
    return not ds.dataset(traces, format="parquet").count_rows(filter=without)


def distinct_units(units: Iterable[Row], scratch: Path) -> Iterator[Row]:
    """The units in order of their id, each once (`distinct`)."""
    rows = in_order_of_id(tables_of(units, UNIT), UNIT, scratch / "units")
    ids = rows.column("id")
    first = np.append(0, np.flatnonzero(np.asarray(pc.not_equal(ids[1:], ids[:-1]))) + 1)  # of the rows of each id
    edges = np.append(first, len(rows))[np.searchsorted(first, np.arange(0, len(rows), BATCH_ROWS))]
    for start, end in pairwise([*np.unique(edges).tolist(), len(rows)]):
        yield from distinct(rows.take(np.arange(start, end)).to_pylist())
