"""What the notes of a store's versions say, so that a reader opens it as it was made: with its encoder, and where it
holds units merged with passages as they were measured.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from wbrag.config import Encoder, Merge
from wbrag.store.place import Place
from wbrag.store.versions import Version, read_version


def encoder_note(encoder: Encoder) -> dict[str, Any]:
    """The part of a version's note that names its encoder: all settings but the speed."""
    return {"encoder": {key: value for key, value in asdict(encoder).items() if key != "batch_size"}}


def merge_note(merge: Merge) -> dict[str, Any]:
    """The part of a write-back version's note that says how its units were measured: merged this way."""
    return {"merge": asdict(merge)}


def noted_encoder(place: Place, version: Version) -> Encoder | None:
    """The encoder that a version was made with; None where no note names one."""
    told = _noted(place, version, "encoder")
    return Encoder(**told) if told else None


def noted_merge(place: Place, version: Version) -> Merge:
    """The merge that a version's units were measured with; the paper's where no note names one."""
    return Merge(**_noted(place, version, "merge"))


def _noted(place: Place, version: Version, key: str) -> dict[str, Any]:
    """What the newest version up to this one with such a note says; {} where none has: rollback and compaction write
    notes of their own.
    """
    for number in range(version.version, 0, -1):
        note = version.note if number == version.version else read_version(place, number).note
        if key in note:
            return dict(note[key])
    return {}
