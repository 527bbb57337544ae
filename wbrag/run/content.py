"""The hash of a file's content, remembered between runs: a corpus of gigabytes is read once and not in every run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from wbrag.config import fingerprint
from wbrag.store.files import scratch_folder, sha256_file

#: A file that was changed so shortly before it was hashed may be changed once more without getting another time.
SETTLED_NS = 2_000_000_000


def content_hash(path: Path, cache: Path) -> str:
    """sha256 of a file's content, 64 hex digits; noted in `cache` by its absolute path, size and times.

    Where these are as noted the file is not read, unless it had been changed less than 2 s before it was hashed. A
    note is one file and is written whole, so that of runs that hash at once the last one's stays.
    """
    path, hashed = path.absolute(), time.time_ns()
    stat = path.stat()
    # The time of the last change of any kind tells apart what was put there with the times of another file.
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = cache / "hashes" / f"{fingerprint(str(path))}.json"
    known = _noted(note)
    if known.get("state") == state and known["hashed_ns"] - stat.st_mtime_ns >= SETTLED_NS:
        return str(known["sha256"])
    found = sha256_file(path)
    told = {"file": str(path), "state": state, "hashed_ns": hashed, "sha256": found}
    with scratch_folder(note.parent) as scratch:
        (scratch / note.name).write_text(json.dumps(told) + "\n", encoding="utf-8")
        os.replace(scratch / note.name, note)
    return found


def _noted(note: Path) -> dict[str, Any]:
    """What a note says; {} without one, and for what a crash of the machine left of one."""
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
