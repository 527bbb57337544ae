"""The generator behind any OpenAI-compatible endpoint: OpenAI's own, vLLM's and SGLang's servers, hosted ones.

What may pass the openai SDK tries again, with growing pauses: overload (429, 5xx), broken connections, timeouts,
replies that are no chat completion. What will not is not: a wrong key, an unknown model, a prompt that is too long.
Either way it is an exception of the call, so that it costs one example and not the run.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import openai

from wbrag.config import Backbone, ConfigError, api_key, is_web_address
from wbrag.llm import FirstToken, Reply, Token
from wbrag.llm.reasoning import REMEDY, NoAnswer, closes_alone, spoken, spoken_tokens
from wbrag.retrieval.embeddings import client_to

log = logging.getLogger(__name__)
if "OPENAI_LOG" not in os.environ:
    logging.getLogger("openai").setLevel(logging.WARNING)  # it tells of each attempt, `Transport` of the first

#: Bytes of UTF-8 that count as one token where the endpoint does not say: English has about as many, and scripts that
#: take more bytes a letter take more tokens too.
BYTES_PER_TOKEN = 4
#: What the chat template adds to a prompt, in tokens, by the same estimate.
TEMPLATE_TOKENS = 16
#: What to do where the endpoint refuses, by status, does not answer, or answers without text.
NOT_LET_IN = "check the key (backbone.api_key_env names its variable) and backbone.base_url"
REFUSED = {401: NOT_LET_IN, 403: NOT_LET_IN, 404: "check backbone.model and base_url"}
OTHERWISE = "check backbone.model, max_model_len, answer_tokens and max_tokens_key"
UNANSWERED = "check backbone.base_url, its server and the quota; backbone.retries and timeout_s give them longer"
#: The longest that the check at the start takes, seconds, where one attempt may not take longer.
CHECK_SECONDS = 120.0
#: What that check asks, and with how many tokens it asks again where the reply was cut: a model that thinks aloud
#: without a mark at the beginning shows only at the end of its thoughts that it does.
QUESTION, THINKING_TOKENS = "Answer with one word.", 1024
#: Reasons to finish that mean the token limit, and those that mean that text was withheld or lost.
CUT = re.compile(r"(?i)length|max_\w*tokens|incomplete|token_limit")
WITHHELD = re.compile(
    r"(?i)filter|safety|recitation|block|prohibited|spii|sensitive|guardrail|moderat|refus|language|other"
    r"|error|abort|cancel|malformed|insufficient"
)
#: What the token limit is called, and how an endpoint says that it does not know a key.
LIMITS = ("max_tokens", "max_completion_tokens")
_UNKNOWN_KEY = re.compile(
    r"(?:un|not |in)support|unrecogni[sz]ed|unknown|unexpected|(?:not|in)[ -]?(?:permitted|allowed)|extra|instead"
)


class EndpointError(RuntimeError):
    """A call that the endpoint did not answer; the message says what came last, and what can be done about it."""


class BadReply(ValueError):
    """A response that is no chat completion; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """How a request says that its answer is greedy, if it does, and how long it may be."""

    limit: str
    greedy: bool = True

    def of(self, max_tokens: int) -> dict[str, Any]:
        """These keys with their values."""
        return {self.limit: max_tokens} | ({"temperature": 0} if self.greedy else {})


def keys_without(keys: Keys, refusal: str) -> Keys:
    """The keys that an endpoint takes that refused a request in these words; the same where they are about others."""
    said = refusal.lower()
    if keys.limit in LIMITS and keys.limit in said and _UNKNOWN_KEY.search(said):
        return replace(keys, limit=LIMITS[1 - LIMITS.index(keys.limit)])
    return replace(keys, greedy=keys.greedy and "temperature" not in said)


class Transport(openai.DefaultAsyncHttpxClient):
    """HTTP below the SDK, which tries again after every httpx2.RequestError."""

    #: Whether prompts end in the mark that opens a block of reasoning, and what the last attempt that failed said.
    opened, last, again = False, "", False

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401
        """One attempt, its Reply in `extensions`; the timeout is of it all, as bytes may trickle for ever."""
        seconds = request.extensions["timeout"]["read"]
        if request.headers.get("x-stainless-retry-count") == "1" and not self.again:
            self.again = True
            log.warning("%s: %s; what is not answered is asked again", request.url, self.last or "no answer")
        try:
            async with asyncio.timeout(seconds):
                response = await super().send(request, **options)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole reply within {seconds:g} s", request=request) from error
        if not response.is_success:
            self.last = status_of(response)
            if '"insufficient_quota"' in response.text:  # which no pause mends
                response.headers["x-should-retry"] = "false"
            return response
        try:
            asked, body = json.loads(request.content), response.json()
            self.opened |= closes_alone(choice_of(body)[1])
            continued = asked["messages"][-1]["role"] == "assistant"
            reply = reply_of(body, bool(asked.get("logprobs")), self.opened and not continued, continued)
            response.extensions["reply"] = reply
        except ValueError as error:  # no JSON, or not that of a chat completion
            self.last = f"{type(error).__name__}: {error}; {status_of(response)}"
            raise httpx2.DecodingError(self.last, request=request) from error
        return response


