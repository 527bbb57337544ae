"""The vectors of a store in FAISS, a file for each fragment: unit norm, fp16, inner product; label = row of it.

`flat_fp16` is searched exactly. `ivf_fp16` holds the same codes (no residuals, so scores are equal, bit for bit) in
lists around the centroids of a template: an index that was trained once and is empty. All fragments of a store share
it, so that a search of several looks into the same lists as a search of one.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbrag.config import ConfigError, Index, check_values
from wbrag.store.files import StoreError, sha256_bytes, sha256_file
from wbrag.store.place import Facts, Place

INDEX, TEMPLATES = "index", "templates"
#: Rows of an index that are held against the data when it is opened.
PROBES = 3
#: Vectors per list that a template is trained on: FAISS asks for 39 at least and takes 256 at most.
TRAINING_ROWS = 64
#: fp16 rounds each component by at most 2**-11 of itself, so a unit vector's norm by no more than that.
NORM_TOLERANCE = 1e-3
#: Rows that are decoded, or put into lists, at once: as many as the cache holds.
ROWS = 1024
#: Inner products in float64 that differ by no more are those of equal vectors, added up in another order.
EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Spec:
    """How the vectors are stored; those of one store are equal."""

    kind: str
    dimension: int
    metric: str = "inner_product"
    codec: str = "fp16"
    template: str | None = None  # sha256 of the trained, empty index; a flat one needs none
    nlist: int = 0  # lists of the template


def spec_of(kind: str, dimension: int, template: bytes = b"", nlist: int = 0) -> Spec:
    """The spec for `config.Index.kind`, an IVF one with its template."""
    return Spec(kind, dimension, template=sha256_bytes(template) if template else None, nlist=nlist)


def check_index(index: Index) -> None:
    """ConfigError, naming key and value, for a kind of index that is not known or lists that cannot be."""
    least = dict.fromkeys(("fragment_rows", "nlist", "nprobe"), 1)
    check_values(index, "index.", {"kind": ("flat_fp16", "ivf_fp16")}, least)


def check_vectors(vectors: np.ndarray, where: str) -> None:
    """Refuse (StoreError) what is not an (n, d) float16 array of finite unit vectors, naming the first bad row."""
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise StoreError(f"{where}: vectors are {vectors.dtype} of shape {vectors.shape}, not float16 of shape (n, d)")
    codec = empty_index(Spec("flat_fp16", vectors.shape[1]))  # it decodes them, as in a search
    for start in range(0, len(vectors), ROWS):
        exact = codec.sa_decode(np.ascontiguousarray(vectors[start : start + ROWS]).view(np.uint8))
        norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # written so that NaN is bad
        if len(bad):
            told = f"row {start + bad[0]} has norm {norms[bad[0]]:.6g}"
            raise StoreError(f"{where}: {told}, not 1 +- {NORM_TOLERANCE}")


def mapped(path: Path) -> Any:  # noqa: ANN401 - any class that FAISS has
    """The FAISS index in a file, memory-mapped; StoreError where FAISS cannot read it."""
    import faiss

    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        if not path.is_file():
            raise StoreError(f"{path}: no such file") from error
        said = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error))  # where in FAISS
        raise StoreError(
            f"{path}: FAISS cannot read it: it is damaged, or no index of float vectors ({said})"
        ) from error


def codes_of(index: Any) -> np.ndarray:  # noqa: ANN401 - a flat index
    """All vectors of a flat index, (n, d) float16 or of an IndexFlat float32, mapped while the index lives."""
    import faiss

    codes = np.asarray(faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size))
    return codes.view(np.float16 if hasattr(index, "sq") else np.float32).reshape(index.ntotal, index.d)


def search_parameters(spec: Spec, visible: np.ndarray | None, nprobe: int) -> Any:  # noqa: ANN401 - FAISS's, or None
    """FAISS's, with which it sees the rows that are True in `visible` (n,), None: all, and `nprobe` lists of an IVF."""
    import faiss

    arguments: dict[str, Any] = {}
    if visible is not None:
        wrapped: Any = faiss.IDSelectorBitmap  # the stubs know the C++ constructor, not that for arrays
        arguments["sel"] = wrapped(np.packbits(visible, bitorder="little"))
    # As arguments, which FAISS's stubs lack: only so does the object keep the selector alive.
    if spec.kind == "ivf_fp16":
        return faiss.SearchParametersIVF(nprobe=min(nprobe, spec.nlist), **arguments)  # type: ignore[call-arg]
    return faiss.SearchParameters(**arguments) if arguments else None


def empty_index(spec: Spec) -> Any:  # noqa: ANN401 - one of two classes
    """A FAISS index of this spec without rows; an IVF one is not trained."""
    import faiss

    codec, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    if spec.kind == "flat_fp16":
        return faiss.IndexScalarQuantizer(spec.dimension, codec, metric)
    centroids = faiss.IndexFlatIP(spec.dimension)
    return faiss.IndexIVFScalarQuantizer(centroids, spec.dimension, spec.nlist, codec, metric, False)


def flat_index(vectors: np.ndarray) -> Any:  # noqa: ANN401 - SWIG
    """A flat FAISS index over (n, d) float16 vectors, their bits as they are."""
    index = empty_index(Spec("flat_fp16", vectors.shape[1]))
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return index


