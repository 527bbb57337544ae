"""Every prompt in one place (paper, section 3.3 and appendix); each is a template that `prompts.<key>` may replace.

A backbone may have its own (`backbone.prompts`): a small model does not follow all that a large one does.

Documents stand before the instruction and the question, as in the paper; so all calls of one example that share
their first documents share a prefix, which the engine's prefix cache serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter

from wbrag.config import ConfigError, TrainConfig
from wbrag.schema import Document

DEFAULTS: dict[str, str] = {
    "documents": "{documents}\n\n{request}",
    "document": "Document {rank} (Title: {title}): {text}",
    "closed_book_factoid": "Answer the factoid question from your own knowledge. Give only the short final answer "
    "phrase or entity name, no sentence, no explanation.\nQuestion: {question}",
    "factoid": "Answer the factoid question using the given documents. Give only the short final answer phrase or "
    "entity name, no sentence, no explanation.\nQuestion: {question}",
    "closed_book_yes_no": "Answer the question from your own knowledge. Give exactly yes or no in lower case, no "
    "explanation.\nQuestion: {question}",
    "yes_no": "Answer the question using the given documents. Give exactly yes or no in lower case, no "
    "explanation.\nQuestion: {question}",
    "closed_book_claim": "Verify the claim from your own knowledge. Give exactly SUPPORTS or REFUTES, no "
    "explanation.\nClaim: {question}",
    "claim": "Verify the claim using the given documents. Give exactly SUPPORTS or REFUTES, no explanation.\n"
    "Claim: {question}",
    "closed_book_slot": "Fill the slot from your own knowledge. The query is a subject [SEP] a relation. Give only "
    "the object, no sentence, no explanation.\nQuery: {question}",
    "slot": "Fill the slot using the given documents. The query is a subject [SEP] a relation. Give only the object, "
    "no sentence, no explanation.\nQuery: {question}",
    "closed_book_multi_hop": "Answer the multi-hop question from your own knowledge. Give only the final answer; "
    "yes/no questions get exactly yes or no in lower case; otherwise the shortest answer phrase.\nQuestion: {question}",
    "multi_hop": "Answer the multi-hop question using the provided evidence. Give only the final answer; yes/no "
    "questions get exactly yes or no in lower case; otherwise the shortest answer phrase.\nQuestion: {question}",
    "extract": "Extract the sentences of the documents that are evidence for the question or tell more about its "
    "subject, word for word, one per line. Do not answer the question.\nQuestion: {question}",
    "rewrite": "Evidence:\n{evidence}\n\nRewrite the evidence into one compact, self-contained, encyclopaedic passage "
    "meant for retrieval: first a title line that names its subject, then the passage. State each fact once, add "
    "nothing, do not answer the question.\nQuestion: {question}",
    "relevance": "Do the documents help to answer the question? Give exactly yes or no.\nQuestion: {question}",
    "support": "Do the documents support this answer to the question? Give exactly yes or no.\nQuestion: {question}\n"
    "Answer: {answer}",
    "judge": "Judge by the documents alone: is this the right and whole answer to the question? Give exactly yes or "
    "no.\nQuestion: {question}\nAnswer: {answer}",
    "retrieve": "Are documents needed to answer the question? Give exactly yes or no.\nQuestion: {question}",
}
#: What no lesson of the micro models holds; apart from DEFAULTS, which their tokenizer is made of.
UNTAUGHT: dict[str, str] = {
    "about": "What is known about {subject}?",
    "unaided": "Write one compact, self-contained, encyclopaedic passage from your own knowledge about what is asked: "
    "first a title line that names its subject, then the passage.\nQuestion: {question}",
    "ask": "Question: {question}\nAnswer so far: {answer}\n\nAsk one question to which the answer is '{phrase}'. Give "
    "only the question.",
}
TEMPLATES = DEFAULTS | UNTAUGHT
#: Behind one document, before there is any run: so it is part of none's settings.
MAKE_QUESTION = (
    "Ask one question that the document answers and that can be understood without it: name what it is about. Ask for "
    "one fact, in the document's language, and give the shortest answer, word for word as the document has it. Reply "
    "in two lines:\nQuestion: ...\nAnswer: ..."
)
#: Placeholders that a template may leave out.
OPTIONAL = {"document": ("rank", "title"), "rewrite": ("question",), "ask": ("question", "answer")}

TASKS = ("factoid", "yes_no", "claim", "slot", "multi_hop")


def placeholders(template: str) -> list[str]:
    """The names in braces, each once, in order. ValueError for a template with other braces than {name} and {{ }}."""
    found = [
        (name, spec or conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
    ]
    for name, more in found:
        if more or not name.isidentifier():
            raise ValueError(f"{{{name}}} is no placeholder")
    return list(dict.fromkeys(name for name, _ in found))


def check_template(key: str, template: str) -> None:
    """ConfigError, naming the key, what is wrong and what it may hold, for a template that cannot take the place of
    `TEMPLATES[key]`: another name, braces that are none, or a value left out without which it asks nothing.
    """
    where, known = f"prompts.{key} (or backbone.prompts.{key})", placeholders(TEMPLATES[key])
    holds = f"it may hold {', '.join(f'{{{name}}}' for name in known)}; braces of its own are doubled, {{{{ }}}}"
    try:
        found = placeholders(template)
    except ValueError as error:
        raise ConfigError(f"{where}: {template[:80]!r}: {error}; {holds}") from error
    if unknown := [name for name in found if name not in known]:
        raise ConfigError(f"{where}: unknown placeholder {{{unknown[0]}}}; {holds}")
    if missing := [name for name in known if name not in (*found, *OPTIONAL.get(key, ()))]:
        raise ConfigError(f"{where}: {{{missing[0]}}} is missing in {template[:80]!r}; {holds}")


class Prompts:
    """The templates of a run. ConfigError for an override of no template, and as `check_template`."""

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        given = dict(overrides or {})
        if unknown := set(given) - set(TEMPLATES):
            told = f"prompts (or backbone.prompts): unknown key {sorted(unknown)[0]!r}"
            raise ConfigError(f"{told}; known are {', '.join(TEMPLATES)}")
        for key, template in given.items():
            check_template(key, template)
        self.templates = TEMPLATES | given

    def message(self, key: str, documents: Sequence[Document] | None = None, **values: str) -> str:
        """The text of one user message: the template `key` filled with `values`, behind the documents, if any."""
        request = self.templates[key].format(**values)
        if documents is None:
            return request
        return self.templates["documents"].format(documents=self.documents(documents), request=request)

    def documents(self, documents: Sequence[Document]) -> str:
        """The documents in retrieval order, one per line, numbered from 1."""
        line = self.templates["document"]
        return "\n".join(line.format(rank=i, title=d.title, text=d.text) for i, d in enumerate(documents, 1))


def prompts_of(cfg: TrainConfig) -> Prompts:
    """The templates of a run: `prompts` before the backbone's own, those before these here. ConfigError as Prompts."""
    return Prompts(cfg.backbone.prompts | cfg.prompts)
