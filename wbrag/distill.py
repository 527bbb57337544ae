"""The two-step distiller k = F(q, D*) (paper, section 3.3): extract the evidence, rewrite it as one passage.

F sees the question and the kept documents; there is no way in for the gold answer. A reply that cannot be a passage
is refused here, with the name of what is wrong with it, so that it never reaches the knowledge base.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wbrag.llm import LLM, Reply
from wbrag.llm.fit import ask
from wbrag.prompts import Prompts
from wbrag.schema import Document, unit_id
from wbrag.units.sentences import whole_sentences

#: A reply may be GROWTH times as long as what it was made from, or SHORT characters (a mean unit of the paper).
GROWTH, SHORT = 3, 400
#: Text is a loop when fewer than one in REPEATS of its pieces of PIECE characters are distinct.
PIECE, REPEATS = 12, 3
#: The least share of a reply's character trigrams that its source must hold; another language or topic holds fewer.
KINSHIP = 0.2

_MARKER = re.compile(r"^(?:[-*\u2022\u2013\u2014]+\s+|\(?(\d{1,3})[.)\]]\s+|\[(\d{1,3})\]\s*)")
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|okay|here)\b.*:$", re.IGNORECASE)
_HEADING = re.compile(r"^#{1,6}\s+")
_LABEL = re.compile(r"^(?:title|passage|text)\s*:\s*\**\s*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?i)^\W*(?:i(?:'m| am) (?:sorry|unable|not able)\b|sorry[,.]|as an ai\b|(?:none|n/a|unknown|nothing)\W*$"
    r"|i (?:cannot|can't|can not|could not|couldn't|won't) (?:help|assist|answer|find|extract|provide|rewrite)\b"
    r"|(?:there (?:is|are|was|were) )?no (?:\w+ ){0,2}(?:evidence|sentences?|information)(?:\W*$| (?:is|are|was|in)\b)"
    r"|(?:none of )?(?:the |these |this )?(?:\w+ )?(?:documents?|passages?|evidence) (?:do|does|did)(?: not|n't)\b)",
)
#: The same as it begins in other languages: an apology, or "I cannot help / answer / find".
_REFUSAL_ELSEWHERE = re.compile(
    r"(?i)^\W*(?:(?:es )?tut mir (?:sehr )?leid\b|entschuldigung,|ich kann (?:ihnen|dir|dabei|das|diese\w*|leider)\b"
    r"|(?:je suis )?désolée?\b|je ne (?:peux|suis) pas (?:vous|répondre|en mesure|aider|extraire|trouver)\b"
    r"|lo siento\b|no puedo (?:ayudar|responder|proporcionar|encontrar|extraer|cumplir)"
    r"|desculp[ea]\b|sinto muito\b|(?:eu )?não posso (?:ajudar|responder|fornecer|extrair)"
    r"|mi dispiace\b|(?:mi )?spiacente\b|non posso (?:aiutar|rispondere|fornire|estrarre)"
    r"|het spijt me\b|ik kan (?:u|je|dit|deze|hier)\b|przykro mi\b|przepraszam\b|nie mogę (?:pomóc|odpowiedzieć)"
    r"|üzgünüm\b|maalesef\b|maaf\b|xin lỗi\b|tôi (?:xin lỗi|không thể)\b"
    r"|(?:извините|простите),|(?:к сожалению\W+)?я не могу\b"
    r"|(?:很|非常)?(?:抱歉|对不起|對不起)|作为(?:一个)?(?:人工智能|AI)|我(?:无法|無法|不能)(?:回答|提供|帮助|找到)"
    r"|(?:大変)?申し訳|すみません|ごめん|죄송|미안(?:하|합)"
    r"|क्षमा करें|माफ़? करें|मुझे खेद|عذر\u064b?\u0627\u064b?(?!\w)|آسف\b|أعتذر\b|لا (?:أستطيع|يمكنني)\b)"
)
_NOT_PROSE = re.compile(r"^(?:```|[{<]|\[\s*[\"'{\[])")
_BROKEN = re.compile("[\x00\ufffd\ud800-\udfff]")


class UnusableReply(ValueError):
    """A distiller's reply that no unit can be made of; the message names the step and the class of fault."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """What F made: a title (may be empty), a passage, the evidence lines behind it, and those of D* that it read."""

    title: str
    text: str
    evidence: str
    sources: Sequence[Document]


async def distil(
    question: str, documents: Sequence[Document], llm: LLM, prompts: Prompts, max_tokens: int
) -> Distilled:
    """F(q, D*): two calls of at most `max_tokens` each. `documents` is D*, in retrieval order.

    Documents that do not fit the extraction prompt are dropped from the tail and are no sources. Raises UnusableReply
    for a reply of either step that cannot be used, PromptTooLong where nothing fits.
    """
    reply, read = await ask(llm, prompts, "extract", max_tokens, documents, question=question)
    sources = "\n".join(document.contents for document in documents[:read])
    evidence = "\n".join(evidence_lines(_whole(reply, max_tokens)))
    require_usable("extract", reply.text, evidence, sources)
    title, text = await rewritten(question, evidence, f"{sources}\n{evidence}", llm, prompts, max_tokens)
    return Distilled(title, text, evidence, documents[:read])


