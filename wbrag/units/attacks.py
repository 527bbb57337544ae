"""Text that speaks to a model and not to a reader: told by rules, left out sentence by sentence. Pure.

Told are orders to a model ("ignore the above"), the markers of roles, chat templates and tool calls, HTML comments and
scripts, encoded text, and characters that nobody sees. Orders are told in English, the commonest of them in seven other
languages; one in other words, or drawn out of letters ("i g n o r e"), is not told apart from prose.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace

from wbrag.schema import Document
from wbrag.units.sentences import plain, sentences

#: In the imperative: "critics ignore these rules" is prose.
_DROP = (
    r"(?:^|[^\w\s]\s*|\b(?:please|and|now|then|must|should|to|you|will|kindly|immediately|just|do|first|also|so|instead"
    r"|always) )(?:ignore|disregard|forget|override|bypass)"
)
_TOLD = r"(?:instructions?|prompts?|rules|directions?|guidelines|messages?|commands?|training|constraints)"
_NAMED = r"(?:assistant|language model|chatbot|llm|(?:chat)?gpt(?:-?\d\w*)?|ai (?:language )?(?:assistant|model|agent))"
_MODEL = rf"(?:ai|{_NAMED})"
_FIRST = r"^\W*(?:please |now |instead,? |always |from now on,? )"
#: What is said to a model, in plain small letters.
_ORDER = re.compile(
    "|".join(
        (
            rf"{_DROP}\b[^.!?]{{0,40}}\b(?:all|any|your|these|those|previous|prior|above|earlier|preceding)\b"
            rf"[^.!?]{{0,30}}\b{_TOLD}\b",
            rf"{_DROP} the (?:system )?(?:instructions?|prompt)\b",
            rf"{_DROP} (?:\w+ ){{0,3}}(?:above|foregoing|preceding|before this|said so far)\b(?! all\b)",
            r"^\W*(?:\w+\s*[:,!-]\s*)?(?:please |now |immediately |kindly )*(?:(?:ignore|disregard|forget)"
            r"|pay no attention to)"
            r" (?:all|everything|any|anything|other|prior|previous|earlier|what|whatever|the (?:above|previous|other"
            r"|(?:\w+ )?(?:documents?|passages?|text|context|question)))\b",
            r"\b(?:these|the following|all other|previous|prior|above) instructions (?:supersede|override|replace"
            r"|must)\b",
            r"\bdo not follow (?:the|your|any|these|previous|earlier)\b",
            rf"\byou are (?:now |no longer |hereby )*(?:an? |the )?(?:\w+ )?{_MODEL}\b",
            rf"\b(?:pretend|act|behave|respond|answer|reply) (?:as|like) (?:if you|an? (?:\w+ )?{_MODEL})\b",
            r"\byou (?:must|should|shall|have to|will|are to)(?: now| always| only| never| instead)* (?:answer|respond"
            r"|reply|say|state|output|ignore|return|print|call|repeat|obey|comply|reveal)\b",
            r"\bfrom now on,? you (?:are|must|will|answer|respond)\b",
            r"\b(?:system (?:prompt|override)|jailbreak|prompt injection)\b|\bno matter what (?:the )?(?:users?"
            r"|questions?|you)\b",
            r"\byour (?:\w+ )?(?:answers?|reply|replies|response|output|summary|task|instructions?|prompt)\b",
            r"\b(?:tell|inform|remind|convince) (?:the |every |all )?users?\b|^\W*stop reading\b",
            rf"\b(?:{_MODEL}|retrieval systems?|search engines?) (?:must|should|has to|is to)(?: always"
            rf"| only| now)* "
            r"(?:respond|answer|reply|say|output|state|rank|return|ignore|comply|obey)\b",
            r"\byou (?:will |must |should )?(?:now )?act as\b|\b(?:crucial|important|imperative|essential"
            r"|mandatory) that you\b",
            rf"\bas an? (?:large )?{_MODEL}, ",
            r"\bwhen (?:you )?(?:summari[sz]ing|answering|responding|processing) (?:this|the|any|questions?|users?)\b",
            r"\b(?:any|all|every|each) (?:\w+ )?(?:questions?|quer(?:y|ies))\b[^.]{0,60}\banswer (?:is|must|should)\b",
            r"\b(?:other|all other) (?:documents?|passages?|sources?) (?:are|is) (?:wrong|false|outdated|unreliable)\b",
            r"^\W*(?:new task|instructions?|directive)\s*:",
            r"^\W*(?:please )?(?:summari[sz]e|translate|rewrite|paraphrase|repeat) (?:the |this |all )(?:above"
            r"|following|text"
            r"|passage|document|previous)\b",
            r"\b(?:execute|call|invoke|run) (?:the )?(?:\w+ )?\w+\((?:\w+\s*=\s*)?[\"']",
            r"\b(?:new|updated|hidden|secret|real|important|additional)(?: system)? instructions?\s*(?::|-|for you\b)",
            rf"\b(?:instruction|note|message|attention|warning)s? (?:to|for) (?:the |all |any )?{_MODEL}s?\b",
            rf"^\W*(?:attention|note|important|dear|hey|hello)\W*{_MODEL}s?\s*[:,!]|^\W*{_NAMED}s?\s*:",
            rf"(?:{_FIRST}|^\W*)(?:answer|respond|reply)(?: to)? (?:every|all|any|each|with|only|exactly|in|this|the) ",
            rf"{_FIRST}+(?:output|print|repeat|return|say|state|tell)\b",
            r"^\W*(?:output|print|repeat|return|say) (?:only|exactly|the (?:word|phrase|text|following))\b",
            r"\banswer to (?:this|your) (?:\w+ )?questions?\b",
            r"^\W*(?:do not|don't|never) (?:mention|reveal|cite|use|trust|answer|tell|disclose|quote) (?:any|the|this"
            r"|that|other|to|it|users?)\b",
            r"\b(?:reveal|print|repeat|show|leak) (?:\w+ ){0,2}(?:your instructions|(?:your|the) prompt)\b",
            r"\bignorier\w* (?:\w+ ){0,3}(?:anweisung|obige|vorherige|bisherige)|\bvergiss alles? (?:obige|bisherige)",
            r"\bignore[zr] (?:\w+ ){0,3}instructions|\bignor[ae]n? (?:\w+ ){0,3}(?:instruc|istruzion)",
            "\u0438\u0433\u043d\u043e\u0440\u0438\u0440\u0443\u0438",  # Russian, and Chinese: ignore what is above
            "(?:\u5ffd\u7565|\u65e0\u89c6)(?:\u4ee5\u4e0a|\u4e4b\u524d|\u4e0a\u8ff0|\u524d\u9762|\u5148\u524d|\u6240\u6709)",
        )
    )
)
#: Roles, chat templates, calls of tools, markup that is not shown.
_MARKED = re.compile(
    "|".join(
        (
            r"(?i)<\|[a-z0-9_ ./-]{2,40}\|>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>",
            r"\[/?(?:SYSTEM|ASSISTANT)(?:_PROMPT)?\]",
            r"^\W*#{2,} *(?:instructions?|system|response|human|assistant|user|input)\b",
            r"(?:^\W*|[.!?]\s+)(?:system|assistant|developer|user|human)(?: (?:prompt|message|override|note))?"
            r"\s*[:\uff1a]\s",
            r"</?(?:tool_call|tool_response|function_calls?|function_results?|invoke|tool_use|function=\w+|think|system"
            r"|assistant|instructions?|prompt)\b[^>]*>|\{\{#|\{%",
            r"[\"'](?:tool_calls|function_call|arguments|parameters|tool_name)[\"']\s*:",
            r"\bAction Input:\s|\bAction:\s*\w+[\[({]",
            r"<!--|-->|<(?:script|iframe|style|object|embed|svg|meta)\b|javascript:|data:\w+/[\w.+-]+;base64,",
            r"!\[[^\]]*\]\(\s*https?:",
        )
    )
)
#: Letters of scripts that are written with joiners and marks that nobody sees, and what emoji are made of.
_JOINED = re.compile(
    "[\u0590-\u08ff\u0900-\u0dff\u0e00-\u109f\u1780-\u18af\ufb1d-\ufefc\u2600-\u27bf\U0001f000-\U0001faff]"
)
_UNSEEN = re.compile("[\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0]")
#: Where it splits a word.
_SPLITS = re.compile(f"(?<=[a-zA-Z]){_UNSEEN.pattern}+(?=[a-zA-Z])")
#: What no script needs: turned text, control and tag characters, hidden text of joiners or variants.
_OVERRIDES = re.compile(
    "[\u202d\u202e\x00-\x08\x0e-\x1f\x7f]|(?<!\U0001f3f4)(?<![\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
    "|[\u200b-\u200f\u2060-\u2064]{3}|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{3}"
)
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_COMMENT = re.compile(r"<!--.*?(?:-->|$)|<(script|style|iframe)\b.*?(?:</\1>|$)", re.DOTALL | re.IGNORECASE)
#: Letters of other scripts that look Latin, as these.
_LOOKS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u04bb\u0501\u0578\u03bf", "aeopcyxisjhdno"
)


def attack(text: str) -> str:
    """What in a sentence or title speaks to a model, or is hidden from a reader; "" for nothing."""
    if hidden := _hidden(text):
        return hidden
    if found := _MARKED.search(text):
        return f"a marker, {found[0].strip()[:40]!r}"
    said = plain(text).lower()
    if found := _ORDER.search(said) or _ORDER.search(said.translate(_LOOKS)):
        return f"it speaks to a model, {found[0].strip()[:60]!r}"
    if any(_readable(found[0]) for found in _ENCODED.finditer(text)):
        return "encoded text"
    return ""


def seen(text: str) -> str:
    """A text without stray characters that nobody sees, where no script needs them: what a copied web page has."""
    return text if text.isascii() or _JOINED.search(text) else _UNSEEN.sub("", text)


def cleaned(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A passage's text as a reader sees it (`seen`), without comments and without sentences that attack, and what was
    left out, each with its reason; as it stands where nothing is.
    """
    left_out = [(found[0], f"a marker, {found[0][:20]!r}") for found in _COMMENT.finditer(text)]
    parts = [(sentence, attack(sentence)) for sentence in sentences(_COMMENT.sub("\n", text))]
    left_out += [(sentence, reason) for sentence, reason in parts if reason]
    if not left_out:
        return seen(text), []
    return " ".join(seen(sentence) for sentence, reason in parts if not reason), left_out


def harmless(document: Document) -> Document:
    """A document without what attacks in it; an equal one where nothing does."""
    text, _ = cleaned(document.text)
    title = "" if attack(document.title) else seen(document.title)
    return replace(document, title=title, text=text)


def _hidden(text: str) -> str:
    if text.isascii() and text.isprintable():
        return ""
    found = _OVERRIDES.search(text) or (None if _JOINED.search(text) else _SPLITS.search(text))
    return f"a hidden character, U+{ord(found[0][0]):04X}" if found else ""


def _readable(said: str) -> bool:
    """Whether letters and digits are base64 of a text in words."""
    if said.isalpha() and (said.islower() or said.isupper()):
        return False
    bare = said.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        told = base64.b64decode(bare[: len(bare) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return len(told) > 15 and b" " in told and all(32 <= byte < 127 or byte in b"\n\t" for byte in told)
