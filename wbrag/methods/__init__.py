"""RAG methods: how a question and its documents become an answer. The same method scores, gates and is evaluated
(paper, section 3.2).

A method is a module here, or whatever the entry point of that name in the group `wbrag.methods` leads to, with

    async def answer(question, documents, tools) -> Answer    # a `Method`
    SETTINGS: the keys of `config.Method` that it reads; one of elsewhere has `method.settings` for its own
    SEARCHES: whether it searches while it answers, and so needs `Tools.search`
    asks(question, tools): what it makes of a document beside the task's prompt, and the tokens of the replies
    def check(method, backbone): ConfigError for what cannot work; without a backbone, of the settings alone

of which all but `answer` may be left out (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from wbrag import config
from wbrag.llm import LLM, FirstToken, Reply
from wbrag.llm.fit import ask
from wbrag.prompts import Prompts
from wbrag.schema import Document

#: The methods of this package, each a module of it; others come by this group of entry points.
OWN = ("naive", "replug", "selfrag", "flare")
GROUP = "wbrag.methods"

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


def elsewhere() -> dict[str, EntryPoint]:
    """The entry points of methods that other packages bring, by name; a name of this package is its own."""
    return {one.name: one for one in entry_points(group=GROUP) if one.name not in OWN}


@lru_cache
def method_named(name: str) -> Any:  # noqa: ANN401 - a module, or what has the same in it
    """The method of this name. ConfigError for one that nobody brings, that cannot be imported or has no `answer`."""
    if name in OWN:
        return import_module(f"wbrag.methods.{name}")
    known = elsewhere()
    if name not in known:
        raise config.ConfigError(f"method.name={name!r}: not a method; known are {', '.join((*OWN, *sorted(known)))}")
    where = f"method.name={name!r}: the entry point {known[name].value!r}"
    try:
        found = known[name].load()
    except (ImportError, AttributeError) as error:
        raise config.ConfigError(f"{where} cannot be loaded: {error}") from error
    if not callable(getattr(found, "answer", None)):
        raise config.ConfigError(f"{where} has no function answer(question, documents, tools)")
    return found


def open_method(method: config.Method) -> Method:
    """The method that `method.name` names; ConfigError for an unknown name and for settings that it cannot have."""
    _check(method, None)
    answer: Method = method_named(method.name).answer
    return answer


def check_method(method: config.Method, backbone: config.Backbone, ask: bool = True) -> None:
    """ConfigError as `open_method`, and, with what is missing and why it is needed, where the generator cannot run it.

    A checkpoint's tokenizer is looked into for Self-RAG's tokens, and an endpoint is asked for one token, unless it
    is not to be asked.
    """
    _check(method, backbone)
    if ask and backbone.kind == "openai":
        from wbrag.llm.openai import check_endpoint

        check_endpoint(backbone)


def _check(method: config.Method, backbone: config.Backbone | None) -> None:
    if method.settings and method.name in OWN:
        raise config.ConfigError(f"method.settings is for methods of other packages, and {method.name} is none of them")
    if check := getattr(method_named(method.name), "check", None):
        check(method, backbone)


def check_probabilities(method: config.Method, *keys: str) -> None:
    """ConfigError where one of these settings is no probability."""
    for key in keys:
        if not 0.0 <= (value := getattr(method, key)) <= 1.0:
            raise config.ConfigError(f"method.{key}={value}: a probability, 0 to 1, is needed")


def check_distributions(method: config.Method, backbone: config.Backbone) -> None:
    """ConfigError where the generator does not tell the whole distribution of the next token."""
    if backbone.kind == "openai":
        raise config.ConfigError(
            f"method.name={method.name} works with whole distributions of the next token, but an OpenAI-compatible "
            "endpoint (backbone.kind=openai) tells only of the few most probable tokens; use backbone.kind=vllm"
        )


def settings_read(method: Mapping[str, Any]) -> str:
    """The settings that decide what a method does, as a report says them; "" where it has none, and of a method that is
    not installed here what its own are.
    """
    name = method["name"]
    keys = getattr(method_named(name), "SETTINGS", ()) if name in OWN or name in elsewhere() else ()
    told = {key: method[key] for key in keys if key in method} | dict(method.get("settings") or {})
    return ", ".join(f"{key} {value}" for key, value in told.items())


def searches(method: config.Method) -> bool:
    """Whether the method searches while it answers, and so needs `Tools.search`."""
    return bool(getattr(method_named(method.name), "SEARCHES", False))


def method_identity(method: config.Method) -> dict[str, Any]:
    """What changes an answer by the method, by configuration key; of another package's its name and version too."""
    told = {f"method.{key}": value for key, value in asdict(method).items() if key != "settings" or value}
    entry = None if method.name in OWN else elsewhere().get(method.name)
    return {**told, "method.package": f"{entry.dist.name} {entry.dist.version}"} if entry and entry.dist else told


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
    key = f"closed_book_{tools.task}"
    reply, _ = await ask(tools.llm, tools.prompts, key, tools.answer_tokens, question=question)
    said = method_named("selfrag").spoken(reply.text) if tools.method.mode == "tokens" else reply.text
    return answered(said, [reply])
