"""Text that speaks to a model and not to a reader: told by rules, left out sentence by sentence. Pure.

Told are orders to a model ("ignore the above"), the markers of roles, chat templates and tool calls, HTML comments and
scripts, encoded text, and characters that nobody sees. Orders are told in English, the commonest of them in other
languages too; one in other words is not told apart from prose.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from functools import lru_cache

from wbrag.schema import Document
from wbrag.units.sentences import plain, sentences

#: Where an imperative begins: "critics ignore these rules" is prose.
_BEGINS = (
    r"(?:^|[^\w\s]\s*|\b(?:please|and|now|then|must|should|to|you|will|kindly|immediately|just|do|first|also|so|instead"
    r"|always) )"
)
_DROP = rf"{_BEGINS}(?:ignore|disregard|forget|override|bypass|discard|(?:do not|don't) follow|pay no attention to)"
_PAST = r"(?:above|earlier|foregoing|other|preceding|previous|prior)"
_TOLD = r"(?:instructions?|prompts?|rules|directions?|guidelines|messages?|commands?|training|constraints)"
_READ = r"(?:(?:documents?|passages?|sources?|texts?|context|questions?|conversation)\b)"
_NAMED = (
    r"(?:assistant|language model|chatbot|llm|(?:chat)?gpt(?:-?\d\w*)?|ai (?:language )?(?:assistant|model|agent"
    r"|system))"
)
_MODEL = rf"(?:ai|{_NAMED})"
_SAY = r"(?:answer(?! (?:to|for)\b)|respond|reply|say|output|tell|repeat|reveal)"
_REPLY = r"(?:answers?|reply|replies|responses?|output|summar(?:y|ies))"
_FIRST = r"^\W*(?:please |now |instead,? |always |from now on,? )"
_ASKED = (
    r"(?:you(?: are|'re) asked (?!to\b)|(?:users?|someone|somebody|any(?:one|body)|people) (?:asks?|wants? to know"
    r"|[ei]nquires?)|(?:quer(?:y|ies)|questions?|prompts?) (?:is|are|asks?|contains?|mentions?|concerns?)\b)"
)
#: What is said to a model, in plain small letters.
_ORDER = re.compile(
    "|".join(
        (
            rf"{_DROP}\b[^.!?]{{0,40}}\b(?:all|any|your|these|those|{_PAST})\b[^.!?]{{0,30}}\b{_TOLD}\b",
            rf"{_DROP} the (?:system )?(?:instructions?|prompt)\b",
            rf"{_DROP} (?:\w+ ){{0,3}}(?:above|foregoing|preceding|before this|said so far)\b(?! all\b)",
            r"^\W*(?:\w+\s*[:,!-]\s*)?(?:please |now |immediately |kindly )*(?:(?:ignore|disregard|forget)"
            rf"|pay no attention to) (?:(?:all |any |the |every )*(?:{_PAST} |\w+ )?{_READ}"
            rf"|what(?:ever)? (?:the )?users?"
            r"\b|(?:what|whatever|all|(?:any|every)(?:thing)?)(?: that)? (?:else|before|said|you (?!know|thi|learn)))",
            r"\b(?:these|the following|all other|previous|prior|above) instructions (?:supersede|override|replace"
            r"|must)\b",
            rf"\byou are (?:now |no longer |hereby )*(?:an? |the )?(?:\w+ )?{_MODEL}\b",
            rf"\b(?:pretend|act|behave|respond|answer|reply) (?:as|like) (?:if you|an? (?:\w+ )?{_MODEL})\b",
            r"\b(?:you (?:must|should|shall|have to|will|are to)(?: now| always| only| never| instead)*|that you)"
            rf" (?:{_SAY}|ignore|(?:obey|comply with) (?:me|this|these|the following))\b",
            r"\byou (?:must|should|shall|will) (?:now|always|only|never|instead) (?:state|return|print|call|write)\b",
            r"\bfrom now on,? you (?:are|must|will|answer|respond)\b",
            r"\bno matter what (?:the )?(?:users?|questions?|you are)\b|^\W*(?:new )?system (?:prompt"
            r"|override)\b[^.!?]{0,20}[:(]",
            rf"\byour (?:\w+ )?(?:{_REPLY}|task|instructions?|prompt|context)\b",
            rf"{_BEGINS}(?:tell|inform|remind|convince) (?:the |every |all )?users?\b|^\W*stop reading\b",
            rf"\b(?:{_MODEL}s?|retrieval systems?|search engines?) (?:must|should|has to|have to|is to)(?: always"
            rf"| only| now)* "
            rf"(?:{_SAY}|rank|return|state|ignore|comply|obey)\b",
            r"\byou (?:will |must |should )?(?:now )?act as\b",
            rf"\bas an? (?:large )?{_MODEL}, ",
            r"\bwhen (?:you )?(?:summari[sz]ing|answering|responding|processing) (?:to )?(?:this|(?:the "
            r"|any )?(?:questions?|users?|quer\w+))\b",
            r"\b(?:any|all|every|each) (?:\w+ )?(?:questions?|quer(?:y|ies))\b[^.]{0,60}\banswer (?:is|must|should)\b",
            rf"\b(?:if|when(?:ever)?|should|in case)\b[^.!?]{{0,30}}\b{_ASKED}[^.!?]{{0,80}}(?:, (?:please |always "
            rf"|then |just )*{_SAY}"
            r"|\bthe answer (?:is|must|should))\b",
            r"\b(?:documents|passages|all other sources) are (?:wrong|false|outdated|unreliable)\b",
            rf"^\W*(?:new task|directive)\s*:|^\W*instructions?\s*:\s*{_SAY}\b",
            r"^\W*(?:please )?(?:summari[sz]e|translate|rewrite|paraphrase|repeat) (?:the |this |all )(?:above"
            r"|following|text|passage|document|previous)\b",
            r"\b(?:execute|call|invoke|run) (?:the )?(?:\w+ )?\w+\((?:\w+\s*=\s*)?[\"']",
            r"\b(?:new|updated|hidden|secret|real|important|additional)(?: system)? instructions?\s*(?::|-|for you\b)",
            rf"\b(?:instruction|note|message|attention|warning)s? (?:to|for) (?:the |all |any )?{_MODEL}s?\b",
            rf"\b(?:this|it|line|page|message|note|text) is (?:\w+ )?(?:meant|intended|addressed) (?:for|to) (?:the "
            rf"|an? |all |any )?{_MODEL}s?\b|\b{_MODEL}s? (?:that reads?|reading) this\b",
            rf"^\W*(?:attention|note|important|dear|hey|hello)\W*{_MODEL}s?\s*[:,!]|^\W*{_NAMED}s?\s*:",
            rf"(?:{_FIRST}|^\W*)(?:answer|respond|reply)(?: to)? (?:every|all|any|each|with|only|exactly|in|this|the) ",
            rf"{_FIRST}+(?:output|print|repeat|return|say|state|tell)\b",
            r"^\W*(?:output|print|repeat|return|say|write|claim) (?:only|exactly|that|the (?:word|phrase|text"
            r"|following))\b",
            rf"^\W*give (?:no|only|the|this) (?:other )?{_REPLY}\b",
            rf"\b(?:add|append|attach|include|insert)\b[^.!?]{{0,40}}\b(?:to|in|at the end of) (?:each|every|all|any)"
            rf" (?:of )?{_REPLY}\b",
            r"^\W*(?:do not|don't|never) (?:mention|reveal|cite|use|trust|answer|tell|disclose|quote) (?:any|the|this"
            r"|that|other|to|it|users?)\b",
            r"\b(?:reveal|print|repeat|show|leak) (?:\w+ ){0,2}(?:your instructions|(?:your|the) (?:\w+ )?prompt)\b",
        )
    )
)
#: The same in other languages: words for dropping, where an imperative begins, and for what was told.
_DROP_ABROAD = {
    r"ignoriere|vergiss|missachte|(?:ignorieren|vergessen|missachten) sie": (
        r"anweisung|vorgabe|regel|befehl|instruktion|obige|bisherige|vorherige|\bwas "
    ),
    r"ignore[zr]?|oublie[zr]?|ne (?:pas )?ten(?:ir|ez|s) (?:pas )?compte": "instruction|consigne|directive|ci-dessus",
    r"ignor[ae]n?|ignorate|olvid[ae]n?|dimentica(?:te)?|esquec[ae]|desconsidere": "instruc|istruzion|indicacion"
    r"|anterior",
    "negeer|vergeet": "instructie|opdracht|bovenstaand",
    "z?ignoruj": "instrukc|polecen",
    r"(?:про)?игнорируи\w*|забудь\w*": "инструкц|указан|правил|что",
    "忽略|无视|忘记|忘掉|不要理会": "以上|之前|上述|前面|先前|所有|你",
    "تجاهل|انس": "تعليمات|اوامر|قواعد",
}
_USER_ASKS = (
    r"(?:nutzer|utilisateur|usuario|utente|пользовател|用户|ユーザー|مستخدم|उपयोगकर्ता)[^.!?。।]{0,40}"
    r"(?:frag|demand|pregunt|pergunt|chied|спраш|спрос|问|質問|尋ね|聞|سال|पूछ)[^.!?。।]{0,60}"
)
_ABROAD = re.compile(
    "|".join(
        (
            *(
                r"(?:^|[^\w\s]\s*|\b(?:bitte|und|veuillez|et|puis|por favor|per favore|y|e|poi|en|i|и|пожалуиста) "
                r"|[请要须])"
                rf"(?:{drop})[^.!?。]{{0,40}}(?:{told})"
                for drop, told in _DROP_ABROAD.items()
            ),
            "(?:指示|命令|ルール|プロンプト)[^。]{0,16}(?:無視(?:し|せよ)|忘れ[てろ])",
            "(?:निर्देश|आदेश|नियम)[^।]{0,16}(?:अनदेखा|उपेक्षा|भूल) ?(?:कर ?)?(?:ें|दें|दो|ो|जाओ|जाएं|कीजिए)",
            rf"{_USER_ASKS}(?:\b(?:antworten? sie|antworte|repond(?:s|ez)|respond[ea]|rispondi|اجب)\b|отвечаи|ответь"
            rf"|скажи"
            "|[请就只]回答|答えて|(?:उत्तर|जवाब) द(?:ें|ो))",
            r"(?:zeig|gib|affich|montr|muestr|mostr|покажи|выведи|显示|输出|表示|اظهر)\w*[^.!?。]{0,30}"
            r"(?:prompt\b|\binvite|промпт|提示词|系统提示|プロンプト)",
            r"(?:\b(?:du bist|vous etes|tu es|eres|voce e|ты|انت)\b|你(?:现在)?是|あなたは|आप)[^.!?。।]{0,30}"
            "(?:assistent|assistant|asistente|chatbot|ассистент|помощник|助手|语言模型|アシスタント|مساعد|सहायक)",
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
            r"[\"']role[\"']\s*:\s*[\"'](?:system|developer)\b",
            r"\bAction Input:\s|\bAction:\s*\w+[\[({]",
            r"<!--|-->|<(?:script|iframe|style|object|embed|svg|meta)\b|javascript:|data:\w+/[\w.+-]+;base64,",
            r"style\s*=[^>]{0,200}?(?:display:\s*none|visibility:\s*hidden|(?:font-size|opacity):\s*0\b)",
            r"https?://[^\s)]*=[{\[<]",
            r"!\[[^\]]{0,200}\]\(\s*https?:[^)\s]{0,400}\?",
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
#: Letters of other scripts, and signs in the midst of letters, that look like these.
_LOOKS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u04bb\u0501\u0578\u03bf", "aeopcyxisjhdno"
)
_DIGITS = str.maketrans("013457@$", "oieastas")
_MIXED = re.compile(r"(?<!\w)(?=[\w@$]*[a-z])[\w@$]*[\d@$][\w@$]*")
#: What stands between letters that are drawn apart, five or more.
_APART = re.compile(r"(?<!\w)\w(?:[ ._*-]\w){4,}(?!\w)")
_BETWEEN = re.compile(r"(?<=(?<!\w)\w)[ ._*-](?=\w(?!\w))")


def attack(text: str) -> str:
    """What in a sentence or title speaks to a model, or is hidden from a reader; "" for nothing."""
    if hidden := _hidden(text):
        return hidden
    if found := _MARKED.search(text):
        return f"a marker, {found[0].strip()[:40]!r}"
    said = plain(text).lower()
    for one in _spellings(said):
        if found := _ORDER.search(one) or _ABROAD.search(one):
            return f"it speaks to a model, {found[0].strip()[:60]!r}"
    if any(_readable(found[0]) for found in _ENCODED.finditer(text)):
        return "encoded text"
    return ""


def seen(text: str) -> str:
    """A text without stray characters that nobody sees, where no script needs them: what a copied web page has."""
    return text if text.isascii() or _JOINED.search(text) else _UNSEEN.sub("", text)


@lru_cache(maxsize=1 << 13)  # examples of one subject retrieve the same passages, and are gone through twice
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


def _spellings(said: str) -> dict[str, None]:
    """A text as it stands, and in what its letters look like; each once, in order."""
    told = [said, said.translate(_LOOKS), _MIXED.sub(lambda word: word[0].translate(_DIGITS), said)]
    if _APART.search(said):
        told.append(re.sub(r"\s+", " ", _BETWEEN.sub("", said)))
    return dict.fromkeys(told)


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
