"""A page as a list of blocks, and its forms: Markdown for a repository, one self-contained HTML file for people, and of
a table what a terminal shows.

The HTML needs nothing else and fetches nothing; its one script (page.js) sorts tables, and filters and pages through
long ones. Without it all of them are shown whole.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from wbrag.run.folder import write_text

#: Tables of more columns are set in smaller type.
WIDE = 6
#: Tables of fewer rows are taken in at a glance, and not sorted.
SORTED = 3
#: What says which versions a page speaks of, in both forms, so that `retold` finds it.
VERSION = (r'(<p class="version">).*?(</p>)', r"(<!-- version -->).*?(\n)")
#: The colours of figures that a page on dark ground gives in its own shade.
SHADES = {"#1f2328": "ink", "#59636e": "quiet", "#c8ced5": "line", "#fefefe": "page"}


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `lead` is the one that a reader in a hurry reads, `note` is small print, and `version` says what the
    page speaks of.
    """

    text: str
    role: str = "body"  # lead | body | note | version


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as they are to be read; the first column is text, `strong` rows stand out."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    numbers: bool = True  # all columns but the first are aligned right


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element; `file` is where it lies beside the page, `title` says what it is to who cannot see it, `caption`
    what to see in it ("": the picture says it itself).
    """

    file: str
    svg: str
    title: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text that keeps its lines; a caption says what it is."""

    text: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks behind a line that opens them; on paper they are open. A link leads to its `anchor`, if it has one."""

    summary: str
    blocks: tuple[Block, ...]
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Cases:
    """Many details, to filter and to page through; on paper they are as they are on the screen, and Markdown has the
    first `told` of them.
    """

    cases: tuple[Details, ...]
    told: int


Block = Heading | Text | Table | Pictures | Verbatim | Details | Cases


def write_page(folder: Path, title: str, subtitle: str, blocks: Sequence[Block]) -> None:
    """Write report.md, report.html and the pictures' files, each whole or not at all."""
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else ():
            white = '</title><rect width="100%" height="100%" rx="4" fill="#ffffff"/>'  # its ink is dark; a page may be
            write_text(folder / picture.file, _titled(picture).replace("</title>", white, 1))
    write_text(folder / "report.md", markdown(title, subtitle, blocks))
    write_text(folder / "report.html", html(title, subtitle, blocks))


def html(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file: nothing is fetched, no script runs but its own, all text is escaped."""
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    links = "".join(f'<li><a href="#{slug(text)}">{escape(text)}</a></li>' for text in headings)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if len(headings) > 1 else ""
    parts = {end: files("wbrag.report").joinpath(f"page.{end}").read_text("utf-8") for end in ("html", "css", "js")}
    digest = base64.b64encode(hashlib.sha256(parts["js"].encode()).digest()).decode()
    return Template(parts["html"]).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
        **{"title": escape(title), "subtitle": escape(subtitle), "contents": contents},
        **{"body": "\n".join(map(_html, blocks)), "style": parts["css"], "script": parts["js"]},
    )


def retold(page: str, told: str) -> str:
    """A page, HTML or Markdown, that says this of the versions that it speaks of."""
    for pattern, text in zip(VERSION, (escape(told), _plain(told)), strict=True):
        page = re.sub(pattern, lambda match, text=text: match[1] + text + match[2], page, count=1)  # type: ignore[misc]
    return page


def slug(text: str) -> str:
    """What a link to a heading of this text ends in."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def markdown(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The page as GitHub-flavoured Markdown; pictures are links to their files."""
    parts = [f"# {_plain(title)}", _plain(subtitle), *(_markdown(block) for block in blocks)]
    return "\n\n".join(parts) + "\n"


def terminal(table: Table) -> str:
    """The table as plain text, its columns aligned, with a line under the header."""
    rows = (table.header, *table.rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f'<h2 id="{slug(text)}"><a href="#{slug(text)}">{escape(text)}</a></h2>'
        case Text(text, role):
            return f'<p class="{role}">{escape(text)}</p>'
        case Table():
            return _html_table(block)
        case Pictures(pictures):
            return f'<div class="pictures">{"".join(map(_html_picture, pictures))}</div>'
        case Verbatim(text, caption):
            head = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
            return f'<figure class="text">{head}<pre>{escape(text)}</pre></figure>'
        case Details(summary, blocks, anchor):
            inside, name = "\n".join(_html(one) for one in blocks), f' id="{escape(anchor)}"' if anchor else ""
            return f"<details{name}><summary>{escape(summary)}</summary>\n{inside}</details>"
        case Cases(cases):
            return f'<div class="cases">{"".join(map(_html, cases))}</div>'


def _html_picture(picture: Picture) -> str:
    svg, caption = _titled(picture), f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    for colour, name in SHADES.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    return f"<figure>{svg}{caption}</figure>"


def _titled(picture: Picture) -> str:
    """The picture, which says what it is to who cannot see it."""
    title = escape(picture.title)
    start, attributes, rest = re.split(r"<svg([^>]*)>", picture.svg, maxsplit=1)
    return f'{start}<svg role="img" aria-label="{title}"{attributes}><title>{title}</title>{rest}'


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in table.header)
    rows = []
    for i, cells in enumerate(table.rows):
        strong = ' class="strong"' if i in table.strong else ""
        rows.append(f"<tr{strong}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    names = [cells[0] for cells in table.rows]  # a row without one, or with one twice, goes with those around it
    several = len(names) >= SORTED and all(names) and len(set(names)) == len(names)
    sorts = several and (table.numbers or bool(table.header[0]))
    told = {"numbers": table.numbers, "wide": len(table.header) > WIDE, "sorts": sorts}
    kinds = " ".join(name for name, holds in told.items() if holds)
    kind, body = f' class="{kinds}"' if kinds else "", "\n".join(rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text, role):
            mark = "<!-- version -->" if role == "version" else ""
            return f"**{_plain(text)}**" if role == "lead" else f"{mark}{_plain(text)}"
        case Table():
            return markdown_table(block)
        case Pictures(pictures):
            return "\n\n".join(f"![{_plain(p.title)}]({p.file})\n\n{_plain(p.caption)}".rstrip() for p in pictures)
        case Verbatim(text, caption):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            head = f"{_plain(caption)}\n\n" if caption else ""
            return f"{head}{fence}text\n{text}\n{fence}"
        case Details(summary, blocks, _):
            inside = "\n\n".join(_markdown(one) for one in blocks)
            line = " ".join(escape(summary).split())
            return f"<details>\n<summary>{line}</summary>\n\n{inside}\n\n</details>"
        case Cases(cases, told):
            return "\n\n".join(map(_markdown, cases[:told]))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: its marks escaped, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def markdown_table(table: Table, text: Callable[[str], str] = _plain) -> str:
    """The table in Markdown, its cells as `text` shows them."""
    rule = ["---", *(["---:" if table.numbers else "---"] * (len(table.header) - 1))]
    rows = [[text(cell) for cell in cells] for cells in (table.header, *table.rows)]
    for i in table.strong:
        rows[i + 1] = [f"**{cell}**" if cell else "" for cell in rows[i + 1]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:]))