def train_template(vectors: np.ndarray, nlist: int, gpu: bool = False) -> bytes:
    """An IVF index of `nlist` lists trained on (n, d) float16 vectors, empty, as FAISS writes it: for the same vectors
    the same bytes, whatever the number of threads (measured). `gpu`: on the CUDA device, if FAISS has one, which makes
    other bytes. ConfigError where there are fewer vectors than lists.
    """
    import faiss

    if not 1 <= nlist <= len(vectors):
        raise ConfigError(f"index.nlist={nlist}: {len(vectors)} vectors can be cut into 1 to {len(vectors)} lists")
    index = empty_index(Spec("ivf_fp16", vectors.shape[1], nlist=nlist))
    index.cp.min_points_per_centroid = 1  # no word on stderr for small corpora: every list gets a point at least
    if gpu and gpus():
        on_device = sent(faiss.IndexFlatIP(vectors.shape[1]))  # by name: the index does not keep it alive
        index.clustering_index = on_device
    index.train(vectors.astype(np.float32))
    return faiss.serialize_index(index).tobytes()


def template_name(spec: Spec) -> str:
    """The file of a spec's template, the empty index with its lists."""
    return f"{TEMPLATES}/{spec.template}.faiss"


def index_file(place: Place, path: Path, vectors: np.ndarray, spec: Spec, gpu: bool = False) -> Facts:
    """Write the index over (n, d) float16 vectors as a file; the same vectors give the same bytes, on whatever device
    their lists are found (`gpu`: on the CUDA device, if FAISS has one). StoreError, naming `place`, for vectors of
    another kind, and for a template that changed.
    """
    import faiss

    check_vectors(vectors, str(place))
    if vectors.shape[1] != spec.dimension:
        raise StoreError(f"{place}: dimension is {vectors.shape[1]}, the store's is {spec.dimension}")
    faiss.write_index(_in_lists(place, vectors, spec, gpu) if spec.template else flat_index(vectors), str(path))
    return path.stat().st_size, sha256_file(path)


def _in_lists(place: Place, vectors: np.ndarray, spec: Spec, gpu: bool) -> Any:  # noqa: ANN401 - FAISS's
    """The template of a spec with these vectors in its lists."""
    import faiss

    template = place.read(template_name(spec))
    if (found := sha256_bytes(template)) != spec.template:
        raise StoreError(f"{place}/{template_name(spec)}: sha256 is {found}, the version says {spec.template}")
    index: Any = faiss.deserialize_index(np.frombuffer(template, dtype=np.uint8))
    centroids = index.quantizer.reconstruct_n(0, spec.nlist).astype(np.float64)
    quantizer, rows = (sent(index.quantizer), 8 * ROWS) if gpu and gpus() else (index.quantizer, ROWS)
    for start in range(0, len(vectors), rows):
        xb = vectors[start : start + rows].astype(np.float32)
        lists = lists_of(xb, quantizer, centroids)
        index.add_core(len(xb), faiss.swig_ptr(xb), None, faiss.swig_ptr(lists))
    return index


def lists_of(xb: np.ndarray, quantizer: Any, centroids: np.ndarray) -> np.ndarray:  # noqa: ANN401 - FAISS's
    """The list of each vector (n, d) float32: that of the nearest centroid (nlist, d) float64, of equals the first;
    (n,) int64. `quantizer` searches the centroids, in float32.

    Devices, BLAS libraries and numbers of threads round float32 differently. Where that can decide between the best
    two, float64 does, so that an index is made again byte for byte on any of them.
    """
    D, I = quantizer.search(xb, 2)  # noqa: E741 - FAISS's names
    # An inner product of unit vectors is off by d * 2**-24 at most, however it is summed; 2**-22 leaves room for two.
    close = np.flatnonzero(D[:, 0] - D[:, 1] <= xb.shape[1] * 2.0**-22)
    exact = xb[close].astype(np.float64) @ centroids.T
    I[close, 0] = (exact >= exact.max(axis=1, keepdims=True) - EQUAL).argmax(axis=1)
    return np.ascontiguousarray(I[:, 0])


def gpus() -> int:
    """CUDA devices that this process's FAISS can use; 0 with the CPU build."""
    import faiss

    return int(faiss.get_num_gpus())


def sent(index: Any) -> Any:  # noqa: ANN401 - FAISS's
    """A copy of a flat FAISS index on this process's first CUDA device."""
    import faiss

    return faiss.index_cpu_to_gpu(gpu_resources(), 0, index)


@functools.cache
def gpu_resources() -> Any:  # noqa: ANN401 - a class that only FAISS's GPU build has
    """FAISS's streams and working memory on the devices, for all that this process does there."""
    import faiss

    return faiss.StandardGpuResources()


def open_index(place: Place, name: str, facts: Facts, shape: tuple[int, int]) -> Any:  # noqa: ANN401 - FAISS's
    """The index in a file over vectors of shape (n, d), memory-mapped. StoreError: absent, cut, another."""
    if fault := place.fault(name, facts):
        raise StoreError(fault)
    index = mapped(place.local(name, facts[1]))
    if (found := (index.ntotal, index.d)) != shape:
        raise StoreError(f"{place}/{name}: its vectors have shape {found}, those of its fragment {shape}")
    return index


def probed(index: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401 - FAISS's
    """A few rows of an index, spread evenly over it, and their vectors (n, d) float16."""
    import faiss

    lists = [number for number in range(index.nlist) if index.get_list_size(number)] if hasattr(index, "nlist") else []
    places = np.unique(np.linspace(0, (len(lists) or index.ntotal) - 1, PROBES).astype(np.int64))
    if not lists:
        return places, codes_of(index)[places]
    some = [lists[place] for place in places]
    rows = np.concatenate([faiss.rev_swig_ptr(index.invlists.get_ids(number), 1) for number in some])
    codes = [faiss.rev_swig_ptr(index.invlists.get_codes(number), index.code_size) for number in some]
    return rows, np.stack(codes).view(np.float16)
