"""Small stores for tests: a passage is a number; its vector, title and text follow from the number."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from wbrag.store.live import Live
from wbrag.store.manifest import Manifest, read_manifest
from wbrag.store.publish import publish
from wbrag.store.search import KnowledgeBase
from wbrag.store.storage import Store
from wbrag.store.vectors import spec_of

D = 8
SPEC = spec_of("flat_fp16", D)
ENCODER = "small-8d"


def vectors_of(numbers: Iterable[int]) -> np.ndarray:
    """A unit vector per number, the same for equal remainders by 7, so that there are ties."""
    drawn = [np.random.default_rng(number % 7).standard_normal(D) for number in numbers]
    array = np.array(drawn, dtype=np.float32).reshape(-1, D)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float16)


def encode(texts: list[str]) -> np.ndarray:
    """The encoder of these stores: reads the number off a passage's title."""
    return vectors_of(int(text.splitlines()[0]) for text in texts)


def table_of(numbers: Sequence[int]) -> pa.Table:
    """Passages p<number>, with one column of provenance."""
    columns = {"id": "p{}", "title": "{}", "text": "text of {}", "subject": "s{}"}
    return pa.table({name: pa.array([form.format(n) for n in numbers], pa.string()) for name, form in columns.items()})


def add(store: Store, numbers: Sequence[int], encoder: str = ENCODER) -> Manifest:
    """Publish these passages."""
    return publish(store, vectors_of(numbers), table_of(numbers), encoder, {"added": list(numbers)})


def answers(store: Store, version: int = 0, k: int = 1000) -> list[list[tuple[str, str, float]]]:
    """What a version answers to seven fixed queries: id, text and score of the k best."""
    found = KnowledgeBase(store, base_version=version).search(vectors_of(range(7)), k)
    return [[(d.id, d.text, d.score) for d in documents] for documents in found]


def live_numbers(store: Store, manifest: Manifest | int) -> list[int]:
    """The passages of a version in order of rows."""
    manifest = read_manifest(store, manifest) if isinstance(manifest, int) else manifest
    return [int(id[1:]) for id in Live(store, manifest).ids().to_pylist()]


def copy_of(store: Path, target: Path) -> Path:
    """A store's folder copied to `target`, which is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(store, target)
    return target


def unit_vectors(n: int, seed: int = 0, d: int = 16) -> np.ndarray:
    """Random directions, (n, d) float16."""
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def passages(n: int, prefix: str = "p") -> pa.Table:
    """Passages <prefix>0, <prefix>1, ... without provenance."""
    ids = [f"{prefix}{i}" for i in range(n)]
    return pa.table({"id": ids, "title": [f"title {i}" for i in ids], "text": [f"text {i}" for i in ids]})
