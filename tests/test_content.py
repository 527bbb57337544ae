"""A file's hash is remembered, and never for another content than it has."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.run import inputs
from wbrag.run.inputs import content_hash
from wbrag.store.files import sha256_bytes, sha256_file

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content is read, in order."""
    found: list[Path] = []

    def reading(path: Path) -> str:
        found.append(path)
        return sha256_file(path)

    monkeypatch.setattr(inputs, "sha256_file", reading)
    return found


def settled(path: Path, text: str) -> Path:
    """A file that was written an hour ago."""
    path.write_text(text)
    then = path.stat().st_mtime_ns - HOUR_NS
    os.utime(path, ns=(then, then))
    return path


def test_an_unchanged_file_is_read_once_by_whatever_path(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settled(tmp_path / "corpus.jsonl", "one")
    monkeypatch.chdir(tmp_path)
    found = [content_hash(path, tmp_path / "cache") for path in (file, Path("corpus.jsonl"), file)]
    assert found == [sha256_bytes(b"one")] * 3
    assert read == [file]
    assert content_hash(file, tmp_path / "other") == found[0]
    assert read == [file, file]


def test_a_changed_file_is_read_again_even_with_the_size_and_the_time_of_before(
    tmp_path: Path, read: list[Path]
) -> None:
    file = settled(tmp_path / "corpus.jsonl", "one")
    content_hash(file, tmp_path)
    then = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(then, then))
    assert content_hash(file, tmp_path) == sha256_bytes(b"two")
    assert read == [file, file]


@pytest.mark.parametrize("age", [0.0, 1.9, -60.0])
def test_a_file_that_may_still_be_written_is_read_every_time(tmp_path: Path, read: list[Path], age: float) -> None:
    """Age 0: written just now; below it: by a machine whose clock goes ahead."""
    file = settled(tmp_path / "corpus.jsonl", "one")
    then = file.stat().st_mtime_ns + HOUR_NS - int(age * 1e9)
    os.utime(file, ns=(then, then))
    for _ in range(2):
        assert content_hash(file, tmp_path) == sha256_bytes(b"one")
    assert read == [file, file]


@pytest.mark.parametrize("left", ["", '{"state": [3', "\0\0\0"])
def test_what_a_crash_left_of_a_note_is_no_note(tmp_path: Path, read: list[Path], left: str) -> None:
    file = settled(tmp_path / "corpus.jsonl", "one")
    content_hash(file, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text(left)
    for _ in range(2):
        assert content_hash(file, tmp_path / "cache") == sha256_bytes(b"one")
    assert read == [file, file]


@given(st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=6))
def test_the_hash_is_always_that_of_the_content(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("hashes")
    for text in texts:
        (folder / "f").write_text(text)
        assert content_hash(folder / "f", folder) == sha256_bytes(text.encode())


def test_runs_that_hash_at_once_do_not_damage_the_notes(tmp_path: Path) -> None:
    files = [settled(tmp_path / f"{i}.jsonl", str(i)) for i in range(4)]
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([content_hash(file, tmp_path / "cache") for file in files]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[sha256_bytes(str(i).encode()) for i in range(4)]] * 8
    assert len(list((tmp_path / "cache" / "hashes").iterdir())) == 4
