"""The generator behind any OpenAI-compatible endpoint: OpenAI's own, vLLM's and SGLang's servers, hosted ones.

What may pass is tried again with growing pauses: overload (429, 5xx), broken connections, timeouts, replies that are
no JSON. What will not is not: a wrong key, an unknown model, a prompt that is too long. Either way it is an exception
of the call, so that it costs one example and not the run.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from wbrag.config import Backbone, ConfigError
from wbrag.llm import FirstToken, Reply, Token

#: HTTP statuses after which the same request may succeed.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: Seconds before the second attempt, at most; doubled with each further one, up to the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: Bytes of UTF-8 that count as one token where the endpoint does not say: English has about as many, and scripts that
#: take more bytes a letter take more tokens too.
BYTES_PER_TOKEN = 4
#: What the chat template adds to a prompt, in tokens, by the same estimate.
TEMPLATE_TOKENS = 16


class EndpointError(RuntimeError):
    """A call that the endpoint did not answer; the message says how often it was asked and what came last."""


class BadReply(ValueError):
    """A response that is no chat completion; the message says what is wrong with it."""


class Endpoint:
    """`wbrag.llm.LLM` over HTTP: at most `max_num_seqs` requests at a time, each tried up to 1 + `retries` times."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.max_model_len = backbone.max_model_len
        key = api_key(backbone)
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # `_insist` has a clock of its own
            limits=httpx.Limits(max_connections=backbone.max_num_seqs),
        )
        self.url = f"{backbone.base_url.rstrip('/')}/chat/completions"
        # A call keeps its place while it pauses: an endpoint that is overloaded is then asked less.
        self.places = asyncio.Semaphore(backbone.max_num_seqs)

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The greedy answer to one user message, or what follows `prefix` in it.

        Raises EndpointError where the endpoint refuses the request or all attempts fail.
        """
        messages = [{"role": "user", "content": content}]
        body: dict[str, Any] = {"model": self.backbone.model, "messages": messages, "temperature": 0}
        body[self.backbone.max_tokens_key] = max_tokens
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if logprobs:
            body["logprobs"] = True
        async with self.places:
            reply = await self._insist(body, logprobs)
        prompt_tokens = reply.prompt_tokens or self.prompt_tokens(content) + self.count_tokens(prefix)
        completion_tokens = reply.completion_tokens or self.count_tokens(reply.text)
        return Reply(reply.text, prompt_tokens, completion_tokens, reply.tokens)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """ConfigError: no endpoint tells more than a token's few most probable rivals."""
        raise ConfigError(f"backbone.kind=openai gives no probability of {', '.join(candidates)}")

    async def mixture(
        self,
        contents: Sequence[str],
        weights: Sequence[float],
        max_tokens: int,
        pooling: str = "probabilities",
        bad_words: Sequence[str] = (),
    ) -> Reply:
        """ConfigError: a mixture needs whole distributions, step by step."""
        raise ConfigError(f"backbone.kind=openai cannot mix {len(contents)} prompts' next-token distributions")

    def count_tokens(self, text: str) -> int:
        """An estimate, BYTES_PER_TOKEN: the endpoint's tokenizer is not known."""
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def prompt_tokens(self, content: str) -> int:
        """An estimate, template included."""
        return self.count_tokens(content) + TEMPLATE_TOKENS

    async def _insist(self, body: dict[str, Any], logprobs: bool) -> Reply:
        """The reply to a request, asked until it comes, is refused, or the attempts are used up."""
        failure, wanted = "", 0.0
        for attempt in range(self.backbone.retries + 1):
            if attempt:
                await asyncio.sleep(pause(attempt, wanted, random.random()))
            wanted = 0.0
            try:
                async with asyncio.timeout(self.backbone.timeout_s):  # of the whole attempt: bytes may trickle for ever
                    response = await self.client.post(self.url, json=body)
            except (httpx.TransportError, TimeoutError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            told = f"status {response.status_code}: {' '.join(response.text[:200].split())}"
            if response.status_code in PASSING:
                failure, wanted = told, retry_after(response.headers)
            elif response.is_error:
                raise EndpointError(f"{self.url} refuses: {told}")
            else:
                try:
                    return reply_of(response.json(), logprobs)
                except ValueError as error:  # no JSON, or not that of a chat completion
                    failure = f"{type(error).__name__}: {error}; {told}"
        raise EndpointError(f"{self.url}: no answer in {self.backbone.retries + 1} attempts; the last: {failure}")


def api_key(backbone: Backbone) -> str:
    """The key in the environment variable that `api_key_env` names, "" where it names none; ConfigError if not set."""
    if not backbone.api_key_env:
        return ""
    key = os.environ.get(backbone.api_key_env, "")
    if not key:
        raise ConfigError(
            f"backbone.api_key_env={backbone.api_key_env!r}: no such environment variable, or it is empty"
        )
    return key


def check_endpoint(backbone: Backbone) -> None:
    """Ask the endpoint for one token, as a run would; ConfigError, with what it said, where that does not work."""
    if not backbone.base_url.startswith(("http://", "https://")):
        raise ConfigError(f"backbone.base_url={backbone.base_url!r} is no URL; it ends in /v1 as a rule")

    async def ask() -> None:
        prefix = "The answer" if backbone.continues else ""
        endpoint = Endpoint(backbone)
        async with endpoint.client:
            await endpoint.chat("Answer with one word.", 1, prefix=prefix, logprobs=backbone.token_logprobs)

    try:
        asyncio.run(ask())
    except EndpointError as error:
        raise ConfigError(f"backbone={backbone.name}: the endpoint does not work as configured: {error}") from error


def reply_of(body: object, logprobs: bool) -> Reply:
    """The first choice of a chat completion; token counts are 0 where the endpoint gives none.

    BadReply for any other object, and where log-probabilities were asked for and do not cover the text.
    """
    try:
        assert isinstance(body, dict)
        choice, usage = body["choices"][0], body.get("usage") or {}
        content = choice["message"].get("content") or ""
        assert isinstance(content, str)
        counts = [int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens")]
        entries = (choice.get("logprobs") or {}).get("content") or [] if logprobs else []
        tokens = told_tokens(entries, content)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise BadReply(f"not a chat completion ({type(error).__name__}: {error})") from error
    if logprobs and "".join(token.text for token in tokens) != content:
        raise BadReply(f"log-probabilities of {len(tokens)} tokens do not cover the reply {content[:80]!r}")
    return Reply(content.strip(), counts[0], counts[1], tokens)


def told_tokens(entries: Sequence[Mapping[str, Any]], content: str) -> tuple[Token, ...]:
    """The tokens of `content`; parts of one character become one, the least probable.

    What follows the text is left out: some servers tell of the token that ends it too.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    tokens: list[Token] = []
    said, least = "", 0.0
    for entry in entries:
        raw = entry.get("bytes")
        text = entry["token"] if raw is None else decoder.decode(bytes(raw))
        least = min(least, float(entry["logprob"]))
        if text and not content.startswith(said + text):
            break
        if text:
            tokens.append(Token(text, least))
            said, least = said + text, 0.0
    return tuple(tokens)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """The seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one or with nonsense."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def pause(attempt: int, wanted: float, jitter: float) -> float:
    """Seconds to wait before attempt `attempt` (the second is 1): a share `jitter` (0..1) of a bound that doubles.

    Never less than the endpoint `wanted`, and never more than LONGEST_PAUSE in all; the jitter keeps callers that
    failed together from coming back together.
    """
    bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1))
    return min(LONGEST_PAUSE, wanted + bound * jitter)
