"""A layer under the file operations of this process that ends it, as it were, at a chosen one, and pulls the plug.

`crash_at(root, step, how)` counts the operations that change files: opening for writing, every write, flush, link,
rename, removal, folder; of those under `root` the step-th raises `Crash`, and after it nothing can be done any more,
as in a dead process. `how`: "before" the operation; "torn", a write after half of its bytes, another operation after it
has happened; "power", like torn, and then content that was never flushed is lost: files are cut; "unnamed", like power,
and new names are lost too, unless their folder was flushed.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

How = Literal["before", "torn", "power", "unnamed"]
NAMED = ("link", "rename", "replace", "unlink", "mkdir", "rmdir", "remove")


class Crash(BaseException):
    """The end of the process; no `except Exception` of the code under test may stop it."""


class Faults:
    """What was done so far, and when to stop; `fail` is called at the step, and may raise."""

    def __init__(self, root: Path, step: int, how: How, fail: Callable[[], None]) -> None:
        self.root, self.step, self.how, self.fail = str(root.resolve()), step, how, fail
        self.done = 0
        self.dead = self.losing = False
        self.unflushed: set[tuple[int, int]] = set()
        self.names: list[tuple[str, str, str]] = []  # operation, source, target: folder not flushed yet
        self.replaced: dict[str, bytes] = {}  # what stood at a target before

    def ours(self, path: object) -> bool:
        """Whether an operation's path lies under the root."""
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.root)

    def around(self, operation: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Do an operation, or crash before it, in its midst or after it."""
        if self.losing:
            return operation()
        if self.dead:
            raise Crash
        here = self.done == self.step
        self.done += 1
        if not here:
            return operation()
        if self.how != "before":
            with suppress(OSError):  # an operation that fails may be the last one too
                (half or operation)()
        self._stop()
        return operation()  # `fail` did not raise

    def _stop(self) -> None:
        try:
            self.fail()
        except Crash:
            self.dead = True
            if self.how in ("power", "unnamed"):
                self.lose_power()
            raise

    def wrote(self, path: str | Path) -> None:
        """Content of this file is not on the disk yet."""
        found = os.stat(path)
        if not self.losing:
            self.unflushed.add((found.st_dev, found.st_ino))

    def flushed(self, path: str) -> None:
        """A file's content, or a folder's names, are on the disk."""
        found = os.stat(path)
        self.unflushed.discard((found.st_dev, found.st_ino))
        self.names = [entry for entry in self.names if os.path.dirname(entry[2]) != path]

    def lose_power(self) -> None:
        """Undo what was not flushed."""
        self.losing = True
        for operation, source, target in reversed(list(self.names) if self.how == "unnamed" else []):
            if os.path.lexists(target):
                self._undo(operation, source, target)
        for folder, _, files in os.walk(self.root):
            for name in files:
                path = os.path.join(folder, name)
                found = os.stat(path)
                if (found.st_dev, found.st_ino) in self.unflushed:
                    os.truncate(path, found.st_size // 2)
        self.losing = False

    def _undo(self, operation: str, source: str, target: str) -> None:
        if operation == "rename" and os.path.isdir(os.path.dirname(source)):
            os.rename(target, source)
        elif operation in ("rename", "mkdir"):  # of a rename: the folder it came from is gone
            shutil.rmtree(target)
        elif operation == "replace" and target in self.replaced:
            Path(target).write_bytes(self.replaced[target])
        else:
            os.unlink(target)


class _File:
    """A file open for writing; its writes are operations."""

    def __init__(self, file: Any, path: str, faults: Faults) -> None:  # noqa: ANN401
        self._file, self._path, self._faults = file, path, faults

    def write(self, data: Any) -> int:  # noqa: ANN401
        def whole() -> int:
            written = self._file.write(data)
            self._file.flush()
            self._faults.wrote(self._path)
            return int(written)

        def half() -> None:
            raw = data if isinstance(data, str) else memoryview(data).cast("B")
            self._file.write(raw[: len(raw) // 2])
            self._file.flush()
            self._faults.wrote(self._path)

        return int(self._faults.around(whole, half))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _patch_named(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    def guarded(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            # shutil.rmtree works relative to an open folder; such a call belongs to the store under test as well.
            if not faults.ours(args[0]) and kwargs.get("dir_fd") is None:
                return original(*args, **kwargs)

            def operation() -> Any:  # noqa: ANN401
                source, target = os.path.abspath(args[0]), os.path.abspath(args[-1] if name != "mkdir" else args[0])
                if name == "replace" and os.path.isfile(target):
                    faults.replaced[target] = Path(target).read_bytes()
                result = original(*args, **kwargs)
                if name in ("link", "rename", "replace", "mkdir"):
                    faults.names.append((name, source, target))
                return result

            return faults.around(operation)

        return call

    for name in NAMED:
        patch.setattr(os, name, guarded(name, getattr(os, name)))


def _patch_open(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    opened, fsynced = io.open, os.fsync

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not faults.ours(file) or not set(mode) & set("wxa+"):
            return opened(file, mode, *args, **kwargs)
        stream = faults.around(lambda: opened(file, mode, *args, **kwargs))
        faults.wrote(file)
        return _File(stream, str(file), faults)

    def flushing(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")

        def operation() -> None:
            fsynced(descriptor)
            faults.flushed(path)

        faults.around(operation, half=lambda: None) if faults.ours(path) else fsynced(descriptor)

    patch.setattr(io, "open", opening)
    patch.setattr(os, "fsync", flushing)


def _patch_parquet(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    import pyarrow.parquet as pq

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(writer: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            def operation() -> Any:  # noqa: ANN401
                result = original(writer, *args, **kwargs)
                faults.wrote(writer.where)
                return result

            if not faults.ours(writer.where):
                return original(writer, *args, **kwargs)
            try:
                return faults.around(operation)
            except Crash:
                writer.is_open = False  # or it would finish its file when it is collected
                raise

        return call

    for name in ("write_table", "close"):
        patch.setattr(pq.ParquetWriter, name, guarded(getattr(pq.ParquetWriter, name)))


@contextmanager
def faults_at(root: Path, step: int, how: How, fail: Callable[[], None]) -> Iterator[Faults]:
    """Call `fail` at the step-th file operation under `root`; `Faults.done` counts them."""
    faults = Faults(root, step, how, fail)
    with pytest.MonkeyPatch.context() as patch:
        _patch_named(patch, faults)
        _patch_open(patch, faults)
        _patch_parquet(patch, faults)
        yield faults


def crashes(root: Path, step: int, how: How, work: Callable[[], object]) -> bool:
    """Do some work on `root` with a crash at its step-th file operation; False when the work has fewer.

    Then what is left shows what lasts: with "power" and "unnamed" the power is lost when the work is done.
    """

    def fail() -> None:
        raise Crash

    with faults_at(root, step, how, fail) as faults:
        try:
            work()
        except Crash:
            assert faults.dead
            return True
        if how in ("power", "unnamed"):
            faults.lose_power()
    return False
