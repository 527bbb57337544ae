"""Adding passages to a store as one new version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from wbrag.store.files import StoreError
from wbrag.store.lease import Lease
from wbrag.store.live import Live
from wbrag.store.manifest import Manifest, SegmentRef, commit, latest, require_same
from wbrag.store.passages import check_ids, conform
from wbrag.store.segment import Segment, write_segment
from wbrag.store.storage import Store
from wbrag.store.vectors import check_vectors, rows_of, spec_of


def publish(
    store: Store,
    vectors: np.ndarray,
    passages: pa.Table,
    encoder_fingerprint: str,
    note: dict[str, Any],
    lease: Lease | None = None,
) -> Manifest:
    """Add passages (id, title, text, provenance) with their vectors (n, d) float16 to a store as one new version.

    Passages whose id is live already are skipped, so publishing twice is publishing once. StoreError for what
    `write_segment` refuses, for an id that is live with another text, for another encoder or dimension.
    """
    where = f"{store}: passages to publish"
    check_vectors(vectors, where)
    if len(vectors) != len(passages):
        raise StoreError(f"{where}: {len(vectors)} vectors for {len(passages)} passages")
    passages = conform(passages, where)
    check_ids(passages["id"], where)
    parent = latest(store)
    spec = replace(parent.spec, dimension=vectors.shape[1]) if parent else spec_of("flat_fp16", vectors.shape[1])
    if parent:
        require_same(parent, spec, encoder_fingerprint, where)
    live = Live(store, parent)
    rows = live.rows(passages["id"])
    live.check_text(rows, passages, where)
    new = rows < 0
    if not new.any():
        return commit(store, lambda _: None)
    segment = write_segment(store, vectors[new], passages.filter(pa.array(new)), spec, encoder_fingerprint)
    return publish_segment(store, segment, note, lease, parent)


def publish_segment(
    store: Store, segment: Segment, note: dict[str, Any], lease: Lease | None = None, checked: Manifest | None = None
) -> Manifest:
    """Add a written segment to a store as one new version, leaving out rows whose ids went live meanwhile.

    `checked`: a version in which none of them is live; while it is the current one, they are not looked up again.
    """

    def change(parent: Manifest | None) -> Manifest | None:
        if parent is not None and parent == checked:
            return extended(parent, segment, note)
        live = Live(store, parent)
        rows = live.rows(segment.passages.ids())
        new = np.flatnonzero(rows < 0)
        if len(new) == segment.rows:
            return extended(parent, segment, note)
        live.check_text(rows, segment.passages.take(np.arange(segment.rows)), str(segment.path))
        if not len(new):
            return None
        vectors, passages = rows_of(segment.index, new), segment.passages.take(new)
        return extended(parent, write_segment(store, vectors, passages, segment.spec, segment.encoder), note)

    return commit(store, change, lease)


def extended(parent: Manifest | None, segment: Segment, note: dict[str, Any]) -> Manifest:
    """The version that has this segment after the parent's; StoreError when spec or encoder differ, with both."""
    if parent is None:
        ref = SegmentRef(segment.id, 0, segment.rows, segment.sha256)
        return Manifest(0, None, segment.spec, segment.encoder, (ref,), segment.rows, note=note)
    require_same(parent, segment.spec, segment.encoder, str(segment.path))
    ref = SegmentRef(segment.id, parent.next_row, segment.rows, segment.sha256)
    return replace(
        parent, segments=(*parent.segments, ref), next_row=ref.row_start + ref.rows, restored_from=None, note=note
    )
