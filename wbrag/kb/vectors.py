"""FAISS files: one for each fragment, named by what it is made from, and made again where it is missing or damaged.

Labels are the rows of the fragment. An index is a cache of the data: no version stands on it as on its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbrag.kb.place import Place, StoreError, dump
from wbrag.kb.versions import Facts
from wbrag.store.files import StoreError as FileError
from wbrag.store.vectors import ASSIGNED, Spec, check_vectors, codes_of, empty_index, open_vectors, stored

if TYPE_CHECKING:
    import faiss

INDEX, TEMPLATES = "index", "templates"
#: Rows of an index that are held against the data when it is opened.
PROBES = 3


def index_name(data: Mapping[str, Facts], spec: Spec) -> str:
    """The file of the index over a fragment with these data files, stored as `spec` says."""
    told = dump([sorted((name, *facts) for name, facts in data.items()), asdict(spec)])
    return f"{INDEX}/{hashlib.sha256(told).hexdigest()[:32]}.faiss"


def template_name(spec: Spec) -> str:
    """The file of a spec's template, the empty index with its lists."""
    return f"{TEMPLATES}/{spec.template}.faiss"


def read_template(place: Place, spec: Spec) -> bytes:
    """The template of a spec, b"" for a flat one; StoreError, with both hashes, for a file that changed."""
    if spec.template is None:
        return b""
    data = place.read(template_name(spec))
    if (found := hashlib.sha256(data).hexdigest()) != spec.template:
        raise StoreError(f"{place}/{template_name(spec)}: sha256 is {found}, the version says {spec.template}")
    return data


def write_index(place: Place, name: str, vectors: np.ndarray, spec: Spec, template: bytes) -> Facts:
    """Make the index over (n, d) float16 unit vectors and put it there; what is there already is replaced."""
    import faiss

    try:
        check_vectors(vectors, f"{place}/{name}")
    except FileError as error:
        raise StoreError(str(error)) from error
    if vectors.shape[1] != spec.dimension:
        raise StoreError(f"{place}/{name}: dimension is {vectors.shape[1]}, the store's is {spec.dimension}")
    with place.scratch() as folder:
        faiss.write_index(made_index(vectors, spec, template), str(folder / "index"))
        facts = _facts(folder / "index")
        place.put(name, folder / "index")
    return facts


def made_index(vectors: np.ndarray, spec: Spec, template: bytes) -> Any:  # noqa: ANN401 - one of two classes
    """A FAISS index over (n, d) float16 vectors, their bits as they are; the same vectors give the same bytes."""
    import faiss

    if spec.kind == "flat_fp16":
        flat = empty_index(spec)
        flat.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
        return flat
    index: Any = faiss.deserialize_index(np.frombuffer(template, dtype=np.uint8))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # BLAS may round another way when threads share a product
    try:
        for start in range(0, len(vectors), ASSIGNED):
            index.add(vectors[start : start + ASSIGNED].astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def open_index(place: Place, name: str, facts: Facts, spec: Spec, rows: int) -> faiss.Index:
    """The index in a file, memory-mapped. StoreError where it is absent, cut, of other rows or of another kind."""
    path = place.local(name, facts[1])
    if not path.is_file() or path.stat().st_size != facts[0]:
        found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no such file"
        raise StoreError(f"{place}/{name}: {found}, the version says {facts[0]:,} bytes")
    try:
        index = open_vectors(path, spec)
    except FileError as error:
        raise StoreError(str(error)) from error
    if index.ntotal != rows:
        raise StoreError(f"{place}/{name}: holds {index.ntotal:,} vectors, its fragment has {rows:,} rows")
    return index


def probed(index: faiss.Index) -> tuple[np.ndarray, np.ndarray]:
    """Some places of an index, spread evenly, as the rows that stand there and their vectors (n, d) float16."""
    rows = np.unique(np.linspace(0, index.ntotal - 1, min(PROBES, index.ntotal)).astype(np.int64))
    lists: Any = index
    if not hasattr(lists, "invlists"):
        return rows, codes_of(index)[rows]
    return _ids(lists, rows), stored(index, rows)


def _ids(index: Any, places: np.ndarray) -> np.ndarray:  # noqa: ANN401 - an IVF index
    import faiss

    ends = np.cumsum([index.get_list_size(number) for number in range(index.nlist)])
    found = []
    for place, number in zip(places, np.searchsorted(ends, places, side="right"), strict=True):
        size = index.get_list_size(int(number))
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(int(number)), size)
        found.append(int(ids[place - ends[number] + size]))
    return np.array(found, dtype=np.int64)


def _facts(path: Path) -> Facts:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
