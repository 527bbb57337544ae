"""The vectors of a segment as one FAISS file: unit norm, fp16, inner product; label = row number.

`flat_fp16` is searched exactly. `ivf_fp16` holds the same codes (no residuals, so scores are equal, bit for bit) in
lists around the centroids of a template: an index that was trained once and is empty. All segments of a store share
it, so that a search of several segments looks into the same lists as a search of one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbrag.config import ConfigError, Index
from wbrag.store.faissfile import merge_flat, merge_ivf, write_flat, write_ivf
from wbrag.store.files import StoreError, sha256_bytes

if TYPE_CHECKING:
    import faiss

#: fp16 rounds each component by at most 2**-11 of itself, so a unit vector's norm by no more than that.
NORM_TOLERANCE = 1e-3
#: Rows that are put into lists at once; the size of a passage row group, so that all builders cut alike.
ASSIGNED = 1024


@dataclass(frozen=True, slots=True)
class Spec:
    """How the vectors are stored; segments of one store have equal specs."""

    kind: str
    dimension: int
    metric: str = "inner_product"
    codec: str = "fp16"
    template: str | None = None  # sha256 of the trained, empty index; a flat one needs none
    nlist: int = 0  # lists of the template

    @property
    def space(self) -> tuple[int, str, str]:
        """What has to be equal for scores to be comparable: dimension, metric, codec."""
        return self.dimension, self.metric, self.codec


def spec_of(kind: str, dimension: int, template: bytes = b"", nlist: int = 0) -> Spec:
    """The spec for `config.Index.kind`, an IVF one with its template; ConfigError for a kind that is not known."""
    match kind:
        case "flat_fp16":
            return Spec(kind, dimension)
        case "ivf_fp16":
            return Spec(kind, dimension, template=sha256_bytes(template), nlist=nlist)
        case _:
            raise ConfigError(f"index.kind: {kind!r} is not known; choose 'flat_fp16' or 'ivf_fp16'")


def check_index(index: Index) -> None:
    """ConfigError, naming key and value, for a kind of index that is not known or lists that cannot be."""
    spec_of(index.kind, 0)
    for key in ("shards", "nlist", "nprobe"):
        if getattr(index, key) < 1:
            raise ConfigError(f"index.{key}={getattr(index, key)}: at least 1 is needed")


def use_threads(threads: int = 0) -> None:
    """Let FAISS use this many threads in this process; 0: every core (a Ray actor would get one otherwise)."""
    import faiss

    faiss.omp_set_num_threads(threads or len(os.sched_getaffinity(0)))


def faiss_version() -> str:
    """The version that writes, for the record."""
    import faiss

    return str(faiss.__version__)


def check_vectors(vectors: np.ndarray, where: str) -> None:
    """Refuse (StoreError) what is not an (n, d) float16 array of finite unit vectors, naming the first bad row."""
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise StoreError(f"{where}: vectors are {vectors.dtype} of shape {vectors.shape}, not float16 of shape (n, d)")
    norms = _norms(vectors)
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # written so that NaN is bad
    if len(bad):
        raise StoreError(f"{where}: row {bad[0]} has norm {norms[bad[0]]:.6g}, not 1 +- {NORM_TOLERANCE}")


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Norms (n,) of float16 rows, summed in float32; rows are decoded by FAISS, a few at a time, as the cache holds."""
    codec, norms = empty_index(Spec("flat_fp16", vectors.shape[1])), np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), ASSIGNED):
        codes = np.ascontiguousarray(vectors[start : start + ASSIGNED]).view(np.uint8)
        exact = codec.sa_decode(codes)
        norms[start : start + len(codes)] = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    return norms


def write_vectors(path: Path, blocks: Iterable[np.ndarray], spec: Spec, template: bytes = b"") -> int:
    """Write (n, d) float16 blocks, in order, as one FAISS file and return its rows; bad vectors are refused.

    `template` is what `template.read_template` gives. An IVF file takes twice its size in memory: cut a large one into
    shards.
    """
    checked = _checked(path, blocks, spec)
    if spec.kind == "flat_fp16":
        return write_flat(path, checked, spec.dimension)
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # BLAS may round another way when threads share a product
    try:
        return write_ivf(path, checked, template, spec.nlist, _nearest_lists(template))
    finally:
        faiss.omp_set_num_threads(threads)


def merge_vectors(path: Path, shards: Sequence[Path], spec: Spec, template: bytes = b"") -> int:
    """Write the rows of several FAISS files, in order, as one and return its rows; an unlike file is refused.

    Memory does not depend on the size of the index.
    """
    if spec.kind == "flat_fp16":
        return merge_flat(path, shards, spec.dimension)
    return merge_ivf(path, shards, template, spec.nlist)


