"""The generator behind any OpenAI-compatible endpoint: OpenAI's own, vLLM's and SGLang's servers, hosted ones.

What may pass the openai SDK tries again, with growing pauses: overload (429, 5xx), broken connections, timeouts,
replies that are no chat completion. What will not is not: a wrong key, an unknown model, a prompt that is too long.
Either way it is an exception of the call, so that it costs one example and not the run.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import openai

from wbrag.config import Backbone, ConfigError
from wbrag.llm import FirstToken, Reply, Token

#: Bytes of UTF-8 that count as one token where the endpoint does not say: English has about as many, and scripts that
#: take more bytes a letter take more tokens too.
BYTES_PER_TOKEN = 4
#: What the chat template adds to a prompt, in tokens, by the same estimate.
TEMPLATE_TOKENS = 16
#: What to do where the endpoint refuses, does not answer, or answers without text.
REFUSED = "check the key, backbone.model, base_url, max_model_len, answer_tokens and max_tokens_key"
UNANSWERED = "check backbone.base_url, its server and the quota; backbone.retries and timeout_s give them longer"
SILENT = "raise backbone.answer_tokens and distil_tokens, or turn the model's thinking off"


class EndpointError(RuntimeError):
    """A call that the endpoint did not answer; the message says what came last, and what can be done about it."""


class BadReply(ValueError):
    """A response that is no chat completion; the message says what is wrong with it."""


class Transport(openai.DefaultAsyncHttpxClient):
    """HTTP below the SDK, which tries again after every httpx2.RequestError."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """One attempt, its Reply in `extensions`; the timeout is of it all, as bytes may trickle for ever."""
        seconds = request.extensions["timeout"]["read"]
        try:
            async with asyncio.timeout(seconds):
                response = await super().send(request, **options)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole reply within {seconds:g} s", request=request) from error
        if response.is_success:
            try:
                logprobs = bool(json.loads(request.content).get("logprobs"))
                response.extensions["reply"] = reply_of(response.json(), logprobs)
            except ValueError as error:  # no JSON, or not that of a chat completion
                told = f"{type(error).__name__}: {error}; {status_of(response)}"
                raise httpx2.DecodingError(told, request=request) from error
        return response


class Endpoint:
    """`wbrag.llm.LLM` over HTTP: at most `max_num_seqs` requests at a time, each tried up to 1 + `retries` times."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.max_model_len = backbone, backbone.max_model_len
        key = api_key(backbone)
        try:
            transport = Transport()
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            proxies = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
            raise ConfigError(f"{backbone.base_url}: no client can be made with {proxies} as set: {error}") from error
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",  # else the SDK takes OPENAI_API_KEY by itself
            base_url=backbone.base_url,
            timeout=backbone.timeout_s,
            max_retries=backbone.retries,
            http_client=transport,
        )
        self.headers = {} if key else {"Authorization": openai.omit}
        self.url = f"{backbone.base_url.rstrip('/')}/chat/completions"
        # A call keeps its place while it pauses: an endpoint that is overloaded is then asked less.
        self.places = asyncio.Semaphore(backbone.max_num_seqs)

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """As `LLM.chat`; EndpointError where the endpoint refuses, all attempts fail, or a reply ends without text."""
        body: dict[str, Any] = {self.backbone.max_tokens_key: max_tokens} | ({"logprobs": True} if logprobs else {})
        messages: list[Any] = [{"role": "user", "content": content}]
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        asked: dict[str, Any] = {"model": self.backbone.model, "messages": messages, "temperature": 0}
        create = self.client.chat.completions.with_raw_response.create
        async with self.places:
            try:
                response = await create(**asked, extra_body=body, extra_headers=self.headers)
            except (openai.APIError, EndpointError) as error:
                told = f"{self.url}{failure(error)} (model {self.backbone.model})"
                raise EndpointError(told) from None  # the cause may quote the key
        reply: Reply = response.http_response.extensions["reply"]
        prompt_tokens = reply.prompt_tokens or self.prompt_tokens(content) + self.count_tokens(prefix)
        completion_tokens = reply.completion_tokens or self.count_tokens(reply.text)
        return Reply(reply.text, prompt_tokens, completion_tokens, reply.tokens)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """ConfigError: no endpoint tells more than a token's few most probable rivals."""
        raise ConfigError(f"backbone.kind=openai gives no probability of {', '.join(candidates)}")

    async def mixture(self, contents: Sequence[str], *_: object, **__: object) -> Reply:
        """ConfigError: a mixture needs whole distributions, step by step."""
        raise ConfigError(f"backbone.kind=openai cannot mix {len(contents)} prompts' next-token distributions")

    def count_tokens(self, text: str) -> int:
        """An estimate, BYTES_PER_TOKEN: the endpoint's tokenizer is not known."""
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def prompt_tokens(self, content: str) -> int:
        """An estimate, template included."""
        return self.count_tokens(content) + TEMPLATE_TOKENS


