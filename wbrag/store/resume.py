"""The scratch folder of a build, found again by its name after a kill: what was finished there is not made again.

A file is finished when its sha256 lies beside it, and it is used again only if it still has that hash. So a crash of
the machine, after which a renamed file may be empty, costs work and never correctness.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wbrag.store.files import StoreError, make_folder, sha256_file


@contextmanager
def resumable_folder(parent: Path, name: str) -> Iterator[Path]:
    """The folder `.build-<name>` under `parent`, this process's alone for the block.

    It is removed at the end, unless the block was cut off or failed with finished files in it. `name` is a hash of all
    that decides what these contain. StoreError while another process works there.
    """
    folder = parent / f".build-{name}"
    make_folder(folder)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{folder}: another process is building this very index") from error
        keep = True
        try:
            yield folder
            keep = False
        finally:
            if not (keep and any(folder.rglob("*.sha256"))):
                shutil.rmtree(folder, ignore_errors=True)  # left over, it is unreferenced and harmless


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """The block when no other process is in one with this lock file; who has to wait says so. A killed one lets go."""
    make_folder(lock.parent)
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run ({lock})", file=sys.stderr, flush=True)  # noqa: T201
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def finished(path: Path) -> bool:
    """Whether `finish` made this file and it still has the sha256 that was noted; a file that changed is removed."""
    note = _note(path)
    if not (path.is_file() and note.is_file()):
        return False
    if sha256_file(path) == note.read_text():
        return True
    note.unlink()
    path.unlink()
    return False


def finish(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make the file, under another name first, unless it is finished already; returns `path`."""
    if not finished(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f".tmp-{uuid.uuid4().hex}"
        write(partial)
        digest = sha256_file(partial)
        os.replace(partial, path)
        partial.write_text(digest)
        os.replace(partial, _note(path))
    return path


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
