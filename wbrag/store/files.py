"""Durable file operations of a store: what is written is on disk, whole, before anything refers to it."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any


class StoreError(ValueError):
    """A store that cannot be read or may not be written; the message names the file and both values."""


def dump_json(value: dict[str, Any]) -> bytes:
    """Canonical JSON: one byte string per value, so that it can be hashed; not-a-number is refused."""
    # without an indent, which Python's encoder in C does not know: a version of many files would take ten times as long
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """64 hex digits of the file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where checkpoints and copies out of S3 are kept: wbrag/ in $XDG_CACHE_HOME, else in ~/.cache, without HOME in the
    temporary folder.
    """
    named, home = os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME")
    root = Path(named) if named else Path(home) / ".cache" if home else Path(gettempdir())
    return root.absolute() / "wbrag"  # actors run in other working directories


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create `path` with its parents, flushing the parent of every folder that is new."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync(folder.parent)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder `.tmp-<random>` under `parent`, removed at the end, whatever happened."""
    make_folder(parent)
    with TemporaryDirectory(prefix=".tmp-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)  # left over by a killed process, it is unreferenced and harmless


def create_exclusive(path: Path, data: bytes) -> bool:
    """Make `path` appear whole or not at all; False when it exists already (put-if-absent, by a hard link)."""
    make_folder(path.parent)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(data)
        fsync(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)
    return True


def replace_file(source: Path, target: Path) -> None:
    """Put `source` at `target`, whole, in place of what was there; both lie on one file system."""
    make_folder(target.parent)
    fsync(source)
    os.replace(source, target)
    fsync(target.parent)


def move_into_place(folder: Path, target: Path) -> bool:
    """Flush all that is in a folder and rename it to `target`; False when `target` is there (same id, same content)."""
    for path in (*folder.rglob("*"), folder):
        fsync(path)  # or the folder could appear, after a power loss, with files cut short
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    fsync(target.parent)
    return True
