"""A store under a prefix of an object store (S3), through fsspec.

An object is created exclusively by a conditional PUT (`If-None-Match: *`). FAISS and Parquet map local files, so
segments are downloaded, checked and kept in a local cache under the sha256 of their segment.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from wbrag.config import ConfigError
from wbrag.store.files import make_folder, move_into_place, scratch_folder, sha256_file
from wbrag.store.storage import SEGMENTS, Store

#: Object stores known to create exclusively through fsspec's `pipe_file(mode="create")`; memory is for tests.
SCHEMES = ("s3", "memory")


@dataclass(frozen=True)
class ObjectStorage:
    """A prefix of an object store; `cache` is a local folder, `options` go to the file system."""

    url: str
    cache: Path
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> tuple[Any, str]:
        """The file system (fsspec keeps one for equal options) and the key of a name; listings are not cached."""
        from fsspec.core import url_to_fs

        files, root = url_to_fs(self.url, use_listings_cache=False, **self.options)
        return files, f"{root.rstrip('/')}/{name}"

    def names(self, folder: str) -> list[str]:
        """What stands under a prefix, sorted."""
        files, key = self._at(folder)
        try:
            return sorted(found.rstrip("/").rpartition("/")[2] for found in files.ls(key, detail=False, refresh=True))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int | None:
        """Bytes of an object."""
        files, key = self._at(name)
        try:
            return int(files.info(key, refresh=True)["size"])
        except FileNotFoundError:
            return None

    def age(self, name: str) -> float:
        """By the object store's own modification times."""
        files, key = self._at(name)
        times = [files.modified(found).timestamp() for found in files.find(key)]
        return time.time() - max(times, default=-float("inf"))

    def open(self, name: str) -> BinaryIO:
        """An object's content."""
        files, key = self._at(name)
        stream: BinaryIO = files.open(key, "rb")
        return stream

    def create(self, name: str, data: bytes) -> bool:
        """Put if absent, by a conditional PUT."""
        files, key = self._at(name)
        try:
            files.pipe_file(key, data, mode="create")
        except OSError:  # which error a refused condition becomes depends on the server
            if self.size(name) is None:
                raise
            return False
        return True

    def put(self, name: str, source: Path) -> None:
        """Upload."""
        files, key = self._at(name)
        files.put_file(str(source), key)

    def touch(self, name: str) -> None:
        """Write the same bytes again."""
        files, key = self._at(name)
        files.pipe_file(key, files.cat_file(key))

    def remove(self, name: str) -> None:
        """segment.json goes first: a segment without it is none."""
        files, key = self._at(name)
        for found in sorted(files.find(key), key=lambda found: not found.endswith(".json")):
            files.rm_file(found)

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder in the cache."""
        return scratch_folder(self.cache)

    def add_segment(self, folder: Path, segment: str) -> Path:
        """Upload, segment.json last, and keep the folder in the cache."""
        if self.size(f"{SEGMENTS}/{segment}/segment.json") is None:
            for file in sorted(folder.iterdir(), key=lambda file: file.suffix == ".json"):
                self.put(f"{SEGMENTS}/{segment}/{file.name}", file)
        return self._keep(folder, segment, sha256_file(folder / "segment.json"))

    def segment(self, segment: str, sha256: str, check: Callable[[Path, str], None]) -> Path:
        """From the cache, or downloaded, checked and kept there."""
        kept = self.cache / sha256 / segment
        if kept.is_dir():
            return kept
        with self.scratch() as scratch:
            folder = scratch / segment
            folder.mkdir()
            files, key = self._at(f"{SEGMENTS}/{segment}")
            for name in self.names(f"{SEGMENTS}/{segment}"):
                files.get_file(f"{key}/{name}", str(folder / name))
            check(folder, sha256)
            return self._keep(folder, segment, sha256)

    def _keep(self, folder: Path, segment: str, sha256: str) -> Path:
        make_folder(self.cache / sha256)
        move_into_place(folder, self.cache / sha256 / segment)
        return self.cache / sha256 / segment


def open_storage(where: str, cache: Path, **options: Any) -> Store:  # noqa: ANN401 - they are the file system's
    """The store that a configuration names: a folder, or a URL such as `s3://bucket/prefix`.

    `cache`: local folder for downloaded segments; `options`: for the object store's client (endpoint, credentials).
    ConfigError for a scheme that is not known to create exclusively.
    """
    scheme, found, _ = where.partition("://")
    if not found:
        return Path(where)
    if scheme not in SCHEMES:
        raise ConfigError(f"store: {where!r}: cannot commit to {scheme!r}; choose a folder or {', '.join(SCHEMES)}")
    return ObjectStorage(where, cache, options)
