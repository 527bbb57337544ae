"""Other thresholds for the gates of a finished run (paper, Table 4), replayed from the scores that it recorded.

Traces hold every score the gates read. So a variant of the gates costs no call for an example whose kept ranks do not
change; where they do, only its distillation is missing; only an example that the run's own gates closed before all
its scores were known has to be asked again from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.config import ConfigError, Gates, fingerprint, one_unit_an_example
from wbrag.experiments.variants import Trained, variant, with_units, written_rows
from wbrag.gates import DocumentDecision, document_gate, utility_gate, with_documents_needed
from wbrag.report.statistics import mean
from wbrag.run import pipeline
from wbrag.run.folder import QUESTIONS, read_rows, write_record, write_rows
from wbrag.run.job import Session, complete, opened
from wbrag.run.retrieve import ASKED, READ_ROWS
from wbrag.run.writeback import unit_of
from wbrag.schema import TRACE, UNIT

Row = Mapping[str, Any]

#: The columns of `schema.TRACE` that a replay reads.
TRACE_COLUMNS = (
    *("id", "question", "golden_answers", "metadata", "documents", "status", "reason", "s_nr", "s_rag"),
    *("document_scores", "kept_ranks", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"),
)
#: What gates decide that close.
CLOSED = DocumentDecision((), False, "closed")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a variant of the gates takes: units that are there, (id, ranks) to distil, ids to ask from the start."""

    reused: tuple[str, ...]
    to_distil: tuple[tuple[str, tuple[int, ...]], ...]
    to_train: tuple[str, ...]


def gates_of(own: Gates, thresholds: Mapping[str, Sequence[float]]) -> dict[str, Gates]:
    """The gates to be tried, by name ("tau_doc=0.05"): one threshold at a time is changed, as in the paper's Table 4.

    The run's own value of each threshold is among them. ConfigError for a name that is no threshold, for a tau that is
    not a number below 1, for an n_min that is not a whole number from 1.
    """
    tried = {}
    for name, values in thresholds.items():
        if name not in asdict(own):
            raise ConfigError(f"thresholds.{name}: unknown; known are {', '.join(asdict(own))}")
        if strange := [value for value in values if isinstance(value, bool) or not isinstance(value, int | float)]:
            raise ConfigError(f"thresholds.{name}: {strange[0]!r} is not a number")
        for value in sorted({*values, getattr(own, name)}):
            if not (value >= 1 and value == int(value) if name == "n_min" else 0 <= value < 1):
                raise ConfigError(f"thresholds.{name}: {value} is out of range")
            changed: Any = {name: int(value) if name == "n_min" else float(value)}
            tried[f"{name}={value:g}"] = replace(own, **changed)
    return tried


def replay(row: Row, gates: Gates) -> DocumentDecision | None:
    """What these gates would do with the example of one trace row (TRACE_COLUMNS): no kept rank where they close, None
    where a score is missing. A failed example stays out: what failed was a call, which no threshold mends.
    """
    if row["status"] == "failed" or row["s_nr"] is None or not with_documents_needed(row["s_nr"], gates):
        return CLOSED
    if row["s_rag"] is None:
        return None
    if not utility_gate(row["s_nr"], row["s_rag"], gates).passed:
        return CLOSED
    return None if row["document_scores"] is None else document_gate(row["s_nr"], row["document_scores"], gates)


def plan(traces: Sequence[Row], gates: Gates) -> Plan:
    """The plan of one variant over all examples of a run, by example id, in order of id.

    An example whose distillation gave no passage (gated with its ranks known) is not asked the same again.
    """
    reused, to_distil, to_train = [], [], []
    for row in sorted(traces, key=lambda row: str(row["id"])):
        found = replay(row, gates)
        if found is None:
            to_train.append(row["id"])
        elif found.kept_ranks and list(found.kept_ranks) != list(row["kept_ranks"] or []):
            to_distil.append((row["id"], found.kept_ranks))
        elif found.kept_ranks and row["status"] == "kept":
            reused.append(row["id"])
    return Plan(tuple(reused), tuple(to_distil), tuple(to_train))


def request_id(example: str, ranks: Sequence[int]) -> str:
    """The id of a request to distil these ranks of an example: one for all variants that need it."""
    return f"{example}@{'+'.join(map(str, ranks))}"


