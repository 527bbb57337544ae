"""Documents to passages: Markdown, plain text, HTML, PDF and DOCX, cut at their headings or pages, then by length.

A passage is titled with its document and the headings above it; `source` (the file), `section` (the headings) and
`page` are its columns. The cut is semchunk's; a word is what stands between blanks, or one letter of a script that
writes none.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import PurePosixPath
from typing import Any

from wbrag.data.flashrag import BadRow, InputError

#: By suffix: how the terminal calls passages of it, and which columns they have.
READ_AS = {
    **dict.fromkeys((".md", ".markdown"), ("Markdown", ("source", "section"))),
    **dict.fromkeys((".txt", ".text", ".rst"), ("text", ("source",))),
    **dict.fromkeys((".html", ".htm"), ("HTML", ("source", "section"))),
    ".docx": ("DOCX", ("source", "section")),
    ".pdf": ("PDF", ("source", "page")),
}
#: What is installed under another name than it is imported by.
PACKAGES = {"bs4": "beautifulsoup4", "docx": "python-docx", "markdown_it": "markdown-it-py"}
#: Letters of Thai, Lao, Burmese, Khmer, kana and Han; one of them, or a run of any others.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
#: A line is full where the next line's first word would not have fitted into so much of the longest line around it, or
#: of what a line of prose has at least.
FULL, PROSE = 0.8, 50
#: What begins a line of its own: an item, a row, a heading, what is set in, and an address or a rule.
_OWN_LINE = re.compile(
    r"\s{4}|\t|\s*(?:[-*+\u2022\u2013\u25aa\u25cf#|>]|\d{1,3}[.)]|[a-zA-Z][.)])\s|\s*(?:$|[-=_*~]{3})"
)
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LEVEL = re.compile(r"(?:Heading |h)([1-6])")
#: HTML that is not the text of a page, and what begins a line of its own.
_ASIDE = ("script", "style", "nav", "noscript", "template", "footer", "svg")
_BLOCKS = "p div li tr table pre section article blockquote dt dd h1 h2 h3 h4 h5 h6 ul ol main header figure".split()
#: Stands before a heading in a text that is yet to be cut, with its level.
_MARK = "\x1e"

#: A part of a document: the headings above it, its page, its text.
Part = tuple[tuple[str, ...], int | None, str]


def needed(module: str) -> Any:  # noqa: ANN401 - a module
    """A module of the extra `files`; InputError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES.get(module, module)
        raise InputError(f"the package {package} is needed to read this: pip install 'wbrag[files]'") from error


def parts_of(data: bytes, kind: str, name: str, words: int) -> Iterator[dict[str, Any] | BadRow]:
    """The passages of a document, as rows; BadRow for a page, or the document, that has no text or cannot be read."""
    chunk = needed("semchunk").chunkerify(count_words, words, memoize=False)
    try:
        title, parts = PARTS[READ_AS[kind][0]](data, PurePosixPath(name).stem)
    except InputError:
        raise
    except BadRow as error:
        yield error
        return
    except Exception as error:  # as many kinds as there are ways to damage a file
        yield BadRow(f"cannot be read as {READ_AS[kind][0]}: {type(error).__name__}: {error}")
        return
    if not any(text.strip() for *_, text in parts):
        yield BadRow("no text in it" + (": a scan? make its text readable (OCR) first" if kind == ".pdf" else ""))
    for headings, page, text in parts:
        path = " > ".join(one for one in headings if one != title)
        row: dict[str, Any] = {"title": " > ".join(filter(None, (title, path))), "source": name}
        row |= {"section": path} if path else {}
        row |= {"page": page} if page else {}
        for piece in chunk(text):
            yield row | {"text": piece.strip()}


def count_words(text: str) -> int:
    """Words of a text of any script."""
    return sum(1 for _ in _WORD.finditer(text))


def decoded(data: bytes) -> str:
    """A text file's text; BadRow where it is neither UTF-8 nor marked as UTF-16, or no text."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: {error.reason} at byte {error.start}") from error
    if "\0" in text:
        raise BadRow(f"a NUL at character {text.index(chr(0))}: no text, or UTF-16 without its mark; save it as UTF-8")
    return text.replace(_MARK, "").replace("\r\n", "\n").replace("\r", "\n")


def unwrapped(text: str) -> str:
    """A text without the line breaks of a column's width: a sentence goes on where a line is full. Other lines stay."""
    lines, made = text.split("\n"), list[str]()
    widths = [max(PROSE, *map(len, block)) for block in _blocks(lines) for _ in block]
    for number, line in enumerate(lines):
        before = lines[number - 1].rstrip() if number else ""
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        full = len(before) + 1 + len(word) > FULL * widths[number]
        if not (full and before.strip()) or _OWN_LINE.match(line):
            made.append(line.rstrip())
        elif before.endswith("\u00ad"):
            made[-1] = made[-1].removesuffix("\u00ad") + line.strip()
        else:
            apart = " " if not re.search(rf"(?:\w-|[{_UNSPACED}])\Z", before) else ""
            made[-1] += apart + line.strip()
    return "\n".join(made)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """The lines between empty ones, and the empty ones."""
    for _, block in groupby(lines, key=lambda line: bool(line.strip())):
        yield list(block)


