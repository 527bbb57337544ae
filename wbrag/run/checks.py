"""Units held against all passages that were read for them, as these lie in the base (`wbrag.units.sift`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from wbrag.config import TrainConfig
from wbrag.retrieval.encoder import Encoder, passage_text
from wbrag.retrieval.encoding import Encoders
from wbrag.run.decided import decisions_of, hashes_of
from wbrag.run.folder import WAITING, Reread, read_fields, tables_of, write_rows
from wbrag.run.job import Job
from wbrag.run.lookup import BATCH_ROWS
from wbrag.schema import UNIT, Document, document_rows, documents_of
from wbrag.store.place import place_of
from wbrag.store.rows import rows_of
from wbrag.store.versions import current, read_version
from wbrag.units.attacks import harmless
from wbrag.units.sift import Evidence, Passage, alike, dated, merged, sifted

Row = dict[str, Any]
Search = Callable[[Sequence[str]], list[list[Document]]]


def harmless_examples(kept: Iterable[Mapping[str, Any]]) -> Reread:
    """Kept examples whose documents are without what attacks; a draft that was written from such a one is gone."""

    def cleaned(row: Mapping[str, Any]) -> Row:
        documents = documents_of(row["documents"])
        clean = [harmless(one) for one in documents]
        return {**row, "documents": document_rows(clean), "unit_text": row["unit_text"] if clean == documents else None}

    return Reread(partial(map, cleaned, kept))


def harmless_search(search: Search) -> Search:
    """A search whose documents are without what attacks."""
    return lambda names: [[harmless(one) for one in found] for found in search(names)]


def checked_units(
    job: Job, units: Sequence[Row], traces: Path, base: Path, encoders: Encoders
) -> tuple[list[Row], list[Row]]:
    """The units that attack nobody, contradict no newer passage, are vouched for and repeat no other, in order of their
    id, and what was left out (`schema.LEFT`). Those that wait for a person lie in `waiting.parquet`; one that was
    accepted is among the first. What somebody decided about is merged with no other.
    """
    cfg, evidence = job.cfg, Evidence.of(units)
    for passage in passages_read(cfg, job.run / "requests.parquet", traces, base):
        evidence.read(passage)
    found = sifted(units, evidence, None if cfg.updated_at else partial(came, base))
    decisions = decisions_of(job.run / "writeback")
    accepted = {key for key, one in decisions.items() if one.state == "accepted"}
    waiting = [unit for unit in found.waiting if unit["id"] not in accepted]
    write_rows(job.run / WAITING, UNIT, tables_of(waiting, UNIT))
    kept = {unit["id"]: unit for unit in [*found.kept, *(one for one in found.waiting if one["id"] in accepted)]}
    left_out = [one for one in found.left_out if one["kind"] != "review" or one["reason"].split(":")[0] not in accepted]
    for some in alike(unit for key, unit in sorted(kept.items()) if key not in decisions):
        texts = [passage_text(unit["title"], unit["text"]) for unit in some]
        joined, gone = merged(some, encoders.on_one(Encoder.encode_passages, texts))
        for unit in some:
            del kept[unit["id"]]
        kept |= {unit["id"]: unit for unit in joined}
        left_out += gone
    return [kept[key] for key in sorted(kept)], left_out


def passages_read(cfg: TrainConfig, requests: Path, traces: Path, base: Path) -> Iterator[Passage]:
    """Each passage once that a request for units holds, or that a kept example retrieved, in order of its id."""
    ids: set[str] = set()
    for batch in pq.ParquetFile(requests).iter_batches(BATCH_ROWS, columns=["documents.list.element.id"]):
        ids.update(pc.struct_field(pc.list_flatten(batch["documents"]), "id").to_pylist())
    for row in read_fields(traces, ["status", "documents.id"], pc.field("status") == "kept"):
        ids.update(document["id"] for document in row["documents"])
    version, order = current(base), sorted(ids)
    for start in range(0, len(order), BATCH_ROWS):
        rows = rows_of(base, version, order[start : start + BATCH_ROWS]).drop_columns(["vector"])
        for row in sorted(rows.to_pylist(), key=lambda row: str(row["id"])):
            trusted = row[cfg.trust] is True if cfg.trust else True
            date = dated(row[cfg.updated_at]) if cfg.updated_at else None
            yield Passage(row["id"], row["title"], row["text"], date, trusted)


def came(base: Path, ids: Collection[str]) -> dict[str, float]:
    """For each passage the version of a base in which it came, as it stands; the oldest that is kept at the least."""
    place, version = place_of(base), current(base)
    now = hashes_of(base, version, ids)
    found = dict.fromkeys(now, float(version.oldest))
    left = set(now)
    for number in range(version.version - 1, version.oldest - 1, -1):
        there = hashes_of(base, read_version(place, number), left)
        found |= {key: number + 1.0 for key in left if there.get(key) != now[key]}
        left = {key for key in left if there.get(key) == now[key]}
        if not left:
            break
    return found
