"""A small run with a knowledge base, for the tests of what serves it: without Ray, searched by the hashing encoder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from small_store import publish
from synthetic_run import PASSAGES, UNIT, gated, kept, prediction, write_run

from wbrag import schema
from wbrag.config import Encoder, Merge
from wbrag.report.run_report import write_report
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.schema import unit_id
from wbrag.store import changes
from wbrag.store.changes import write_piece
from wbrag.store.place import place_of
from wbrag.store.rows import conform, schema_in, with_vectors
from wbrag.store.vectors import spec_of
from wbrag.store.versions import current, encoder_note, named

HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=64)
#: What a generator that read a page of the web may have written.
ATTACK = "<img src=x onerror=\"document.title='attacked'\"> <script>document.title='attacked'</script> was born in Elm."
Row = dict[str, Any]


def unit(title: str, text: str, sources: list[str], **changes: object) -> Row:
    """A row of `schema.UNIT`."""
    told: Row = {"title": title, "text": text, "source_ids": sources, "example_ids": [], "subject": title}
    told |= {"source_tokens": 20, "unit_tokens": len(text.split()), "form": "distilled", "doubt": ""} | changes
    return {"id": unit_id(title, text, sources)} | told


#: By what there is to say of it.
UNITS = {
    "good": unit("Almira Trevane", "Almira Trevane was a glass painter.", ["p-0412"], example_ids=["train-17"]),
    "unfaithful": unit("Almira Trevane", "Almira Trevane was born in Port Elden in 1843.", ["p-0412", "p-0077"]),
    "contradicting": unit("Almira Trevane", "Almira Trevane was born in Port Elden in 1844.", ["p-0412"]),
    "attack": unit("Almiro <b>Trevani</b>", ATTACK, ["p-1290"]),
    "harmful": unit("Tarnholm", "Tarnholm lies inland.", ["p-0077"]),
    "near-duplicate": unit("Tarnholm", "Inland lies Tarnholm.", ["p-0077"]),
}


def stores(run: Path, units: list[Row]) -> None:
    """The pair of a run: base, with the years 1990, 1991, ..., and write-back store."""
    encoder = open_encoder(HASHING)
    for store, rows, table in (("base", PASSAGES, schema.PASSAGE), ("writeback", units, schema.UNIT)):
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"]) for row in rows])
        rows_table = pa.Table.from_pylist([{name: row[name] for name in table.names} for row in rows], table)
        if store == "base":
            rows_table = rows_table.append_column("year", pa.array(range(1990, 1990 + len(rows))))
        note = encoder_note(HASHING)
        if store == "base":
            publish(run / store, vectors, rows_table, encoder.fingerprint, note)
            continue
        place, spec = place_of(run / store), spec_of("flat_fp16", vectors.shape[1])
        full = with_vectors(conform(rows_table, store), vectors, schema_in(place, None, table, vectors.shape[1]))
        note |= {"merge": asdict(Merge())}
        piece = write_piece(place, full, spec)
        changes.publish(place, [piece], spec, encoder.fingerprint, note, named(current(run / "base")))


def served_run(folder: Path) -> Path:
    """A run whose test questions read some of the `UNITS`: "good" helped one, "harmful" took one."""

    def read(key: str, *names: str, **more: object) -> Row:
        documents = [UNIT | {name: UNITS[one][name] for name in ("id", "title", "text")} for one in names]
        return prediction(id=key, documents_writeback=[*documents, *PASSAGES[: 3 - len(names)]], **more)

    predictions = [
        read("test-1", "good", "attack", "unfaithful"),
        read("test-2", "harmful", answer_base="Tarnholm", answer_writeback="<i>Port Elden</i>"),
        read("test-3"),
    ]
    good = {"unit_id": UNITS["good"]["id"], "unit_title": UNITS["good"]["title"], "unit_text": UNITS["good"]["text"]}
    run = write_run(folder, [kept(**good), gated()], predictions)
    write_report(run)
    stores(run, list(UNITS.values()))
    return run
