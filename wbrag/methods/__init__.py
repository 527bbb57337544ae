"""RAG methods: how a question and its documents become an answer. Each method is a module with one `answer`.

The same method scores, gates and is evaluated (paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wbrag import config
from wbrag.llm import LLM, FirstToken, Reply
from wbrag.llm.engine import missing_tokens
from wbrag.llm.fit import ask
from wbrag.prompts import Prompts
from wbrag.schema import Document

#: The settings that each method reads.
SETTINGS: dict[str, tuple[str, ...]] = {
    "naive": (),
    "replug": ("temperature", "pooling", "bad_words"),
    "selfrag": ("mode", "threshold", "w_relevance", "w_support", "w_utility"),
    "flare": ("theta", "beta", "query"),
}
#: What some of them may be; others are probabilities.
KNOWN = {"pooling": ("probabilities", "logits"), "mode": ("prompted", "tokens"), "query": ("masked", "generated")}
PROBABILITIES = ("threshold", "theta", "beta")

#: Finds the k nearest documents of a query while an answer is being made.
Search = Callable[[str, int], Awaitable[list[Document]]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a method works with.

    Generator G, prompts, the benchmark's task (a key of the prompts), reply lengths, and the method's own settings.
    `search` is for methods that retrieve while they answer; None where only the documents given may be read.
    """

    llm: LLM
    prompts: Prompts
    task: str
    answer_tokens: int
    distil_tokens: int = 256
    method: config.Method = field(default_factory=config.Method)
    search: Search | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, stripped, and what it took; of the documents given, `dropped_documents` did not fit a prompt.

    `retrievals` are those the method itself decided on: Self-RAG to read the documents, FLARE each search beyond them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    calls: int
    dropped_documents: int = 0
    retrievals: int = 0


#: The answer to a question given documents in retrieval order; without documents, the closed-book answer.
Method = Callable[[str, Sequence[Document], Tools], Awaitable[Answer]]


def open_method(method: config.Method) -> Method:
    """The method that `method.name` names; ConfigError for an unknown name and for settings that it cannot have."""
    from wbrag.methods import flare, naive, replug, selfrag

    _check_settings(method)
    match method.name:
        case "naive":
            return naive.answer
        case "replug":
            return replug.answer
        case "selfrag":
            return selfrag.answer
        case "flare":
            return flare.answer
    raise config.ConfigError(f"method.name={method.name!r}: not a method; known are {', '.join(SETTINGS)}")


def _check_settings(method: config.Method) -> None:
    for key in SETTINGS.get(method.name, ()):
        value = getattr(method, key)
        if key in KNOWN and value not in KNOWN[key]:
            raise config.ConfigError(f"method.{key}={value!r} is unknown; known are {', '.join(KNOWN[key])}")
        if key in PROBABILITIES and not 0.0 <= value <= 1.0:
            raise config.ConfigError(f"method.{key}={value}: a probability, 0 to 1, is needed")
        if key == "temperature" and not 0 < value < float("inf"):
            raise config.ConfigError(f"method.temperature={value}: a number above 0 is needed")


def check_method(method: config.Method, backbone: config.Backbone) -> None:
    """ConfigError as `open_method`, and, with what is missing and why it is needed, where the generator cannot run it.

    A checkpoint's tokenizer is looked into for Self-RAG's tokens, and an endpoint is asked for one token.
    """
    open_method(method)
    if backbone.kind == "openai":
        _check_endpoint(method, backbone)
    if method.name == "selfrag" and method.mode == "tokens":
        from wbrag.methods.selfrag import REFLECTION

        missing = missing_tokens(backbone, REFLECTION) if backbone.kind == "vllm" else REFLECTION
        if missing:
            told = f"method.mode=tokens, but the tokenizer of backbone.model={backbone.model!r} lacks {missing[0]!r}"
            raise config.ConfigError(
                f"{told} ({len(missing)} of {len(REFLECTION)}); mode=prompted works with any model"
            )


def _check_endpoint(method: config.Method, backbone: config.Backbone) -> None:
    if method.name in ("replug", "selfrag"):
        raise config.ConfigError(
            f"method.name={method.name} works with whole distributions of the next token, but an OpenAI-compatible "
            "endpoint (backbone.kind=openai) tells only of the few most probable tokens; use backbone.kind=vllm"
        )
    needed = {"token_logprobs": "reads the probability of every token", "continues": "goes on after its own sentences"}
    for key, why in needed.items() if method.name == "flare" else ():
        if not getattr(backbone, key):
            raise config.ConfigError(
                f"method.name=flare {why}, but backbone.{key}=false says the endpoint cannot do that"
            )
    from wbrag.llm.openai import check_endpoint

    check_endpoint(backbone)


def settings_read(method: Mapping[str, Any]) -> str:
    """The settings that decide what a method does, as a report says them; "" where it has none."""
    return ", ".join(f"{key} {method[key]}" for key in SETTINGS.get(method["name"], ()) if key in method)


def searches(method: config.Method) -> bool:
    """Whether the method searches while it answers, and so needs `Tools.search`."""
    return method.name == "flare"


def answered(
    text: str, asked: Sequence[Reply | FirstToken | Answer], dropped_documents: int = 0, retrievals: int = 0
) -> Answer:
    """An answer that took several calls."""
    prompt_tokens, completion_tokens = sum(r.prompt_tokens for r in asked), sum(r.completion_tokens for r in asked)
    return Answer(text.strip(), prompt_tokens, completion_tokens, len(asked), dropped_documents, retrievals)


async def closed_book(question: str, tools: Tools) -> Answer:
    """The answer from parametric knowledge alone (Algorithm 1, step 1): one call, the same for all methods.

    Raises PromptTooLong where the question alone is too long for the model.
    """
    from wbrag.methods.selfrag import spoken

    key = f"closed_book_{tools.task}"
    reply, _ = await ask(tools.llm, tools.prompts, key, tools.answer_tokens, question=question)
    return answered(spoken(reply.text) if tools.method.mode == "tokens" else reply.text, [reply])
