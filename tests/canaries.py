"""Secrets that stand in the environment of the tests' Rays and of jobs on them, and are to stand nowhere else."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

#: The key of an endpoint, and what the hub's and S3's clients read by themselves.
KEY = "WBRAG_TEST_KEY"
NAMES = (KEY, "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SECRETS = {name: f"canary-{number}-sings" for number, name in enumerate(NAMES)}


def leaks(*places: Path | str) -> list[str]:
    """Where a secret is told: file and name, of files, of all files in folders, and of texts."""
    texts = [("text", place.encode()) for place in places if isinstance(place, str)]
    folders = [place for place in places if isinstance(place, Path)]
    files = [file for folder in folders for file in (folder, *folder.rglob("*")) if file.is_file()]
    texts += [(str(file), content(file)) for file in files]
    return [f"{where}: {name}" for where, text in texts for name, secret in SECRETS.items() if secret.encode() in text]


def content(file: Path) -> bytes:
    """What a file says; a table's rows unpacked."""
    if file.suffix == ".parquet":
        return str(pq.ParquetFile(file).read().to_pylist()).encode("utf-8", "replace")
    return file.read_bytes()
