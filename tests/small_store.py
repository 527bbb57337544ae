"""Small stores for tests, published without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wbrag.store import changes
from wbrag.store.changes import write_piece
from wbrag.store.place import place_of
from wbrag.store.rows import conform, opened, schema_in, with_vectors
from wbrag.store.vectors import Spec, spec_of
from wbrag.store.versions import Version, current, latest


def publish(
    store: Path, vectors: np.ndarray, table: pa.Table, encoder: str, note: dict[str, Any], spec: Spec | None = None
) -> Version:
    """A version with these rows more, of the store's own kind of index or of `spec`."""
    place, parent = place_of(store), latest(store)
    spec = parent.spec if parent else spec or spec_of("flat_fp16", vectors.shape[1])
    table = conform(table, str(store))
    schema = schema_in(place, parent, table.schema, vectors.shape[1])
    piece = write_piece(place, with_vectors(table, vectors, schema), spec)
    return changes.publish(store, [piece], spec, encoder, note)


def copy_of(store: Path, target: Path) -> Path:
    """A store's folder copied to `target`, which is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(store, target)
    return target


def unit_vectors(n: int, seed: int = 0, d: int = 16) -> np.ndarray:
    """Random directions, (n, d) float16."""
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def passages(n: int, prefix: str = "p") -> pa.Table:
    """Passages <prefix>0, <prefix>1, ... without provenance."""
    ids = [f"{prefix}{i}" for i in range(n)]
    return pa.table({"id": ids, "title": [f"title {i}" for i in ids], "text": [f"text {i}" for i in ids]})


def rows_in(store: Path) -> list[dict[str, Any]]:
    """All that the current version of a store holds, vectors too, in order of rows."""
    version = current(store)
    rows: list[dict[str, Any]] = opened(place_of(store), version).to_table().to_pylist()
    return rows
