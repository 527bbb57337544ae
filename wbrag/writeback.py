"""The write-back store K_wb: the units of a run's kept examples, published as a store of their own beside the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag.config import TrainConfig
from wbrag.encoding import Encoders
from wbrag.index.build import build_store
from wbrag.index.files import scratch_folder
from wbrag.index.manifest import latest
from wbrag.plan import Job
from wbrag.schema import UNIT


def write_back(job: Job, encoders: Encoders | None = None) -> Path:
    """K_wb: the units of all kept examples, each once, published as the store `writeback/` (absent without units).

    The units come in order of their id, so that however the examples were scheduled, the store has the same bytes. A
    published store is left alone: what was deleted from it since must not come back.
    """
    store = job.run / "writeback"
    units = units_of(job.run / "traces")
    if len(units) and latest(store) is None:
        with scratch_folder(job.run) as scratch:
            pq.write_table(units, scratch / "units.parquet")
            publish_units(scratch / "units.parquet", store, job.cfg, {"run": job.record.hash}, encoders)
    return store


def publish_units(
    units: Path, store: Path, cfg: TrainConfig, note: Mapping[str, Any], encoders: Encoders | None = None
) -> None:
    """Build a store of units (a Parquet file of `schema.UNIT`). It is searched exactly, whatever kind of index the base
    is: thousands of units need no lists.
    """
    index = replace(cfg.index, kind="flat_fp16")
    build_store(units, store, cfg.encoder, index, cfg.cluster, dict(note), encoders)


def units_of(traces: Path) -> pa.Table:
    """The knowledge units of a folder of traces (schema.UNIT), in order of unit id; of equal ids the least example."""
    columns = ["id", "unit_id", "unit_title", "unit_text", "documents", "kept_ranks", "source_tokens", "unit_tokens"]
    rows = pq.read_table(traces, columns=columns, filters=pc.field("status") == "kept")
    units: dict[str, dict[str, Any]] = {}
    for row in sorted(rows.to_pylist(), key=lambda row: (row["unit_id"], row["id"])):
        sources = [row["documents"][rank - 1]["id"] for rank in row["kept_ranks"]]
        unit = {"id": row["unit_id"], "title": row["unit_title"], "text": row["unit_text"], "example_id": row["id"]}
        tokens = {"source_tokens": row["source_tokens"], "unit_tokens": row["unit_tokens"]}
        units.setdefault(row["unit_id"], {**unit, "source_ids": sources, **tokens})
    return pa.Table.from_pylist(list(units.values()), UNIT)
