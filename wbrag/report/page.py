"""A page as a list of blocks, and its forms: Markdown for a repository, one self-contained HTML file for people, and of
a table what a terminal shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from wbrag.run.folder import write_text

#: Tables of more columns are set in smaller type.
WIDE = 6


@dataclass(frozen=True, slots=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `lead` is the one that a reader in a hurry reads, `note` is small print."""

    text: str
    role: str = "body"  # lead | body | note


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as they are to be read; the first column is text, `strong` rows stand out."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    numbers: bool = True  # all columns but the first are aligned right


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element; `file` is where it lies beside the page, `caption` says what to see in it."""

    file: str
    svg: str
    caption: str


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
    """Blocks behind a line that opens them; on paper they are open."""

    summary: str
    blocks: tuple[Block, ...]


Block = Heading | Text | Table | Pictures | Verbatim | Details


def write_page(folder: Path, title: str, subtitle: str, blocks: Sequence[Block]) -> None:
    """Write report.md, report.html and the pictures' files, each whole or not at all."""
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else ():
            write_text(folder / picture.file, picture.svg)
    write_text(folder / "report.md", markdown(title, subtitle, blocks))
    write_text(folder / "report.html", html(title, subtitle, blocks))


def html(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file: no script, nothing fetched; all text is escaped."""
    body = "\n".join(_html(block) for block in blocks)
    style = files("wbrag.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="subtitle">{escape(subtitle)}</p>\n{body}\n</body>\n</html>\n'
    )


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
            return f"<h2>{escape(text)}</h2>"
        case Text(text, role):
            return f'<p class="{role}">{escape(text)}</p>'
        case Table():
            return _html_table(block)
        case Pictures(pictures):
            figures = (f"<figure>{p.svg}<figcaption>{escape(p.caption)}</figcaption></figure>" for p in pictures)
            return f'<div class="pictures">{"".join(figures)}</div>'
        case Verbatim(text, caption):
            head = f"<p>{escape(caption)}</p>" if caption else ""
            return f"{head}<pre>{escape(text)}</pre>"
        case Details(summary, blocks):
            inside = "\n".join(_html(one) for one in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n{inside}</details>"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = []
    for i, cells in enumerate(table.rows):
        strong = ' class="strong"' if i in table.strong else ""
        rows.append(f"<tr{strong}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    kinds = " ".join(["numbers"] * table.numbers + ["wide"] * (len(table.header) > WIDE))
    kind, body = f' class="{kinds}"' if kinds else "", "\n".join(rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text, role):
            return f"**{_plain(text)}**" if role == "lead" else _plain(text)
        case Table():
            return markdown_table(block)
        case Pictures(pictures):
            return "\n\n".join(f"![{_plain(p.caption)}]({p.file})\n\n{_plain(p.caption)}" for p in pictures)
        case Verbatim(text, caption):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            head = f"{_plain(caption)}\n\n" if caption else ""
            return f"{head}{fence}text\n{text}\n{fence}"
        case Details(summary, blocks):
            inside = "\n\n".join(_markdown(one) for one in blocks)
            line = " ".join(escape(summary).split())
            return f"<details>\n<summary>{line}</summary>\n\n{inside}\n\n</details>"


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