class Endpoint:
    """`wbrag.llm.LLM` over HTTP: at most `max_num_seqs` requests at a time, each tried up to 1 + `retries` times."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.max_model_len = backbone, backbone.max_model_len - backbone.thinking_tokens
        key, url = api_key("backbone", backbone.api_key_env), urlsplit(backbone.base_url.strip())
        path = url.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        root, query = urlunsplit((url.scheme, url.netloc, path, "", "")), dict(parse_qsl(url.query))
        self.transport = client_to(root, Transport)
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",  # else the SDK takes OPENAI_API_KEY by itself
            base_url=root,
            default_query=query,
            timeout=backbone.timeout_s,
            max_retries=backbone.retries,
            http_client=self.transport,
        )
        self.headers: dict[str, Any] = {} if key else {"Authorization": openai.omit}
        if key and "api-version" in query:  # Azure's
            self.headers["api-key"] = key
        self.url = f"{root}/chat/completions"
        self.keys = Keys(backbone.max_tokens_key)
        # A call keeps its place while it pauses: an endpoint that is overloaded is then asked less.
        self.places = asyncio.Semaphore(backbone.max_num_seqs)

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """As `LLM.chat`; EndpointError where the endpoint refuses, all attempts fail, or a reply holds no answer."""
        body: dict[str, Any] = {"logprobs": True} if logprobs else {}
        messages: list[Any] = [{"role": "user", "content": content}]
        if prefix:
            messages.append({"role": "assistant", "content": prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        async with self.places:
            try:
                reply = await self._asked(messages, body | self.backbone.extra_body, max_tokens)
            except (openai.APIError, NoAnswer) as error:
                told = f"{self.url}{failure(error)} (model {self.backbone.model})"
                raise EndpointError(told) from None  # the cause may quote the key
        prompt_tokens = reply.prompt_tokens or self.prompt_tokens(content) + self.count_tokens(prefix)
        completion_tokens = reply.completion_tokens or self.count_tokens(reply.text)
        return replace(reply, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    async def _asked(self, messages: list[Any], body: dict[str, Any], max_tokens: int) -> Reply:
        """The reply to a request; where the endpoint refuses a key that says how to sample, without it from then on."""
        create, keys = self.client.chat.completions.with_raw_response.create, self.keys
        tried = {keys}
        while True:
            more = keys.of(max_tokens + self.backbone.thinking_tokens) | body
            try:
                response = await create(
                    model=self.backbone.model, messages=messages, extra_body=more, extra_headers=self.headers
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                keys = keys_without(keys, error.response.text)
                if keys in tried:
                    raise
                tried.add(keys)
            else:
                self.keys = keys
                reply: Reply = response.http_response.extensions["reply"]
                return reply

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


def check_endpoint(backbone: Backbone) -> None:
    """Ask the endpoint for an answer, as a run would; ConfigError, with what it said, where that does not work."""
    if not is_web_address(backbone.base_url):
        raise ConfigError(f"backbone.base_url={backbone.base_url!r} is no URL; it ends in /v1 as a rule")
    try:
        endpoint = asyncio.run(_checked(backbone))
    except EndpointError as error:
        raise ConfigError(f"backbone={backbone.name}: the endpoint does not work as configured: {error}") from error
    if endpoint.keys.limit != backbone.max_tokens_key:
        log.warning(
            "%s: %s is taken in place of max_tokens_key=%s", endpoint.url, endpoint.keys.limit, backbone.max_tokens_key
        )
    if not endpoint.keys.greedy:
        log.warning("%s refuses temperature 0: its answers are drawn, and another run's are others", endpoint.url)


async def _checked(backbone: Backbone) -> Endpoint:
    """An endpoint that has answered; EndpointError where it did not within CHECK_SECONDS, or thinks too long for it."""
    endpoint, seconds = Endpoint(backbone), max(CHECK_SECONDS, backbone.timeout_s)
    prefix, told = "The answer" if backbone.continues else "", backbone.token_logprobs
    async with endpoint.client:
        try:
            async with asyncio.timeout(seconds):
                reply = await endpoint.chat(QUESTION, backbone.answer_tokens, prefix=prefix, logprobs=told)
                if reply.cut and not prefix:
                    await endpoint.chat(QUESTION, min(THINKING_TOKENS, backbone.max_model_len // 2))
        except TimeoutError:
            last = endpoint.transport.last or "nothing came"
            raise EndpointError(f"{endpoint.url}: no answer in {seconds:g} s; the last: {last}; {UNANSWERED}") from None
    if reply.cut and endpoint.transport.opened:
        raise EndpointError(f"{endpoint.url}: the reply ends inside its reasoning, {reply.text[-60:]!r}; {REMEDY}")
    return endpoint


def status_of(response: httpx2.Response) -> str:
    """The status, how the body begins and the pause asked for, without the key: some endpoints quote it."""
    key, text = response.request.headers.get("Authorization", "").removeprefix("Bearer "), response.text
    for written in (key, json.dumps(key)[1:-1]) if key else ():
        text = text.replace(written, "(the key)")
    after = response.headers.get("Retry-After", "")[:40]
    pause = f" (Retry-After: {after})" if after else ""
    return f"status {response.status_code}: {' '.join(text[:200].split())}{pause}"


def failure(error: openai.APIError | NoAnswer) -> str:
    """What the last attempt ended with, how many there were if another might have helped, and what to do."""
    if isinstance(error, NoAnswer):
        return f": {error}"
    status, told = 0, f"{type(error.__cause__).__name__}: {error.__cause__}"
    if isinstance(error, openai.APIStatusError):
        status, told = error.status_code, status_of(error.response)
        if error.response.headers.get("x-should-retry") == "false":
            return f" refuses: {told}; {UNANSWERED}"
    if 0 < status < 500 and status not in (408, 409, 429):
        return f" refuses: {told}; {REFUSED.get(status, OTHERWISE)}"
    attempts = int(error.request.headers["x-stainless-retry-count"]) + 1
    return f": no answer in {attempts} attempt{'s' * (attempts > 1)}; the last: {told}; {UNANSWERED}"


def choice_of(body: object) -> tuple[Mapping[str, Any], str]:
    """The first choice of a chat completion and its text, that of all its parts; BadReply for any other object."""
    try:
        assert isinstance(body, dict)
        choice = body["choices"][0]
        assert isinstance(choice, dict)
        return choice, "".join(map(_said, _parts(choice["message"])))
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise BadReply(f"not a chat completion ({type(error).__name__}: {error})") from error


def _parts(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content") or ""
    return [content] if isinstance(content, str | dict) else content


def _said(part: Any) -> str:  # noqa: ANN401 - as JSON has it
    """The text of a part of a reply; none of its reasoning."""
    text = part if isinstance(part, str) else "" if not part or _thinks(part) else part.get("text") or ""
    return text.get("value") or "" if isinstance(text, dict) else text


def _thinks(part: Any) -> bool:  # noqa: ANN401
    return isinstance(part, dict) and bool(re.search("think|reason", str(part.get("type"))))


def reply_of(body: object, logprobs: bool, opened: bool = False, continued: bool = False) -> Reply:
    """The first choice of a chat completion, without reasoning; token counts are 0 where the endpoint gives none.

    `opened`: its prompt ended in the mark that opens a block of reasoning. `continued`: it goes on after given text, so
    that nothing is an answer too. BadReply for any other object, and where log-probabilities were asked for and do not
    cover the text. NoAnswer where there is no text behind the reasoning, where the model declined, and where a filter
    withheld some of it.
    """
    choice, content = choice_of(body)
    message, reason = choice["message"], str(choice.get("finish_reason") or "stop")
    try:
        usage = body.get("usage") if isinstance(body, dict) else None
        spent: dict[str, Any] = usage if isinstance(usage, dict) else {}
        told = [str(spent.get(key)).partition(".")[0] for key in ("prompt_tokens", "completion_tokens")]
        counts = [int(one) if one.isdecimal() else 0 for one in told]
        entries = (choice.get("logprobs") or {}).get("content") or [] if logprobs else []
        tokens = told_tokens(entries, content)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadReply(f"not a chat completion ({type(error).__name__}: {error})") from error
    if logprobs and "".join(token.text for token in tokens) != content:
        raise BadReply(f"log-probabilities of {len(tokens)} tokens do not cover the reply {content[:80]!r}")
    said = (one.get("refusal") for one in (message, *_parts(message)) if isinstance(one, dict))
    if refusal := next(filter(None, said), ""):
        raise NoAnswer(f"the model declines to answer: {str(refusal)[:80]!r}")
    opened = opened and bool(CUT.search(reason))  # some models do without thoughts now and then
    text = spoken(content, opened)
    if WITHHELD.search(reason) or not (text or (continued and reason == "stop")):
        raise NoAnswer(_why_none(message, content, reason))
    cut = bool(CUT.search(reason)) if choice.get("finish_reason") else None
    return Reply(text, counts[0], counts[1], spoken_tokens(tokens, opened), cut)


def _why_none(message: Mapping[str, Any], content: str, reason: str) -> str:
    """Why a reply holds no answer: it was withheld, or all of it was reasoning."""
    if WITHHELD.search(reason):
        return f"the reply was withheld, finish_reason={reason}"
    if message.get("tool_calls") or message.get("function_call"):
        return f"no text in the reply, finish_reason={reason}; the model calls a tool: check its server's chat template"
    fields = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
    thought = content.strip() or any(message.get(key) for key in fields) or any(map(_thinks, _parts(message)))
    if not thought and reason == "stop":
        return "no text in the reply, finish_reason=stop; check backbone.model, and its server's chat template"
    return f"no text{' but reasoning' if thought else ''} in the reply, finish_reason={reason}; {REMEDY}"


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
