"""The encoder behind an OpenAI-compatible endpoint for embeddings: HTTP alone, as whoever only searches has no SDK. So
what may pass is tried again by code of its own here, where the SDK does it for a generator (`wbrag.llm.openai`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx2
import numpy as np

from wbrag import config
from wbrag.retrieval.encoder import Encoder, unit_fp16

Client = TypeVar("Client")
#: Times that a request is tried again, the first pause between two in seconds, which doubles, and the longest: who asks
#: for more, as the openai SDK has it, is not asked again.
RETRIES, PAUSE, LONGEST = 6, 0.5, 120.0
#: How long one request may take, seconds.
TIMEOUT = 120.0
#: What may pass: overload, a server that restarts.
PASSING = (408, 409, 429)
#: Bytes of UTF-8 that a token has at least, nearly: an endpoint does not say how it counts.
BYTES_A_TOKEN = 3


def client_to(url: str, made: Callable[..., Client]) -> Client:
    """An HTTP client with the environment's proxies; ConfigError where they make none and are needed for this URL."""
    try:
        return made()
    except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
        if proxy_bypass(urlsplit(url).hostname or ""):
            return made(trust_env=False)
        # What is no URL is not repeated: it may hold a password.
        said = "one of them is no URL" if isinstance(error, httpx2.InvalidURL) else error
        names = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE"
        raise config.ConfigError(f"{url}: no client can be made with {names} as set: {said}") from None


def pause_asked(after: str) -> float:
    """The seconds that a Retry-After asks for, a number or a date; 0 where it says nothing that can be waited for."""
    try:
        seconds = float(after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # nor is NaN


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
        self.client = client_to(cfg.base_url, partial(httpx2.Client, headers=headers, timeout=TIMEOUT))
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
        reply = self._answered(asked)
        try:
            told = reply.json()["data"]
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
                pause = pause_asked(reply.headers.get("Retry-After", "")) or pause
                if pause > LONGEST:
                    told += f" (Retry-After: {pause:.0f} s)"
                last = last or pause > LONGEST or '"insufficient_quota"' in reply.text  # which no pause mends
            if last:
                break
            time.sleep(pause)
        raise config.ConfigError(f"{self.where}: no embeddings: {told}; check encoder.base_url, model and the key")
