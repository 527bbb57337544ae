"""A base index on its own, without a training run: built from a corpus, or adopted from one and its FAISS index."""

from __future__ import annotations

from pathlib import Path

from wbrag.config import BuildConfig
from wbrag.run.inputs import read_corpus
from wbrag.run.job import ray_session
from wbrag.store.build import build_store
from wbrag.store.exchange import adopt
from wbrag.store.place import place_of
from wbrag.store.vectors import check_index
from wbrag.store.versions import Version


def build_index(cfg: BuildConfig) -> Version:
    """Encode the corpus into the store `cfg.store`, or take over the vectors of `cfg.adopt`; returns the version.

    What the store holds already is not encoded again, and a killed build goes on. ConfigError for settings that cannot
    work, InputError and OverErrorBudget for the corpus, StoreError as `build_store` and `adopt` raise them.
    """
    check_index(cfg.index)
    store, note = place_of(cfg.store), {"corpus": cfg.corpus}
    if cfg.adopt:
        return adopt(Path(cfg.corpus), Path(cfg.adopt), store, cfg.encoder, note)
    beside = Path("cache") if store.remote else Path(f"{store.root}-cache")
    cache = Path(cfg.cache_dir or beside).absolute()
    corpus, _ = read_corpus(Path(cfg.corpus), cache, cfg.max_error_rate)
    with ray_session(cfg.cluster):
        return build_store(corpus, store, cfg.encoder, cfg.index, cfg.cluster, note)
