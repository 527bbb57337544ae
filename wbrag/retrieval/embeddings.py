"""The encoder behind an OpenAI-compatible endpoint for embeddings."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import openai

from wbrag import config
from wbrag.retrieval.encoder import Encoder, unit_fp16

#: Times that a request to an endpoint is tried again.
ENDPOINT_RETRIES = 6
#: Bytes of UTF-8 that a token has at least, nearly: an endpoint does not say how it counts.
BYTES_A_TOKEN = 3


class EndpointEncoder(Encoder):
    """The embeddings of any OpenAI-compatible endpoint, `batch_size` texts a request. Their vectors are told apart by
    the model's name, not by who serves it.

    ConfigError, with what the endpoint said last, where it refuses, does not answer, or gives vectors of another
    length than `dimension`; what may pass (429, 5xx, broken connections) the openai SDK tries again.
    """

    def __init__(self, cfg: config.Encoder) -> None:
        name = cfg.api_key_env
        key = os.environ.get(name, "").strip() if name else ""
        if name and not (key and key.isascii() and key.isprintable()):
            told = "it is not set, empty, or holds characters that no key has"
            raise config.ConfigError(f"encoder.api_key_env={name!r}: {told}")
        if not cfg.base_url.startswith(("http://", "https://")):
            raise config.ConfigError(f"encoder.base_url={cfg.base_url!r} is no URL; it ends in /v1 as a rule")
        self.client = openai.OpenAI(api_key=key or "none", base_url=cfg.base_url, max_retries=ENDPOINT_RETRIES)
        self.cfg, self.key = cfg, key
        super().__init__(cfg, len(self._asked(["dimension"])[0]), cfg.model)

    def _encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float16)
        size = self.cfg.batch_size
        found = [row for start in range(0, len(texts), size) for row in self._asked(texts[start : start + size])]
        return unit_fp16(np.array(found, dtype=np.float32))

    def _asked(self, texts: list[str]) -> list[list[float]]:
        """The vectors of these texts, in order. Each is cut as `max_length` tokens are at most, of BYTES_A_TOKEN: an
        endpoint refuses a whole request for one that is too long, or empty.
        """
        most = self.cfg.max_length * BYTES_A_TOKEN
        cut = [text.encode()[:most].decode(errors="ignore") if text.strip() else "-" for text in texts]
        asked: dict[str, Any] = {"dimensions": self.cfg.dimension} if self.cfg.dimension else {}
        where = f"{self.cfg.base_url} (encoder.model {self.cfg.model})"
        try:
            reply = self.client.embeddings.create(model=self.cfg.model, input=cut, encoding_format="float", **asked)
            found = [list(one.embedding) for one in sorted(reply.data, key=lambda one: one.index)]
        except (openai.APIError, AttributeError, TypeError) as error:
            told = " ".join(str(error).split())[:300]
            told = told.replace(self.key, "(the key)") if self.key else told
            raise config.ConfigError(f"{where}: no embeddings: {told}") from None  # the cause may quote the key
        if len(found) != len(texts) or {len(row) for row in found} != {self.cfg.dimension or len(found[0])}:
            got = f"{len(found)} vectors of {sorted({len(row) for row in found})} dimensions"
            wanted = f"{len(texts)} of {self.cfg.dimension or 'one'}"
            raise config.ConfigError(f"{where}: gave {got}, not {wanted}; check encoder.dimension")
        return found
