"""A page as a list of blocks, and its two forms: Markdown for a repository, one self-contained HTML file for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


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


#: Tables of more columns are set in smaller type.
WIDE = 6

Block = Heading | Text | Table | Pictures | Verbatim | Details

STYLE = """
:root { --ink: #1f2328; --quiet: #59636e; --rule: #d9dde2; --tint: #f6f7f9; --accent: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 3rem 1.5rem 5rem; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .7rem; padding-top: .9rem; border-top: 1px solid var(--rule); }
p { margin: .6rem 0; max-width: 46rem; }
.subtitle, .note, figcaption { color: var(--quiet); }
.lead { font-size: 1.2rem; line-height: 1.45; margin: 1.4rem 0 1.2rem; padding-left: 1rem;
  border-left: 4px solid var(--accent); }
.note, figcaption { font-size: .86rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .9rem .32rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--quiet); font-size: .82rem; white-space: nowrap; overflow-wrap: normal; }
.numbers th:not(:first-child), .numbers td:not(:first-child) { text-align: right; padding: .32rem 0 .32rem 1.3rem;
  white-space: nowrap; }
.numbers td:first-child { min-width: 7.5rem; overflow-wrap: break-word; }
table:not(.numbers) td { min-width: 5.5rem; }
.wide { font-size: .84rem; }
.wide th, .wide.numbers th:not(:first-child) { font-size: .76rem; white-space: normal; vertical-align: bottom; }
.wide.numbers th:not(:first-child), .wide.numbers td:not(:first-child) { padding-left: .8rem; }
tr.strong td { font-weight: 650; background: var(--tint); }
.pictures { display: flex; flex-wrap: wrap; gap: 1.6rem; margin: 1.2rem 0; }
figure { margin: 0; flex: 1 1 20rem; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
details { border-bottom: 1px solid var(--rule); padding: .4rem 0; max-width: 58rem; }
details > :not(summary) { margin-left: 1.1rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: var(--tint); border: 1px solid var(--rule); border-radius: 6px;
  padding: .9rem 1rem; margin: .4rem 0 1rem; overflow-x: auto;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
@media print {
  @page { margin: 16mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  pre { white-space: pre-wrap; font-size: 7.5pt; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, .numbers th:not(:first-child) { white-space: normal; vertical-align: bottom; font-size: 8pt; }
  .wide { font-size: 7pt; }
  .wide th, .wide.numbers th:not(:first-child) { font-size: 6.5pt; }
  .wide.numbers th:not(:first-child), .wide.numbers td:not(:first-child) { padding-left: .5rem; }
  h2 { break-after: avoid; }
  figure, tr, pre, .lead { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
  summary { font-weight: 600; break-after: avoid; }
  tr.strong td, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def html(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file: no script, nothing fetched; all text is escaped."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="subtitle">{escape(subtitle)}</p>\n{body}\n</body>\n</html>\n'
    )


def markdown(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The page as GitHub-flavoured Markdown; pictures are links to their files."""
    parts = [f"# {_plain(title)}", _plain(subtitle), *(_markdown(block) for block in blocks)]
    return "\n\n".join(parts) + "\n"


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
    kinds = [name for name, is_so in (("numbers", table.numbers), ("wide", len(table.header) > WIDE)) if is_so]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    body = "\n".join(rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text, role):
            return f"**{_plain(text)}**" if role == "lead" else _plain(text)
        case Table():
            return _markdown_table(block)
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


def _markdown_table(table: Table) -> str:
    rule = ["---", *(["---:" if table.numbers else "---"] * (len(table.header) - 1))]
    rows = [[_plain(cell) for cell in cells] for cells in table.rows]
    for i in table.strong:
        rows[i] = [f"**{cell}**" if cell else "" for cell in rows[i]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [[_plain(c) for c in table.header], rule, *rows])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: its marks escaped, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split()))