def open_vectors(path: Path, spec: Spec) -> faiss.Index:
    """The FAISS index in a file, memory-mapped.

    StoreError when FAISS cannot read it or its type, lists, dimension, metric or codec are not the spec's.
    """
    import faiss

    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise StoreError(f"{path}: FAISS cannot read it: {error}") from error
    found, wanted = _facts(index), _facts(empty_index(spec))
    if found != wanted:
        raise StoreError(f"{path}: (type, dimension, metric, codec) is {found}, the spec says {wanted}")
    checked: faiss.Index = index
    return checked


def rows_of(index: faiss.Index, rows: np.ndarray | None = None) -> np.ndarray:
    """The stored vectors of these rows, or of all: (n, d) float16, bit for bit those that were written.

    The first look-up of single rows in an IVF index reads all its labels, to know in which list each row is.
    """
    ivf: Any = index
    if rows is None:
        found = ivf.reconstruct_n(0, index.ntotal)
    else:
        if hasattr(ivf, "invlists"):
            ivf.make_direct_map()
        found = ivf.reconstruct_batch(rows)
    return np.asarray(found).astype(np.float16)


def stored(index: faiss.Index, places: np.ndarray) -> np.ndarray:
    """The vectors at these places of the file, (n, d) float16: of a flat one its rows, of an IVF one list by list."""
    import faiss

    ivf: Any = index
    if not hasattr(ivf, "invlists"):
        return rows_of(index, places)
    ends = np.cumsum([ivf.get_list_size(number) for number in range(ivf.nlist)])
    found = []
    for place, number in zip(places, np.searchsorted(ends, places, side="right"), strict=True):
        size = ivf.get_list_size(int(number))
        codes = faiss.rev_swig_ptr(ivf.invlists.get_codes(int(number)), size * ivf.code_size)
        found.append(np.asarray(codes).view(np.float16).reshape(size, ivf.d)[place - ends[number] + size])
    return np.stack(found)


def codes_of(index: faiss.Index) -> np.ndarray:
    """All vectors of a flat index as one (n, d) float16 array, memory-mapped like the index it belongs to."""
    import faiss

    flat: Any = index
    codes = faiss.rev_swig_ptr(flat.codes.data(), index.ntotal * flat.code_size)
    return np.asarray(codes).view(np.float16).reshape(index.ntotal, index.d)


def search_parameters(spec: Spec, visible: np.ndarray | None, nprobe: int) -> faiss.SearchParameters | None:
    """Parameters under which FAISS (CPU) sees the rows that are True in `visible` (n,) only; None: all of them.

    nprobe: the lists that an IVF index looks into.
    """
    import faiss

    arguments: dict[str, Any] = {}
    if visible is not None:
        wrapped: Any = faiss.IDSelectorBitmap  # the stubs know the C++ constructor, not that for arrays
        arguments["sel"] = wrapped(np.packbits(visible, bitorder="little"))
    # As arguments, which FAISS's stubs lack: only so does the object keep the selector alive.
    if spec.kind == "ivf_fp16":
        return faiss.SearchParametersIVF(nprobe=min(nprobe, spec.nlist), **arguments)  # type: ignore[call-arg]
    return faiss.SearchParameters(**arguments) if arguments else None


def _checked(path: Path, blocks: Iterable[np.ndarray], spec: Spec) -> Iterable[np.ndarray]:
    for number, block in enumerate(blocks):
        where = f"{path}: block {number}"
        check_vectors(block, where)
        if block.shape[1] != spec.dimension:
            raise StoreError(f"{where} has dimension {block.shape[1]}, the spec says {spec.dimension}")
        yield block


def _nearest_lists(template: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The list of each row of a block; always asked for ASSIGNED rows at once, so that BLAS rounds alike."""
    import faiss

    index: Any = faiss.deserialize_index(np.frombuffer(template, dtype=np.uint8))

    def assign(block: np.ndarray) -> np.ndarray:
        parts = [block[start : start + ASSIGNED].astype(np.float32) for start in range(0, len(block), ASSIGNED)]
        return np.concatenate([np.asarray(index.quantizer.search(part, 1)[1])[:, 0] for part in parts])

    return assign


def _facts(index: Any) -> tuple[object, ...]:  # noqa: ANN401 - any class that FAISS has
    codec = getattr(getattr(index, "sq", None), "qtype", None)
    lists = f" of {index.nlist} lists" if hasattr(index, "nlist") else ""
    return type(index).__name__ + lists, index.d, index.metric_type, codec


def empty_index(spec: Spec) -> Any:  # noqa: ANN401 - one of two classes
    """A FAISS index of this spec without rows; an IVF one is not trained."""
    import faiss

    codec, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    if spec.kind == "flat_fp16":
        return faiss.IndexScalarQuantizer(spec.dimension, codec, metric)
    centroids = faiss.IndexFlatIP(spec.dimension)
    return faiss.IndexIVFScalarQuantizer(centroids, spec.dimension, spec.nlist, codec, metric, False)
