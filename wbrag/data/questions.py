"""Questions made of documents by a generator, for who has none: asked of a passage, answered back from it, kept only
where the answer is found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wbrag.data.flashrag import BadRow, example_of
from wbrag.llm import LLM
from wbrag.llm.fit import ask, fit_documents
from wbrag.metrics import acc, normalise
from wbrag.prompts import MAKE_QUESTION, Prompts
from wbrag.schema import Document, Example

#: Tokens of a question with its answer.
QUESTION_TOKENS = 128

_REPLY = re.compile(
    r"^[*_#\s]*question\s*[*_]*:[*_]*\s*(?P<question>\S.*?)\s*^[*_#\s]*answer\s*[*_]*:[*_]*\s*(?P<answer>\S[^\n]*)",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one passage: a question with its answer, or why there is none. `failed`: a call went wrong."""

    source: str
    example: Example | None
    reason: str = ""
    failed: bool = False


async def asked_of(document: Document, llm: LLM, prompts: Prompts, answer_tokens: int, judged: bool) -> Asked:
    """A question that this passage answers, and its golden answer.

    It is kept where the generator, shown the passage and the question alone, gives an answer that holds the golden one;
    or, `judged`, where it says that the golden answer is right: answers in free words are never repeated as they stand.
    """
    try:
        found = await _question(document, llm, prompts)
        told, golden = {"question": found.question}, found.golden_answers[0]
        if judged:
            reply, _ = await ask(llm, prompts, "judge", answer_tokens, [document], **told, answer=golden)
            holds = normalise(reply.text).split()[:1] == ["yes"]
        else:
            reply, _ = await ask(llm, prompts, "factoid", answer_tokens, [document], **told)
            holds = acc(reply.text, [golden]) == 1.0
    except BadRow as error:
        return Asked(document.id, None, str(error))
    except Exception as error:  # one call must not take the others along; the caller counts them
        return Asked(document.id, None, f"{type(error).__name__}: {error}", failed=True)
    if not holds:
        return Asked(document.id, None, f"{golden[:60]!r} was not found again: {reply.text[:60]!r}")
    return Asked(document.id, found)


async def _question(document: Document, llm: LLM, prompts: Prompts) -> Example:
    """The question and the answer of a reply; BadRow where it has none."""

    def render(documents: Sequence[Document]) -> str:
        return prompts.templates["documents"].format(documents=prompts.documents(documents), request=MAKE_QUESTION)

    prompt, _ = fit_documents([document], render, llm, QUESTION_TOKENS)
    reply = await llm.chat(prompt, QUESTION_TOKENS)
    found = _REPLY.search(reply.text)
    if not found or not normalise(found["answer"]):
        raise BadRow(f"no question with an answer: {reply.text[:60]!r}")
    question = " ".join(found["question"].split())
    return example_of(
        {"question": question, "golden_answers": [found["answer"].strip(" *_")], "metadata": {"source": document.id}}
    )