def ablate(own: Trained, thresholds: Mapping[str, Sequence[float]], session: Session) -> list[dict[str, Any]]:
    """One record for each variant of the gates, also in `<run>/ablation.json`.

    `gates`, `selected` examples, `units`, `retained_documents` (mean), `fallback_rate`, `new_calls` that the variant
    took, `folder` with its predictions. Variants that keep the same units are measured once. ConfigError where the
    run's units are not those of Algorithm 1 as they were written: what other gates would keep is not known of others.
    """
    how = own.cfg.units
    if not one_unit_an_example(how) or how.validate:
        told = f"units.form={how.form}, scope={how.scope}, faithful={how.faithful}, validate={how.validate}"
        raise ConfigError(f"runs: {own.run} has {told}; gates are varied for units=paper alone")
    traces = list(read_rows(own.run / "traces", TRACE, TRACE_COLUMNS))
    kept, records = {row["unit_id"] for row in traces if row["status"] == "kept"}, []
    for name, gates in gates_of(own.cfg.gates, thresholds).items():
        rows, new_calls = selected(own, traces, name, gates, session)
        units, run = {row["id"]: {key: row[key] for key in UNIT.names} for row in reversed(rows)}, own.run
        if set(units) != kept:
            job = variant(own, f"gates-{fingerprint(sorted(units))[:8]}")
            with_units(own, job, [units[key] for key in sorted(units)], session)
            run = job.run
        records.append(
            {
                **{"name": name, "gates": asdict(gates), "selected": len(rows), "units": len(units)},
                "retained_documents": mean(len(row["source_ids"]) for row in rows),
                "fallback_rate": mean(row["fallback"] for row in rows),
                **{"new_calls": new_calls, "folder": str(run.relative_to(own.run))},
            }
        )
    write_record(own.run / "ablation.json", {"variants": records})
    return records


def selected(
    own: Trained, traces: Sequence[Row], name: str, gates: Gates, session: Session
) -> tuple[list[dict[str, Any]], int]:
    """The units of a variant, one row an example (columns of `schema.UNIT`, `fallback`), and the calls it took."""
    chosen = plan(traces, gates)
    of = {row["id"]: row for row in traces}
    distilled = {row["id"]: row for row in _distilled(own, of, chosen, session)}
    asked = _asked(own, chosen, name, gates, session)
    rows = [unit_of(row) for row in (*(of[key] for key in chosen.reused), *asked) if row["status"] == "kept"]
    for key, ranks in chosen.to_distil:
        rows += [unit | {"example_ids": [key]} for unit in distilled[request_id(key, ranks)]["units"] or []]
    fallback = {key: found.fallback for key, row in of.items() if (found := replay(row, gates))}
    fallback |= {row["id"]: bool(row["fallback"]) for row in asked}
    calls = sum(row["calls"] for row in (*distilled.values(), *asked))
    return [row | {"fallback": fallback[row["example_ids"][0]]} for row in rows], calls


def _distilled(own: Trained, of: Mapping[str, Row], chosen: Plan, session: Session) -> list[dict[str, Any]]:
    """The units of document sets that the run has not distilled (`schema.WRITTEN`), written now."""
    requests = [
        {
            **{"id": request_id(key, ranks), "question": of[key]["question"]},
            **{"documents": [of[key]["documents"][rank - 1] for rank in ranks], "judged": False},
        }
        for key, ranks in chosen.to_distil
    ]
    return written_rows(variant(own, "distilled"), requests, session) if requests else []


def _asked(own: Trained, chosen: Plan, name: str, gates: Gates, session: Session) -> list[dict[str, Any]]:
    """Traces under these gates of the examples whose scores the run's own gates left unknown."""
    goal = len(chosen.to_train)
    if not goal:
        return []
    job = variant(own, f"asked-{name}", gates=gates)
    if not complete(job, "traces", goal):
        where, train = pc.field("id").isin(chosen.to_train), ds.dataset(own.questions / "train.parquet")
        some = (pa.Table.from_batches([rows]) for rows in train.to_batches(filter=where, batch_size=READ_ROWS))
        write_rows(job.run / QUESTIONS / "train.parquet", ASKED, (rows for rows in some if rows.num_rows))
        with opened(job.cfg, session) as generators, job.record.timed("train"):
            pipeline.train_examples(job, job.run / QUESTIONS, own.base, goal, generators)
    return list(read_rows(job.run / "traces", TRACE, (*TRACE_COLUMNS, "fallback", "calls")))
