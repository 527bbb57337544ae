"""Where a store lies and the few operations everything else is made of; here for a folder, in objects.py for S3.

Names are relative and have slashes: `manifests/000003.json`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from wbrag.store.files import (
    StoreError,
    create_exclusive,
    move_into_place,
    remove_whole,
    replace_file,
    scratch_folder,
)

SEGMENTS = "segments"


class Storage(Protocol):
    """What a store needs of the place where it lies; str() of it begins every name in a message."""

    def names(self, folder: str) -> list[str]:
        """What stands in a folder, sorted; nothing when the folder is absent."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is absent."""
        ...

    def age(self, name: str) -> float:
        """Seconds since a file, or the youngest file of a folder, was written; infinite when it is absent."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file's content; FileNotFoundError."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Make a file appear, whole and flushed; False, and nothing changed, when it is there already."""
        ...

    def put(self, name: str, source: Path) -> None:
        """Move a local scratch file to this name, whole, in place of what was there."""
        ...

    def touch(self, name: str) -> None:
        """Set a file's age to 0; FileNotFoundError."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder for files that `put` or `add_segment` will take; removed at the end."""
        ...

    def add_segment(self, folder: Path, segment: str) -> Path:
        """Take over a sealed scratch folder as this segment and return the local folder to open.

        The same segment may be there already: then it stays.
        """
        ...

    def segment(self, segment: str, sha256: str, check: Callable[[Path, str], None]) -> Path:
        """The local folder of a segment; `check(folder, sha256)` is asked about what was downloaded."""
        ...


@dataclass(frozen=True)
class LocalStorage:
    """A folder on a POSIX file system."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def names(self, folder: str) -> list[str]:
        """What stands in a folder, sorted."""
        return sorted(os.listdir(self.root / folder)) if (self.root / folder).is_dir() else []

    def size(self, name: str) -> int | None:
        """Bytes of a file."""
        return (self.root / name).stat().st_size if (self.root / name).is_file() else None

    def age(self, name: str) -> float:
        """By the file system's modification times: of a folder's files, and of the folder itself."""
        times = []
        for path in (self.root / name, *(self.root / name).rglob("*")):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:  # a running writer removed it
                continue
        return time.time() - max(times, default=-float("inf"))

    def open(self, name: str) -> BinaryIO:
        """A file's content."""
        return (self.root / name).open("rb")

    def create(self, name: str, data: bytes) -> bool:
        """Put if absent, by a hard link."""
        return create_exclusive(self.root / name, data)

    def put(self, name: str, source: Path) -> None:
        """Flush and rename."""
        replace_file(source, self.root / name)

    def touch(self, name: str) -> None:
        """Set the modification time to now."""
        os.utime(self.root / name)

    def remove(self, name: str) -> None:
        """A folder is renamed first, so that none is ever there in part."""
        remove_whole(self.root / name)

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder beside the segments, so that a rename brings it into place."""
        return scratch_folder(self.root / SEGMENTS)

    def add_segment(self, folder: Path, segment: str) -> Path:
        """Flush and rename."""
        target = self.root / SEGMENTS / segment
        move_into_place(folder, target)
        return target

    def segment(self, segment: str, sha256: str, check: Callable[[Path, str], None]) -> Path:
        """The folder itself."""
        return self.root / SEGMENTS / segment


#: What every function of the index takes as a store.
Store = Path | Storage


def storage_of(store: Store) -> Storage:
    """The storage of a store; a path is a local folder."""
    return LocalStorage(store) if isinstance(store, Path) else store


def read(at: Storage, name: str) -> bytes:
    """The content of a small file; StoreError names it when it is absent."""
    try:
        with at.open(name) as file:
            return file.read()
    except FileNotFoundError as error:
        raise StoreError(f"{at}/{name}: no such file") from error


def sha256_of(at: Storage, name: str) -> str:
    """64 hex digits of a file's content, or `no file`."""
    digest = hashlib.sha256()
    try:
        with at.open(name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return "no file"
    return digest.hexdigest()
