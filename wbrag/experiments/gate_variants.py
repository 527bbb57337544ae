"""The ablation over the gates' thresholds (paper, Table 4) of a finished run, with the few calls that are missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from wbrag.config import ConfigError, Gates, fingerprint, one_unit_an_example
from wbrag.experiments import ablation
from wbrag.experiments.ablation import Plan, gates_of, plan, request_id
from wbrag.experiments.variants import Trained, predicted, stored, variant_job, written_rows
from wbrag.run.dispatch import Stage
from wbrag.run.folder import read_rows, write_rows, write_text
from wbrag.run.job import Session, generate, opened, written
from wbrag.run.retrieve import ASKED, READ_ROWS, searcher
from wbrag.schema import TRACE

Row = dict[str, Any]


def ablate(own: Trained, thresholds: Mapping[str, Sequence[float]], session: Session) -> list[dict[str, Any]]:
    """One record for each variant of the gates, also in `<run>/ablation.json`.

    `gates`, `selected` examples, `units`, `retained_documents` (mean), `fallback_rate`, `new_calls` that the variant
    took, `folder` with its predictions. Variants that keep the same units are measured once. ConfigError where the
    run's units are not those of Algorithm 1 as they were written: what other gates would keep is not known of others.
    """
    units = own.cfg.units
    if not one_unit_an_example(units) or units.validate:
        told = f"units.form={units.form}, scope={units.scope}, faithful={units.faithful}, validate={units.validate}"
        raise ConfigError(f"runs: {own.run} has {told}; gates are varied for units=paper alone")
    traces = list(read_rows(own.run / "traces", TRACE, ablation.TRACE_COLUMNS))
    records = []
    for name, gates in gates_of(own.cfg.gates, thresholds).items():
        rows, new_calls = selected(own, traces, name, gates, session)
        records.append(
            {
                "name": name,
                "gates": asdict(gates),
                "selected": len(rows),
                "units": len({row["id"] for row in rows}),
                "retained_documents": _mean([len(row["source_ids"]) for row in rows]),
                "fallback_rate": _mean([float(row["fallback"]) for row in rows]),
                "new_calls": new_calls,
                "folder": str(_measured(own, traces, rows, session).relative_to(own.run)),
            }
        )
    write_text(own.run / "ablation.json", json.dumps({"variants": records}, indent=2) + "\n")
    return records


def selected(own: Trained, traces: Sequence[Row], name: str, gates: Gates, session: Session) -> tuple[list[Row], int]:
    """The units of a variant, one row an example (columns of `schema.UNIT`, `fallback`), and the calls it took."""
    chosen = plan(traces, gates)
    of = {row["id"]: row for row in traces}
    rows = [_unit(of[key], of[key]["kept_ranks"]) for key in chosen.reused]
    distilled, distil_calls = _distilled(own, of, chosen, session)
    asked, train_calls = _asked(own, chosen, name, gates, session)
    rows += [_unit(row, row["kept_ranks"]) for row in asked if row["status"] == "kept"]
    for key, ranks in chosen.to_distil:
        rows += [unit | {"example_ids": [key]} for unit in distilled[request_id(key, ranks)]["units"] or []]
    fallback = {key: ablation.replay(of[key], gates).fallback for key in of}
    fallback |= {row["id"]: bool(row["fallback"]) for row in asked}
    return [row | {"fallback": fallback[row["example_ids"][0]]} for row in rows], distil_calls + train_calls


def _distilled(own: Trained, of: Mapping[str, Row], chosen: Plan, session: Session) -> tuple[dict[str, Row], int]:
    """The units of document sets that the run has not distilled, by request id, and the calls made for them now."""
    if not chosen.to_distil:
        return {}, 0
    requests = [
        {
            "id": request_id(key, ranks),
            "question": of[key]["question"],
            "documents": [of[key]["documents"][rank - 1] for rank in ranks],
            "judged": False,
        }
        for key, ranks in chosen.to_distil
    ]
    job = variant_job(own, "distilled", {})
    rows = written_rows(job, requests, session)
    return {row["id"]: row for row in rows}, sum(row["calls"] for row in rows)


def _asked(own: Trained, chosen: Plan, name: str, gates: Gates, session: Session) -> tuple[list[Row], int]:
    """Traces under these gates of the examples whose scores the run's own gates left unknown, and their calls."""
    if not chosen.to_train:
        return [], 0
    job = variant_job(own, f"asked-{name}", {f"gates.{key}": value for key, value in asdict(gates).items()})
    if not written(job, "traces", len(chosen.to_train)):
        source = job.run / "questions.parquet"
        where, questions = pc.field("id").isin(chosen.to_train), ds.dataset(own.questions / "train.parquet")
        some = questions.to_batches(filter=where, batch_size=READ_ROWS)
        write_rows(source, ASKED, (pa.Table.from_batches([rows]) for rows in some if rows.num_rows))
        with opened(own.cfg, session) as generators, job.record.timed("train"):
            with searcher(own.cfg, own.base, encoders=generators.encoders) as found:
                stage = Stage(replace(own.cfg, gates=gates), "train", searcher=found)
                generate(job, generators, stage, source, "traces", len(chosen.to_train))
    columns = (*ablation.TRACE_COLUMNS, "fallback", "calls")
    rows = list(read_rows(job.run / "traces", TRACE, columns))
    return rows, sum(row["calls"] for row in rows)


def _measured(own: Trained, traces: Sequence[Row], rows: Sequence[Row], session: Session) -> Path:
    """The folder with the predictions over these units: the run's own where they are its own."""
    units = {row["id"]: {key: value for key, value in row.items() if key != "fallback"} for row in reversed(rows)}
    if set(units) == {row["unit_id"] for row in traces if row["status"] == "kept"}:
        return own.run
    name = f"gates-{fingerprint(sorted(units))[:8]}"
    job = variant_job(own, name, {})
    store = stored(job, [units[key] for key in sorted(units)], {"variant": name}, own.base, session)
    predicted(own, name, store, {}, session)
    return job.run


def _unit(example: Row, ranks: Sequence[int]) -> Row:
    """A row of `schema.UNIT`: what Algorithm 1 wrote of an example's documents of these retrieval ranks."""
    return {
        "id": example["unit_id"],
        "title": example["unit_title"],
        "text": example["unit_text"],
        "example_ids": [example["id"]],
        "source_ids": [example["documents"][rank - 1]["id"] for rank in ranks],
        "source_tokens": example["source_tokens"],
        "unit_tokens": example["unit_tokens"],
        **{"subject": "", "form": "distilled", "doubt": ""},
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