def _text(data: bytes, stem: str) -> tuple[str, list[Part]]:
    return stem, [((), None, unwrapped(decoded(data)))]


def _markdown(data: bytes, stem: str) -> tuple[str, list[Part]]:
    """Cut at the headings that markdown-it sees: not at a # in code. A title of the front matter goes before them."""
    text, title = decoded(data), ""
    if front := _FRONT.match(text):
        text = text[front.end() :]
        told = re.search(r"^title:\s*(.+?)\s*$", front[1], re.MULTILINE)
        title = told[1].strip("\"'") if told else ""
    lines, marked, done = text.split("\n"), list[str](), 0
    tokens = _parser().parse(text)
    for opening, inline in pairwise(tokens):
        start, end = opening.map or (0, 0)
        if opening.type == "heading_open" and opening.level == 0:
            heading = " ".join("".join(one.content or " " for one in inline.children or ()).split())
            marked += [*lines[done:start], f"{_MARK}{opening.tag[1]}{heading}"]
            done = end
        elif opening.type == "paragraph_open":
            first, *more = lines[start:end]
            marked += [*lines[done:start], unwrapped("\n".join([first, *(line.lstrip(" \t>") for line in more)]))]
            done = end
    return _cut("\n".join([*marked, *lines[done:]]), title, stem)


@lru_cache(maxsize=1)  # one holds cycles, which a process of many objects seldom looks for
def _parser() -> Any:  # noqa: ANN401 - markdown-it's
    return needed("markdown_it").MarkdownIt().enable("table")  # whose rows are no lines of a paragraph


def _html(data: bytes, stem: str) -> tuple[str, list[Part]]:
    """The main part of a page, or its body, without navigation and scripts, cut at its headings."""
    bs4 = needed("bs4")
    page = bs4.BeautifulSoup(data.replace(_MARK.encode(), b""), "html.parser")
    title = " ".join(page.title.get_text().split()) if page.title else ""
    body = page.find("main") or page.find("article") or page.body or page
    for aside in body.find_all(_ASIDE):
        aside.decompose()
    for text in body.find_all(string=True):
        if type(text) is bs4.NavigableString and not text.find_parent("pre"):  # and no comment
            text.replace_with(re.sub(r"\s+", " ", text))  # line breaks of the file are none of the page
    for block in body.find_all(["br", "td", "th", *_BLOCKS]):
        if level := _LEVEL.fullmatch(block.name):
            block.string = f"\n{_MARK}{level[1]}{' '.join(block.get_text().split())}\n"
        elif block.name in ("td", "th"):
            block.append(" ")
        else:
            block.insert_before("\n")
            block.insert_after("\n")
    lines = (" ".join(line.split()) if _MARK not in line else line.strip(" ") for line in body.get_text().split("\n"))
    return _cut("\n".join(filter(None, lines)), title, stem)


def _docx(data: bytes, stem: str) -> tuple[str, list[Part]]:
    """Paragraphs and tables in their order, cut at paragraphs in a style of headings."""
    document = needed("docx").Document(io.BytesIO(data))
    title, lines = (document.core_properties.title or "").strip(), list[str]()
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            lines += [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
            continue
        style = block.style.name if block.style else ""
        level = _LEVEL.fullmatch(style or "")
        if style == "Title":
            title = title or block.text.strip()
            continue
        lines.append(f"{_MARK}{level[1]}{' '.join(block.text.split())}" if level else block.text)
    return _cut("\n".join(lines), title, stem)


def _pdf(data: bytes, stem: str) -> tuple[str, list[Part]]:
    """A part for each page that has text."""
    reader = needed("pypdf").PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise BadRow("it is encrypted, and opens with a password only")
    title = str((reader.metadata.title if reader.metadata else "") or "").strip()
    texts = (unwrapped(page.extract_text() or "") for page in reader.pages)
    return title or stem, [((), number, text) for number, text in enumerate(texts, 1)]


def _cut(marked: str, title: str, stem: str) -> tuple[str, list[Part]]:
    """A text cut where headings are marked, and the document's title: the one given, else its first heading of level 1,
    else the file's name.
    """
    above: dict[int, str] = {}
    parts: list[Part] = []
    for number, section in enumerate(marked.split(_MARK)):
        text = section
        if number:
            heading, _, text = section[1:].partition("\n")
            level = int(section[0])
            above = {one: told for one, told in above.items() if one < level} | {level: heading}
            title = title or (heading if level == 1 else "")
        if text.strip():
            parts.append((tuple(filter(None, above.values())), None, text))
    return title or stem, parts


PARTS = {"Markdown": _markdown, "text": _text, "HTML": _html, "DOCX": _docx, "PDF": _pdf}