def api_key(backbone: Backbone) -> str:
    """The key in the environment variable that `api_key_env` names, without blanks around it; "" where it names none.

    ConfigError where there is none that HTTP can carry.
    """
    name = backbone.api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not (key and key.isascii() and key.isprintable()):
        raise ConfigError(f"backbone.api_key_env={name!r}: it is not set, empty, or holds characters that no key has")
    return key


def check_endpoint(backbone: Backbone) -> None:
    """Ask the endpoint for an answer, as a run would; ConfigError, with what it said, where that does not work."""
    if not backbone.base_url.startswith(("http://", "https://")):
        raise ConfigError(f"backbone.base_url={backbone.base_url!r} is no URL; it ends in /v1 as a rule")

    async def ask() -> None:
        prefix = "The answer" if backbone.continues else ""
        endpoint, tokens = Endpoint(backbone), backbone.answer_tokens
        async with endpoint.client:
            await endpoint.chat("Answer with one word.", tokens, prefix=prefix, logprobs=backbone.token_logprobs)

    try:
        asyncio.run(ask())
    except EndpointError as error:
        raise ConfigError(f"backbone={backbone.name}: the endpoint does not work as configured: {error}") from error


def status_of(response: httpx2.Response) -> str:
    """The status and how the body begins, without the key: some endpoints quote it."""
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    text = response.text.replace(key, "(the key)") if key else response.text
    return f"status {response.status_code}: {' '.join(text[:200].split())}"


def failure(error: openai.APIError | EndpointError) -> str:
    """What the last attempt ended with, how many there were if another might have helped, and what to do."""
    if isinstance(error, EndpointError):
        return f": {error}"
    status, told = 0, f"{type(error.__cause__).__name__}: {error.__cause__}"
    if isinstance(error, openai.APIStatusError):
        status, told = error.status_code, status_of(error.response)
    if 0 < status < 500 and status not in (408, 409, 429):
        return f" refuses: {told}; {REFUSED}"
    attempts = int(error.request.headers["x-stainless-retry-count"]) + 1
    return f": no answer in {attempts} attempts; the last: {told}; {UNANSWERED}"


def reply_of(body: object, logprobs: bool) -> Reply:
    """The first choice of a chat completion; token counts are 0 where the endpoint gives none.

    BadReply for any other object, and where log-probabilities were asked for and do not cover the text. EndpointError
    where the reply was cut off or withheld before its text began; one that stopped by itself is the empty answer.
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
    if not content and (reason := choice.get("finish_reason") or "stop") != "stop":
        raise EndpointError(f"no text in the reply, finish_reason={reason}; {SILENT}")
    return Reply(content.strip(), counts[0], counts[1], tokens)


def told_tokens(entries: Sequence[Mapping[str, Any]], content: str) -> tuple[Token, ...]:
    """The tokens of `content`, without what some servers tell of after it; parts of one character become one, the least
    probable.
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
