"""The generator on vLLM's AsyncLLM: many coroutines, one continuous batch."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from wbrag.config import Backbone, ConfigError
from wbrag.llm import FirstToken, Reply, Token, require_mixture
from wbrag.llm.engine import RESERVED, engine_arguments, rendered, template_of
from wbrag.llm.reasoning import REMEDY, NoAnswer, is_mark, opens, spoken, spoken_tokens

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams

#: Times a group of requests is asked again before the engine is held to be unable to run it in one step.
MIXTURE_ATTEMPTS = 20
#: Length of a call that only keeps the engine busy, tokens.
BUSY_TOKENS = 64
#: With so few, on a CPU, none is kept free for vLLM's scheduler: of two, half would be (a run took 30 % longer). And
#: its worker, a process of its own so that threads can be bound to cores, is in that of the scheduler: one process less
#: that loads vLLM (`VLLM_ENABLE_V1_MULTIPROCESSING=1 make bench PARTS=engine` has it as vLLM would).
FEW_CORES = 2
#: The longest folder that vLLM's sockets may lie in, characters: their paths end at 107, their names are UUIDs.
LONGEST_TMPDIR = 107 - 1 - 36
#: Kept off unless the user set them: usage reports, progress bars, and everything below an error in the log.
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


class Places:
    """Counts the requests in an engine of `capacity` sequences. For one event loop.

    A single request enters at once (the engine itself queues what is too much); a group waits, first come first
    served, until all its requests have a place. Otherwise the engine would admit them one by one, as places fall free.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.taken = capacity, 0
        self._turn, self._left = asyncio.Lock(), asyncio.Event()

    @contextmanager
    def single(self, size: int = 1) -> Iterator[None]:
        """A place for one request for the time of the block, without waiting."""
        self.taken += size
        try:
            yield
        finally:
            self.taken -= size
            self._left.set()

    @asynccontextmanager
    async def group(self, size: int) -> AsyncIterator[None]:
        """Places for `size` requests for the time of the block; ValueError for more than the engine has."""
        if size > self.capacity:
            raise ValueError(f"{size} requests that belong together > {self.capacity} sequences at once (max_num_seqs)")
        async with self._turn:  # asyncio's locks are first come, first served
            while self.taken + size > self.capacity:
                self._left.clear()
                await self._left.wait()
        with self.single(size):  # no other coroutine runs between the turn's end and this
            yield


def check_engine_args(backbone: Backbone) -> None:
    """ConfigError for a key of `backbone.engine_args` that vLLM has not, with the nearest that it has, and for one that
    is not to be given (`engine.RESERVED`), with why. Starts nothing; vLLM is imported only where there is a key.
    """
    given = backbone.engine_args
    if given and backbone.kind != "vllm":
        raise ConfigError(f"backbone.engine_args.{next(iter(given))}: backbone.kind={backbone.kind} is no vLLM engine")
    for key in given:
        if why := next((why for pattern, why in RESERVED.items() if fnmatchcase(key, pattern)), ""):
            raise ConfigError(f"backbone.engine_args.{key} cannot be given: {why}")
    known = _known_arguments() if given else []
    if unknown := [key for key in given if key not in known]:
        nearest = get_close_matches(unknown[0], known, 1, 0.0)[0]
        raise ConfigError(f"backbone.engine_args.{unknown[0]}: vLLM has no such argument; the nearest is {nearest}")


def _known_arguments() -> list[str]:
    _quieten()
    from vllm import AsyncEngineArgs

    return [field.name for field in fields(AsyncEngineArgs) if not field.name.startswith("_")]


def _quieten() -> None:
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)


