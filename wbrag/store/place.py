"""Where a store lies - a folder or a prefix in S3 - and the few operations that everything else is made of.

Names are relative and have slashes: `versions/000003.json`. A file is written once, under a name of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from wbrag.config import ConfigError
from wbrag.store.files import StoreError, cache_folder, create_exclusive, replace_file, scratch_folder, sha256_file

#: The Lance dataset of a store, and the folder of its records.
DATA, VERSIONS = "data.lance", "versions"
#: Bytes and sha256 of a file.
Facts: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class Place:
    """A folder, or a URL `s3://bucket/prefix`; credentials and endpoint come from the usual AWS variables. FAISS maps
    local files: of a store in S3 they are kept in `index/` of `cache_folder`, named by their content's hash.
    """

    root: str

    def __str__(self) -> str:
        return self.root

    @property
    def remote(self) -> bool:
        """Whether it is no folder of this machine's."""
        return "://" in self.root

    @property
    def data(self) -> str:
        """Where Lance finds the rows."""
        return f"{self.root}/{DATA}"

    @property
    def lance_options(self) -> dict[str, str] | None:
        """What Lance has to be told, as it does not know this variable."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        if not self.remote or not endpoint:
            return None
        return {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}

    @cached_property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec's
        from s3fs import S3FileSystem

        return S3FileSystem(use_listings_cache=False)

    def _key(self, name: str) -> str:
        return f"{self.root.partition('://')[2].rstrip('/')}/{name}"

    @property
    def kept(self) -> Path:
        """The folder of local copies."""
        return cache_folder() / "index"

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The object store's client; what goes wrong but what is not there or not allowed is a StoreError."""
        from botocore.exceptions import BotoCoreError

        try:
            yield self._files
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, BotoCoreError) as error:
            raise StoreError(f"{self}: the object store cannot be asked: {error}") from error

    def names(self, folder: str) -> list[str]:
        """What stands in a folder, sorted; nothing where there is no such folder."""
        if not self.remote:
            path = Path(self.root, folder)
            return sorted(one for one in os.listdir(path) if not one.startswith(".tmp-")) if path.is_dir() else []
        try:
            with self._asking() as files:
                found = files.ls(self._key(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(one.rstrip("/").rpartition("/")[2] for one in found)

    def stat(self, name: str) -> tuple[int, float] | None:
        """Bytes of a file and when it was written, seconds since the epoch; None where it is absent."""
        try:
            if not self.remote:
                found = Path(self.root, name).stat()
                return found.st_size, found.st_mtime
            with self._asking() as files:
                told = files.info(self._key(name), refresh=True)
                return int(told["size"]), float(told["LastModified"].timestamp())
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """The content of a small file; StoreError names it when it is absent."""
        try:
            if not self.remote:
                return Path(self.root, name).read_bytes()
            with self._asking() as files:
                return bytes(files.cat_file(self._key(name)))
        except FileNotFoundError:
            raise StoreError(f"{self}/{name}: no such file") from None

    def facts(self, name: str) -> Facts:
        """Bytes and sha256 of a file that is there; what was hashed is flushed to the disk."""
        with self._files.open(self._key(name), "rb") if self.remote else Path(self.root, name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not self.remote:
                os.fsync(file.fileno())
            return int(file.tell()), digest

    def fault(self, name: str, facts: Facts, full: bool = False) -> str:
        """What is wrong with a file that was written with these facts, "" for nothing; only `full` reads it."""
        if (told := self.stat(name)) is None:
            return f"{self}/{name}: no such file"
        if told[0] != facts[0]:
            return f"{self}/{name}: has {told[0]:,} bytes, was written with {facts[0]:,}"
        if full and (sha := self.facts(name)[1]) != facts[1]:
            return f"{self}/{name}: sha256 is {sha}, was written with {facts[1]}"
        return ""

    def create(self, name: str, data: bytes) -> bool:
        """Make a file appear, whole and flushed; False, and nothing changed, where it is there already."""
        if not self.remote:
            return create_exclusive(Path(self.root, name), data)
        try:
            self._files.pipe_file(self._key(name), data, mode="create")  # a conditional PUT
        except OSError:  # which error a refused condition becomes depends on the server
            if self.stat(name) is None:
                raise
            return False
        return True

    def put(self, name: str, source: Path) -> None:
        """Move a local file to this name, whole, in place of what was there."""
        if self.remote:
            self._files.put_file(str(source), self._key(name))
            source.unlink()
        else:
            replace_file(source, Path(self.root, name))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.remote:
            self._files.rm_file(self._key(name))  # S3 deletes what is not there without a word
        else:
            Path(self.root, name).unlink(missing_ok=True)

    def local(self, name: str, sha256: str) -> Path:
        """A file that is there on this machine: itself, or a checked copy in the cache. StoreError where it changed."""
        if not self.remote:
            return Path(self.root, name)
        kept = self.kept / f"{sha256}{Path(name).suffix}"
        if not kept.is_file():
            with scratch_folder(self.kept) as folder:
                self._files.get_file(self._key(name), str(folder / "copy"))
                if (found := sha256_file(folder / "copy")) != sha256:
                    raise StoreError(f"{self}/{name}: sha256 is {found}, the version says {sha256}")
                os.replace(folder / "copy", kept)
        return kept

    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder from which `put` moves; removed at the end."""
        return scratch_folder(self.kept if self.remote else Path(self.root))


#: What every function that people call takes as a store.
Where: TypeAlias = str | Path | Place


def place_of(where: Where) -> Place:
    """The place that a person names: a folder, `~` and relative ones too, or an `s3://` URL."""
    if isinstance(where, Place):
        return where
    url = re.fullmatch(r"(\w+):/+(.*)", str(where))  # a Path has lost a slash of it
    if not url:
        return Place(str(Path(where).expanduser().absolute()))
    if url[1] != "s3":
        raise ConfigError(f"store: {str(where)!r}: a store lies in a folder or under s3://, not under {url[1]}://")
    return Place(f"s3://{url[2]}".rstrip("/"))


def nothing_there(place: Place) -> StoreError:
    """What to say of a place that has no version: what it is instead, and where a store may be."""
    path, told = Path(place.root), "no version was ever published there; it is no store and no folder of a run"
    inside = [str(path / name) for name in ("base", "writeback") if (path / name / VERSIONS).is_dir()]
    if inside:
        told = f"is a run folder; its stores are {' and '.join(inside)}"
    elif path.is_file():
        told = "is a file, a store is a folder"
    elif not place.remote and not path.is_dir():
        told = "no such folder"
    return StoreError(f"{place}: {told}")
