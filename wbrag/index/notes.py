"""What the notes of a store's versions say of its encoder, so that a reader can open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wbrag.config import Encoder
from wbrag.index.manifest import read_manifest, versions
from wbrag.index.storage import Store


def encoder_note(encoder: Encoder) -> dict[str, Any]:
    """The part of a version's note that names its encoder: all settings but the speed."""
    return {"encoder": {key: value for key, value in asdict(encoder).items() if key != "batch_size"}}


def noted_encoder(stores: Sequence[Store]) -> Encoder | None:
    """The encoder that the newest version with such a note was made with, asking store after store; None: none has.

    Rollback and compaction write notes of their own, so older versions are asked too.
    """
    for store in stores:
        for version in reversed(versions(store)):
            if "encoder" in (note := read_manifest(store, version).note):
                return Encoder(**note["encoder"])
    return None
