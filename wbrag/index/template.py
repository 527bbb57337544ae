"""The template of a store's IVF segments: an index that was trained once and is empty, named by its sha256."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wbrag.config import ConfigError
from wbrag.index.files import StoreError, sha256_bytes
from wbrag.index.vectors import Spec, empty_index

#: Vectors per list that a template is trained on: FAISS asks for 39 at least and takes 256 at most.
TRAINING_ROWS = 64


def train_template(vectors: np.ndarray, nlist: int) -> bytes:
    """An IVF index of `nlist` lists trained on (n, d) float16 vectors, empty, as FAISS writes it.

    The same vectors give the same bytes, whatever the number of threads (measured). ConfigError where there are fewer
    vectors than lists.
    """
    import faiss

    if not 1 <= nlist <= len(vectors):
        raise ConfigError(f"index.nlist={nlist}: {len(vectors)} vectors can be cut into 1 to {len(vectors)} lists")
    index = empty_index(Spec("ivf_fp16", vectors.shape[1], nlist=nlist))
    index.cp.min_points_per_centroid = 1  # no word on stderr for small corpora: every list gets a point at least
    index.train(vectors.astype(np.float32))
    return faiss.serialize_index(index).tobytes()


def templates_folder(store: Path) -> Path:
    """Where a store keeps the template of its IVF segments, `<sha256>.faiss`."""
    return store / "templates"


def read_template(store: Path, spec: Spec) -> bytes:
    """The template of a spec (b"" for a flat one); StoreError, with both hashes, for a file that changed."""
    if spec.template is None:
        return b""
    file = templates_folder(store) / f"{spec.template}.faiss"
    content = file.read_bytes() if file.is_file() else b""
    actual = sha256_bytes(content) if content else "no file"
    if actual != spec.template:
        raise StoreError(f"{file}: sha256 is {actual}, the spec says {spec.template}")
    return content
