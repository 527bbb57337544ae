"""Sentences, names, words and numbers of a text, by rules that need no model and no language. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

#: Letters of scripts that set no blanks between words, for a class of a regular expression.
UNSPACED = (
    "\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u1049\u1050-\u109f\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
)
#: What `\w` leaves out although it belongs to words: vowel signs and other marks, and what joins letters.
MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
    "\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u0f71-\u0fbc\u102b-\u103e\u1056-\u109d\u17b4-\u17d3\u200c\u200d"
)
#: Stops that end a sentence before white space, as . ! ? do (Arabic, Urdu, Armenian, Syriac, N'Ko, Mongolian, and
#: doubled ones), and those that end one wherever they stand (Indic, Tibetan, Ethiopic, Burmese, Khmer and their kin).
SPACED_STOPS = (
    "\u061d-\u061f\u06d4\u0589\u0700-\u0702\u07f9\u1803\u1809\u203c\u203d\u2047-\u2049\u2e2e\ua4ff\ua6f3\ua6f7"
)
STOPS = (
    "\u0964\u0965\u0f0d\u0f0e\u104b\u1362\u1367\u1368\u1735\u1736\u17d4\u17d5\u1944\u1945\u1aa8-\u1aab\u1b5a\u1b5b\u1b5e\u1b5f"
    "\u1c3b\u1c3c\u1c7e\u1c7f\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"
)
#: The same of Chinese and Japanese, full-width, vertical and small forms among them; the full-width dot apart.
CJK_STOPS = "\u3002\uff01\uff1f\uff61\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57"
_CLOSING = "\"'\u2019\u201c\u201d\u00bb\u300d\u300f)\\]\uff09"
#: Where a sentence ends: a stop, with closing quotes and [references], before white space; STOPS anywhere; CJK
#: stops anywhere but inside a quotation that the sentence goes on after.
_END = re.compile(
    f"[.!?\u2026{SPACED_STOPS}]++[{_CLOSING}]*(?:\\[[^\\]]*\\])*(?=\\s|$)|[{STOPS}]++[{_CLOSING}]*"
    f"|(?:[{CJK_STOPS}]|\uff0e(?!\\d))++(?:[{_CLOSING}]+(?=\\s|$|[\u300c\u300e\u201c])|(?![{_CLOSING}]))"
)
#: What ends in a full stop and ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'\u201e])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|St|Mt|Ft|Prof|Gen|Col|Sgt|Capt|Lt|Rev|Hon|Jr|Sr|No|Nr|Vol|Fig|pp|vs|etc"
    r"|ca|cf|bzw|approx|Inc|Ltd|Co|Corp|Bros|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|Chr|(?:[^\W\d_]\.\s?)+[^\W\d_])\.$"
)
#: The last blank of a text in a script without stops.
_UNMARKED = re.compile("[\u0e00-\u0eff](\\s)\\s*[\u0e00-\u0eff][^\\s]*$")
_NEXT = re.compile(r"\W*(\w+)(\.?)")
#: A German day or century: the full stop after its number ends nothing.
_DATED = re.compile(
    r"\d\.\s+(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert|Jh)\b"
)
_PART = f"(?:(?![{UNSPACED}])[\\w{MARKS}])+"
#: A word; the possessive 's belongs to none. Where words are not set apart, all that stands together is one.
_WORD = re.compile(f"[{UNSPACED}]+|{_PART}(?:[-'\u2019](?!s\\b){_PART})*")
_POSSESSIVE = re.compile("['\u2019]s\\b")
#: Small words that a name may have inside: "Duke of York", "Ludwig van Beethoven".
_INSIDE = frozenset("of the de la le del della di da dos du des van von der den al el bin ibn y".split())
#: Words that say nothing on their own; a sentence or a question begins with one more often than with a name.
STOP = frozenset(
    "a about above according after again all also although am among an and any are as at be because been before being "
    "besides between both but by can could despite did do does during each either else even every few first for from "
    "had has have he her here hers him his how however i if in instead into is it its itself just last later least "
    "less like many may me meanwhile more most much must my name neither no nobody none nor not nothing now of off on "
    "once one only or other our out over own per please rather same sep several shall she should since so some such "
    "than that the their them then there therefore these they this those though through thus to today together too "
    "true under unlike until up upon us was we were what when where whereas whether which while who whom whose why "
    "will with within without would yes yet you your".split()
)
#: Accents, and what is written or left out at will: Hebrew and Arabic vowels, joiners, soft hyphens.
_OPTIONAL = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u0640\u064b-\u0655\u0670\u00ad\u200b-\u200f\u2060\ufeff]"
)
_FRACTION = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215e])")
_ZEROS = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0de6\u0e50\u0ed0\u0f20\u1040\u17e0\u1810"
)
_PLAIN = {ord(zero) + i: str(i) for zero in _ZEROS for i in range(10)} | str.maketrans(
    "\u0142\u0141\u00f8\u00d8\u0111\u0110\u0131\u2019", "lLoOdDi'"
)
_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NTHS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
#: Numbers in words. "One", "first" and "second" are other things more often.
_WRITTEN = (
    {word: str(i) for i, word in enumerate([*_UNITS, *_TEENS], 1) if i > 1}
    | {word: str(10 * i) for i, word in enumerate(_TENS, 2)}
    | {f"{tens}-{unit}": str(10 * i + j) for i, tens in enumerate(_TENS, 2) for j, unit in enumerate(_UNITS, 1)}
    | {word: f"{i}th" for i, word in enumerate(_NTHS, 3)}
)
_IN_WORDS = re.compile(rf"\b(?:(?:{'|'.join(_TENS)})[- ](?:{'|'.join(_UNITS)})|{'|'.join(_WRITTEN)})\b", re.IGNORECASE)
_TIMES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LETTER = f"(?:(?![{UNSPACED}\\d_])[\\w{MARKS}])"
_GROUPED = "[1-9]\\d{0,2}(?:[.,']\\d{3})+(?!\\d)|[1-9]\\d{0,2}(?:(?: \\d{3}){2,}| 000)(?!\\d)"
_NUMBER = rf"(?P<grouped>{_GROUPED})(?P<part>[.,]\d+)?|\d+(?:[.,]\d+)?"
_AFTER = r"(?:(?P<nth>st|nd|rd|th)\b|'?(?P<decade>s)\b)?" + rf"(?:[ -]?(?P<times>{'|'.join(_TIMES)})\b)?"
_PERCENT = r"(?P<percent> ?(?:%|(?:percent|per cent|prozent)\b))?"
_SYMBOL = r"[?\u061f+=<>#@&$\u20ac\u00a3\u00a5\u20b9\u00b0\u00d7\u00f7\u00b1\u2190-\u22ff]|(?<![\w)])-(?=\d)"
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER}){_AFTER}{_PERCENT}|(?P<possessive>'s\b)"
    rf"|(?P<word>[{UNSPACED}][{MARKS}]*|{_LETTER}+(?:'(?!s\b){_LETTER}+)*|{_SYMBOL})",
    re.IGNORECASE,
)
_NARROW = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_CLAUSE = re.compile("[,;:()\\[\\]\u2013\u2014\u3001\u060c\u061b]|\\s-+\\s")
_ARTICLES = frozenset("a an the".split())


@dataclass(frozen=True, slots=True)
class Tokens:
    """A sentence to be compared: its words, plain, in lower case and without articles; numbers as digits ("1400000",
    "3th", "1990s", "91%"); each character where words are not set apart. `capitals` are the places of words with a
    capital, `edges` those before which a clause may begin.
    """

    words: tuple[str, ...]
    capitals: frozenset[int]
    edges: frozenset[int]


@lru_cache(maxsize=65536)
def tokens(sentence: str) -> Tokens:
    """The tokens of one sentence."""
    text = plain(_NARROW.sub("'", sentence).replace("_", " "))
    text = _IN_WORDS.sub(lambda match: _WRITTEN[match[0].lower().replace(" ", "-")], text)
    found: list[str] = []
    capitals, edges, last = set(), set(), 0
    for match in _TOKEN.finditer(text):
        if _CLAUSE.search(text[last : match.start()]):
            edges.add(len(found))
        last = match.end()
        word = _number(match) if match["number"] else (match["word"] or "").casefold()
        if word and word not in _ARTICLES:
            if match[0][0].isupper():
                capitals.add(len(found))
            found.append(word)
    return Tokens(tuple(found), frozenset(capitals), frozenset(edges))


def _number(match: re.Match[str]) -> str:
    whole = re.sub(r"\D", "", match["grouped"] or "")
    written = (whole + (match["part"] or "") if whole else match["number"]).replace(",", ".")
    value = f"{Decimal(written) * _TIMES.get((match['times'] or '').lower(), 1):f}"
    value = value.rstrip("0").rstrip(".") if "." in value else value
    return value + "".join(mark for mark, key in (("th", "nth"), ("s", "decade"), ("%", "percent")) if match[key])


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order, stripped; joined by blanks they hold every word of it. Where `text` has a
    letter or digit, each has one.

    A full stop ends one before white space, but not after an initial or a common abbreviation that a name follows, and
    not before a small letter; CJK and Indic stops end one wherever they stand; so does a line break.
    """
    found: list[str] = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            if not _goes_on(line, start, end):
                found.append(line[start : end.end()].strip())
                start = end.end()
        found.append(line[start:].strip())
    return _with_words([sentence for sentence in found if sentence])