async def rewritten(
    question: str, evidence: str, sources: str, llm: LLM, prompts: Prompts, max_tokens: int
) -> tuple[str, str]:
    """The second step of F: title (may be empty) and text of a passage made of the evidence, one line a sentence.

    Errors as `distil` has them; `sources` is what the passage has to be akin to.
    """
    reply, _ = await ask(llm, prompts, "rewrite", max_tokens, question=question, evidence=evidence)
    title, text = title_and_text(_whole(reply, max_tokens))
    require_usable("rewrite", reply.text, text, sources, longest=len(evidence))
    return title, text


def knowledge_unit(example_ids: Sequence[str], distilled: Distilled, llm: LLM) -> dict[str, Any]:
    """The unit with its provenance, a row of `schema.UNIT`.

    `source_tokens` and `unit_tokens` are the generator's tokens of the contents (title and text) of sources and unit.
    """
    source_ids = [document.id for document in distilled.sources]
    return {
        "id": unit_id(distilled.title, distilled.text, source_ids),
        **{"title": distilled.title, "text": distilled.text},
        **{"example_ids": list(example_ids), "source_ids": source_ids},
        "source_tokens": sum(llm.count_tokens(document.contents) for document in distilled.sources),
        "unit_tokens": llm.count_tokens(f"{distilled.title}\n{distilled.text}"),
        **{"subject": "", "form": "distilled", "doubt": ""},
    }


def evidence_lines(reply: str) -> list[str]:
    """The sentences of an extraction reply: one a line, bullets and list numbers off, empty lines and repeats dropped.

    A leading number goes only where it is the line's own place in the list, so that "7. Armee" stays whole elsewhere.
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    if lines and _PREAMBLE.match(lines[0]):
        lines = lines[1:]
    return list(dict.fromkeys(bare for place, line in enumerate(lines, 1) if (bare := _unmarked(line, place))))


def title_and_text(reply: str) -> tuple[str, str]:
    """A rewriting reply as (title, text): first line and the rest joined by spaces; one line alone has title ""."""
    lines = [_HEADING.sub("", line.strip()).strip("*").strip() for line in reply.splitlines()]
    lines = [bare for line in lines if (bare := _LABEL.sub("", line))]
    if lines and _PREAMBLE.match(lines[0]):
        lines = lines[1:]
    return (lines[0], " ".join(lines[1:])) if len(lines) > 1 else ("", "".join(lines))


def require_usable(step: str, reply: str, parsed: str, source: str, longest: int = 0) -> None:
    """Raise UnusableReply, naming step and fault, unless `parsed` can be a passage made from `source`.

    `reply` is the text before parsing. It may hold GROWTH times `longest` characters (default: the length of `source`).
    """
    fault = _fault(reply.strip(), parsed, source, max(SHORT, GROWTH * (longest or len(source))))
    if fault:
        raise UnusableReply(f"{step} reply {fault}; it begins {reply.strip()[:60]!r}")


def _fault(reply: str, parsed: str, source: str, limit: int) -> str:
    if _BROKEN.search(reply):
        return "broken_text: holds NUL or bytes that are not UTF-8"
    if len(reply) > limit:
        return f"too_long: {len(reply)} characters > {limit}"
    if _NOT_PROSE.match(reply):
        return "not_prose: code, markup or JSON"
    declines = (_REFUSAL, _REFUSAL_ELSEWHERE)
    if any(one.match(text.replace("\u2019", "'")) for text in (reply, parsed) for one in declines):
        return "refusal: the model declines"
    if _loops(said := parsed or reply) or _loops(said[len(said) // 2 :]):
        return "repetition: it says the same again and again"
    if not re.search(r"\w", parsed):
        return "empty: no whole sentence"
    own = _trigrams(parsed)
    if (shared := len(own & _trigrams(source)) / len(own)) < KINSHIP:
        return f"unrelated: shares {shared:.2f} of its trigrams with its source, less than {KINSHIP}"
    return ""


def _loops(text: str) -> bool:
    pieces = [text[i : i + PIECE] for i in range(len(text) - PIECE + 1)]
    return len(pieces) >= PIECE and len(set(pieces)) * REPEATS < len(pieces)


def _trigrams(text: str) -> set[str]:
    padded = f" {' '.join(text.lower().split())} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def _unmarked(line: str, place: int) -> str:
    marker = _MARKER.match(line)
    if marker is None:
        return line
    number = marker[1] or marker[2]
    return line if number and int(number) != place else line[marker.end() :].strip()


def _whole(reply: Reply, max_tokens: int) -> str:
    """The reply without the sentence that the token limit cut off (none left where no sentence ended)."""
    cut = reply.completion_tokens >= max_tokens if reply.cut is None else reply.cut
    return whole_sentences(reply.text) if cut else reply.text
