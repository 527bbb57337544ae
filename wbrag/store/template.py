"""The template of a store's IVF segments: an index that was trained once and is empty, named by its sha256."""

from __future__ import annotations

import numpy as np

from wbrag.config import ConfigError
from wbrag.store.files import StoreError, sha256_bytes
from wbrag.store.storage import Store, read, storage_of
from wbrag.store.vectors import Spec, empty_index

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


def template_name(sha256: str) -> str:
    """Where a store keeps the template with this hash."""
    return f"templates/{sha256}.faiss"


def read_template(store: Store, spec: Spec) -> bytes:
    """The template of a spec (b"" for a flat one); StoreError, with both hashes, for a file that changed."""
    if spec.template is None:
        return b""
    at, name = storage_of(store), template_name(spec.template)
    content = read(at, name)
    if (actual := sha256_bytes(content)) != spec.template:
        raise StoreError(f"{at}/{name}: sha256 is {actual}, the spec says {spec.template}")
    return content