def whole_sentences(text: str) -> str:
    """Of a text that was cut off somewhere, up to the end of its last whole sentence; "" where none ended.

    A full stop at its very end, behind a number or an abbreviation, may be no end ("in 3" of "in 3.5 million"). Thai
    and Lao, which write no stops, are cut at the last blank.
    """
    last = at = 0
    for line in text.splitlines(keepends=True):
        start = 0
        for end in _END.finditer(line):
            if not _goes_on(line, start, end) and not (at + end.end() == len(text) and _doubtful(line, end)):
                start = end.end()
                last = at + start
        at += len(line)
    if unmarked := _UNMARKED.search(text, last):
        last = unmarked.start(1)
    return text[:last]


def _doubtful(line: str, end: re.Match[str]) -> bool:
    """Whether the full stop that a text was cut off behind may stand inside a number or behind an abbreviation."""
    before = line[max(0, end.start() - 24) : end.end()]
    return end[0] == "." and (before[-2:-1].isdigit() or _ABBREVIATION.search(before) is not None)


def _goes_on(line: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence from `start` goes on after what may end it."""
    following = _NEXT.match(line, end.end())
    if following is None or end[0][0] not in ".!?\u2026":
        return False
    if following[1][0].islower():
        return line != line.lower()
    begins = following[1].lower() in STOP and not (len(following[1]) == 1 and following[2])
    abbreviated = end[0] == "." and _ABBREVIATION.search(line[max(start, end.end() - 24) : end.end()])
    return bool(abbreviated and not begins) or _DATED.match(line, max(end.start() - 1, 0)) is not None


def _with_words(pieces: list[str]) -> list[str]:
    """The pieces, those without a letter or digit joined to the one before, the first ones to the one after."""
    found: list[str] = []
    for piece in pieces:
        if found and not (_WORD.search(piece) and _WORD.search(found[-1])):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


@lru_cache(maxsize=65536)
def names(text: str) -> tuple[str, ...]:
    """The names in `text`, each once, in order: longest runs of words that begin with a capital letter.

    Small words stand inside a run ("Duke of York"), function words do not begin one ("The Panthers" is "Panthers", but
    "US" is a name). A script without capitals has none.
    """
    runs: list[list[re.Match[str]]] = [[]]
    for word in _WORD.finditer(text):
        run = runs[-1]
        between = text[run[-1].end() : word.start()] if run else "-"
        joins = not between.strip(" .") and ("." not in between or len(run[-1][0]) <= 2)
        if joins and (word[0][0].isupper() or word[0].lower() in _INSIDE):
            run.append(word)
        else:
            runs.append([word] if word[0][0].isupper() else [])
    return tuple(dict.fromkeys(name for run in runs if (name := _name(text, run))))


def _name(text: str, run: list[re.Match[str]]) -> str:
    while run and not run[-1][0][0].isupper():
        run = run[:-1]
    while run and run[0][0].lower() in STOP and (len(run[0][0]) == 1 or not run[0][0].isupper()):
        run = run[1:]
    return text[run[0].start() : run[-1].end()] if run else ""


def words(text: str) -> frozenset[str]:
    """The words that say something, lower case; where there is no other, all of them."""
    found = frozenset(_listed(text.lower()))
    return found - STOP or found


def _listed(text: str) -> list[str]:
    return _WORD.findall(_POSSESSIVE.sub("", text))


def plain(text: str) -> str:
    """`text` without what tells no words apart: accents, optional marks, compatibility forms; digits are 0 to 9."""
    decomposed = unicodedata.normalize("NFKD", _FRACTION.sub(" ", text))
    return unicodedata.normalize("NFC", _OPTIONAL.sub("", decomposed).translate(_PLAIN))


@lru_cache(maxsize=65536)
def folded(text: str) -> str:
    """`text` as it is compared: its words, plain and in lower case, between single blanks, one blank at either end."""
    return f" {' '.join(_listed(plain(text).casefold()))} "


def holds(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` one after the other; case, accents, punctuation do not matter."""
    return folded(phrase) in folded(text)


def plain_title(title: str) -> str:
    """A title as a person writes it: without the quotes and underscores that some corpora put around and into it."""
    return " ".join(title.strip("\"' ").replace("_", " ").split())
