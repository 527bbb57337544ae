"""What the notes of a store's versions say, so that a reader opens it as it was made: with its encoder, and where it
holds units merged with passages as they were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wbrag.config import Encoder, Merge
from wbrag.store.manifest import read_manifest, versions
from wbrag.store.storage import Store


def encoder_note(encoder: Encoder) -> dict[str, Any]:
    """The part of a version's note that names its encoder: all settings but the speed."""
    return {"encoder": {key: value for key, value in asdict(encoder).items() if key != "batch_size"}}


def merge_note(merge: Merge) -> dict[str, Any]:
    """The part of a write-back version's note that says how its units were measured: merged this way."""
    return {"merge": asdict(merge)}


def noted_encoder(stores: Sequence[Store]) -> Encoder | None:
    """The encoder that the newest version with such a note was made with, asking store after store; None: none has."""
    noted = _noted(stores, "encoder")
    return Encoder(**noted) if noted else None


def noted_merge(store: Store) -> Merge:
    """The merge that the newest version with such a note names; the paper's where none does."""
    return Merge(**(_noted([store], "merge") or {}))


def _noted(stores: Sequence[Store], key: str) -> dict[str, Any] | None:
    """Rollback and compaction write notes of their own, so older versions are asked too."""
    for store in stores:
        for version in reversed(versions(store)):
            if key in (note := read_manifest(store, version).note):
                return dict(note[key])
    return None