def engine_config(backbone: Backbone, on_cpu: bool) -> VllmConfig:
    """vLLM's configuration of an engine, REPLUG's mixture in it."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    arguments = AsyncEngineArgs(**engine_arguments(backbone, on_cpu))
    # Offline work, as vLLM's own `LLM` class does it. By it vLLM chooses how many tokens a step takes where nothing is
    # said: 16,384 on an H100 or H200; in a context that is not among its defaults 2,048, which splits REPLUG's groups.
    config = arguments.create_engine_config(UsageContext.LLM_CLASS)
    # Which of the two model runners it will be depends on platform, model and vLLM's own settings.
    runner = "V2" if config.use_v2_model_runner else "V1"
    config.model_config.logits_processors = [f"wbrag.llm.mixture:Mixture{runner}"]
    return config


class VllmEngine:
    """`wbrag.llm.LLM` on one vLLM engine. Open it once per process; call it from one event loop."""

    def __init__(self, backbone: Backbone) -> None:
        _quieten()
        few = len(os.sched_getaffinity(0)) <= FEW_CORES
        if few:
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        if len(tempfile.gettempdir()) > LONGEST_TMPDIR:
            os.environ.setdefault("VLLM_RPC_BASE_PATH", "/tmp")
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        if few and current_platform.is_cpu():
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        config = engine_config(backbone, current_platform.is_cpu())
        self.thinking = backbone.thinking_tokens
        self.max_model_len = backbone.max_model_len - self.thinking
        silent = bool(backbone.engine_args.get("disable_log_stats", True))
        self.engine: Any = AsyncLLM.from_vllm_config(config, disable_log_stats=silent)
        self.places = Places(backbone.max_num_seqs)
        self.tokenizer: Any = self.engine.get_tokenizer()
        self.template, self.template_args = template_of(backbone, self.tokenizer), backbone.template_args
        self.decode = speller(self.tokenizer)
        # A prompt is measured before it is sent, so the same text is rendered twice in a row.
        self.render = lru_cache(maxsize=1024)(self._render)
        # Whether a reply begins inside a block of reasoning, which the template has opened.
        self.opened = opens(self.tokenizer.decode(self.render("?", "")))
        self.numbers = itertools.count()
        self.busy: asyncio.Task[CompletionOutput] | None = None
        self.groups_split = 0  # attempts at a mixture that were not in step, and were repeated

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """As `LLM.chat`; ValueError where prompt and answer exceed `max_model_len`. A reply that says nothing, without
        having thought, is the empty answer.

        A dead engine ends this process: only then does Ray restart the actor and repeat its tasks (an exception would
        count as the row's own).
        """
        ids = self._fitting(content, max_tokens, prefix)
        with self.places.single():
            completion = await self._complete(ids, greedy(max_tokens + self.thinking, logprobs=0 if logprobs else None))
        reply = self._reply(completion, len(ids), opened := self.opened and not prefix)
        if not logprobs:
            return reply
        said = list(completion.token_ids)
        chosen: Any = zip(said, completion.logprobs or (), strict=True)
        told = pieces(said, [found[i].logprob for i, found in chosen], self.decode)
        return replace(reply, tokens=spoken_tokens(told, opened))

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """The probability of each candidate's first token under the softmax over the whole vocabulary.

        Not to be asked while mixtures run: for a step that holds such a request vLLM reports no second likeliest token
        to any other, and `out_of_step` reads that as a group that was split.
        """
        ids = self._fitting(content, 1, prefix)
        firsts = {self._reply_ids(candidate)[0]: candidate for candidate in reversed(candidates)}
        with self.places.single():
            completion = await self._complete(ids, greedy(1, logprob_token_ids=sorted(firsts)))
        assert completion.logprobs is not None
        found: Any = completion.logprobs[0]
        told = {candidate: math.exp(found[first].logprob) for first, candidate in firsts.items()}
        return FirstToken({candidate: told.get(candidate, 0.0) for candidate in candidates}, len(ids))

    async def mixture(
        self, contents: Sequence[str], weights: Sequence[float], max_tokens: int, pooling: str, bad_words: Sequence[str]
    ) -> Reply:
        """As `LLM.mixture`; ValueError also for a prompt that is too long and for more messages than sequences at once,
        RuntimeError where they never ran in the same steps.
        """
        require_mixture(contents, weights)
        prompts = [self._fitting(content, max_tokens) for content in contents]
        unsaid = [self._reply_ids(word) for word in bad_words]
        completion = await self.mixed(prompts, weights, max_tokens + self.thinking, pooling, unsaid)
        reply = self._reply(completion, sum(map(len, prompts)), self.opened)
        return replace(reply, completion_tokens=len(prompts) * reply.completion_tokens)

    async def mixed(
        self,
        prompts: Sequence[list[int]],
        weights: Sequence[float],
        max_tokens: int,
        pooling: str,
        unsaid: Sequence[list[int]] = (),
    ) -> CompletionOutput:
        """The completion of all prompts (token ids) together, with the mixture's own log-probabilities.

        unsaid: token ids of words that no prompt may answer. Both of vLLM's runners leave bad words out of a row of
        logits before it comes to the mixture. They are handed over as token ids: what vLLM makes of the words
        themselves bans "unknown" inside a text and not at the start of a reply, where a tokenizer cuts them otherwise.

        The engine promises nothing about the steps that its requests share. So a group is let in when there is room
        for all of it, and one that was split all the same is asked again: its prompts are in the prefix cache then,
        and the engine is kept busy.
        """
        from wbrag.llm.mixture import LOGPROBS, Member, out_of_step

        more, end = {"logprobs": LOGPROBS, "_bad_words_token_ids": list(unsaid)}, self.tokenizer.eos_token_id
        async with self.places.group(len(prompts)):
            for _ in range(MIXTURE_ATTEMPTS):
                group = self._request()
                members = [Member(group, i, len(prompts), weight, pooling, end) for i, weight in enumerate(weights)]
                params = [greedy(max_tokens, **more, extra_args=m.extra_args()) for m in members]
                completions = await asyncio.gather(*map(self._complete, prompts, params))
                if not any(map(out_of_step, completions)):
                    return completions[0]
                self.groups_split += 1
                self._keep_busy(prompts[0])
        raise RuntimeError(
            f"{len(prompts)} prompts of up to {max(map(len, prompts))} tokens did not run in the same steps in "
            f"{MIXTURE_ATTEMPTS} attempts: the engine's max_num_seqs, max_num_batched_tokens or KV cache is too small"
        )

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` alone, without template or special tokens."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_tokens(self, content: str) -> int:
        """Tokens of the rendered prompt that `chat(content)` sends."""
        return len(self.render(content, ""))

    def close(self) -> None:
        """Stop the engine's processes."""
        self.engine.shutdown()

    def _render(self, content: str, prefix: str = "") -> list[int]:
        return rendered(self.tokenizer, self.template, content, prefix, self.template_args)

    def _reply(self, completion: CompletionOutput, prompt_tokens: int, opened: bool) -> Reply:
        """The completion without reasoning; NoAnswer where it ends inside it, or before a word behind it."""
        said, cut = list(completion.token_ids), completion.finish_reason == "length"
        if completion.finish_reason == "stop":
            said.pop()  # the token that ended it, whether the tokenizer calls it special or not
        text = self.decode(said).rstrip("\ufffd")  # half a character, where the limit cut it
        answer = spoken(text, opened)
        if cut and text.strip() and not answer:
            raise NoAnswer(f"no text but reasoning in the reply, finish_reason=length; {REMEDY}")
        return Reply(answer, prompt_tokens, len(completion.token_ids), cut=cut)

    def _fitting(self, content: str, max_tokens: int, prefix: str = "") -> list[int]:
        ids = self.render(content, prefix)
        if len(ids) + max_tokens > self.max_model_len:
            told = f"prompt of {len(ids)} tokens and {max_tokens} to generate"
            raise ValueError(f"{told} exceed max_model_len {self.max_model_len}")
        return ids

    def _reply_ids(self, reply: str) -> list[int]:
        """The tokens that a reply begins with; a blank before it may belong to the first (" yes")."""
        empty, begun = self.render("", ""), self.render("", reply)
        if begun[: len(empty)] == empty:
            return begun[len(empty) :]
        ids: list[int] = self.tokenizer.encode(reply, add_special_tokens=False)
        return ids

    def _keep_busy(self, ids: list[int]) -> None:
        # An idle engine starts with the first request of a group and leaves out those that come a moment later; a busy
        # one takes in whatever has come by its next step. One call whose reply nobody reads keeps it busy for a while.
        if self.busy is None or self.busy.done():
            tokens = min(BUSY_TOKENS, self.max_model_len - len(ids))
            self.busy = asyncio.ensure_future(self._complete(ids, greedy(tokens, ignore_eos=True)))

    def _request(self) -> str:
        return f"{os.getpid()}-{next(self.numbers)}"

    async def _complete(self, ids: list[int], params: SamplingParams) -> CompletionOutput:
        from vllm.v1.engine.exceptions import EngineDeadError

        # "type" says that the ids are final; without it the prompt takes a turn in a thread, and a group falls apart.
        prompt = {"type": "token", "prompt_token_ids": ids}
        try:
            outputs = [o async for o in self.engine.generate(prompt, params, self._request())]
        except EngineDeadError:
            os._exit(1)
        completion: CompletionOutput = outputs[-1].outputs[0]
        return completion


def speller(tokenizer: Any) -> Callable[[Sequence[int]], str]:  # noqa: ANN401 - Hugging Face's
    """Decodes a reply with those of its special tokens that are marks of reasoning, without all others."""
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    silent = {key for key, token in special.items() if not is_mark(token)}
    if len(silent) == len(special):
        return partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return lambda ids: str(tokenizer.decode([i for i in ids if i not in silent], skip_special_tokens=False))


def pieces(ids: Sequence[int], logprobs: Sequence[float], decode: Callable[[Sequence[int]], str]) -> tuple[Token, ...]:
    """The text of a completion, token by token; those of one character become one, the least probable, and special
    tokens, which `decode` leaves out, are no pieces.
    """
    tokens: list[Token] = []
    text, least = "", 0.0
    for count, logprob in enumerate(logprobs, 1):
        longer = decode(ids[:count])
        if longer == text:
            continue
        least = min(least, logprob)
        if not longer.endswith("\ufffd"):  # else bytes are missing that the next token brings
            tokens.append(Token(longer[len(text) :], least))
            text, least = longer, 0.0
    return tuple(tokens)


def greedy(max_tokens: int, **more: Any) -> SamplingParams:  # noqa: ANN401 - vLLM's own arguments
    """Greedy sampling for one request that reports once, at the end, token ids alone (half the front end's work per
    token, and its reading of the whole prompt before the first); `more` goes to vLLM.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    how: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False, "skip_clone": True}
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **how, **more)
