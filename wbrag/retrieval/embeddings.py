"""The encoder behind an OpenAI-compatible endpoint for embeddings: HTTP alone, as whoever only searches has no SDK. So
what may pass is tried again by code of its own here, where the SDK does it for a generator (`wbrag.llm.openai`).
"""

from __future__ import annotations

import time
from typing import Any

import httpx2
import numpy as np

from wbrag import config
from wbrag.retrieval.encoder import Encoder, unit_fp16

#: Times that a request is tried again, the first pause between two in seconds, which doubles, and the longest.
RETRIES, PAUSE, LONGEST = 6, 0.5, 60.0
#: How long one request may take, seconds.
TIMEOUT = 120.0
#: What may pass: overload, a server that restarts.
PASSING = (408, 409, 429)
#: Bytes of UTF-8 that a token has at least, nearly: an endpoint does not say how it counts.
BYTES_A_TOKEN = 3


class EndpointEncoder(Encoder):
    """The embeddings of any OpenAI-compatible endpoint, `batch_size` texts a request. Their vectors are told apart by
    the model's name, not by who serves it.

    ConfigError, with what the endpoint said last, where it refuses, does not answer, or gives vectors of another
    length than `dimension`; what may pass is tried again.
    """

    def __init__(self, cfg: config.Encoder) -> None:
        key = config.api_key("encoder", cfg.api_key_env)
        if not config.is_web_address(cfg.base_url):
            raise config.ConfigError(f"encoder.base_url={cfg.base_url!r} is no URL; it ends in /v1 as a rule")
        url = httpx2.URL(cfg.base_url)
        self.url, self.cfg, self.key = url.copy_with(path=f"{url.path.rstrip('/')}/embeddings"), cfg, key
        self.where = f"{cfg.base_url} (encoder.model {cfg.model})"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self.client = httpx2.Client(headers=headers, timeout=TIMEOUT)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            proxies = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
            raise config.ConfigError(f"{self.where}: no client can be made with {proxies} as set: {error}") from error
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
        asked: dict[str, Any] = {"model": self.cfg.model, "input": cut, "encoding_format": "float"}
        asked |= {"dimensions": self.cfg.dimension} if self.cfg.dimension else {}
        try:
            told = self._answered(asked).json()["data"]
            found = [[float(x) for x in one["embedding"]] for one in sorted(told, key=lambda one: int(one["index"]))]
        except (KeyError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            raise config.ConfigError(f"{self.where}: the reply holds no embeddings: {told}") from error
        if len(found) != len(texts) or {len(row) for row in found} != {self.cfg.dimension or len(found[0])}:
            got = f"{len(found)} vectors of {sorted({len(row) for row in found})} dimensions"
            wanted = f"{len(texts)} of {self.cfg.dimension or 'one'}"
            raise config.ConfigError(f"{self.where}: gave {got}, not {wanted}; check encoder.dimension")
        return found

    def _answered(self, asked: dict[str, Any]) -> httpx2.Response:
        """The reply, once it is one: what may pass is tried again, after the pause asked for or a growing one."""
        for attempt in range(RETRIES + 1):
            pause, last = PAUSE * 2**attempt, attempt == RETRIES
            try:
                reply = self.client.post(self.url, json=asked)
            except httpx2.TransportError as error:
                told = f"no answer in {attempt + 1} attempts; the last: {type(error).__name__}: {error}"
            else:
                if reply.is_success:
                    return reply
                body = " ".join(reply.text[:200].split())
                told = f"status {reply.status_code}: {body.replace(self.key, '(the key)') if self.key else body}"
                last = last or not (reply.status_code in PASSING or reply.status_code >= 500)
                after = reply.headers.get("Retry-After", "")
                pause = float(after) if after.replace(".", "", 1).isdigit() else pause
            if last:
                break
            time.sleep(min(pause, LONGEST))
        raise config.ConfigError(f"{self.where}: no embeddings: {told}; check encoder.base_url, model and the key")
