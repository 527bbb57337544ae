"""Documents in: cut at headings and pages, then by length, with where each passage stands; the damaged told by name."""

from __future__ import annotations

import gc
import io
import sys
import tracemalloc
from pathlib import Path
from textwrap import wrap
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.data import benchmarks
from wbrag.data.benchmarks import Rejected, write_corpus
from wbrag.data.documents import count_words, needed, parts_of, unwrapped
from wbrag.data.flashrag import BadRow, InputError

MARKDOWN = """---
title: "Handbook"
---
Read *this* first.

# Install
```
# no heading
```
## Linux
Run it.

Mac
---
Brew it.
# Use
"""
HTML = """<html><head><title>Guide &amp; more</title><style>p {}</style></head><body><nav>Menu</nav><h1>Start</h1>
<p>Say <b>hel</b>lo\x1e.</p><h2>Next <i>step</i></h2><table><tr><td>a</td><td>b</td></tr></table>
<ul><li>x</li><li>y</li></ul><script>no()</script><footer>Imprint</footer></body></html>"""


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF by hand: a page for each text."""
    made = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
        made.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        fonts = b"/Resources << /Font << /F1 3 0 R >> >>"
        made.append(b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] %s /Contents %d 0 R >>" % (fonts, len(made)))
    kids = b" ".join(b"%d 0 R" % (5 + 2 * i) for i in range(len(pages)))
    made[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))
    made.append(f"<< /Title ({title}) >>".encode())
    out, starts = b"%PDF-1.4\n", []
    for number, body in enumerate(made, 1):
        starts.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(made) + 1,
        len(made),
        len(out),
    )
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(made) + 1) + table + end


def docx() -> bytes:
    import docx

    document: Any = docx.Document()
    document.add_heading("The Report", 0)
    document.add_paragraph("Before all.")
    document.add_heading("Costs", 1)
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "rent", "900"
    document.add_heading("Later", 2)
    document.add_paragraph("Less.")
    held = io.BytesIO()
    document.save(held)
    return held.getvalue()


def passages(data: bytes, name: str, words: int = 100) -> list[tuple[str, str]]:
    """Title and text of each, without faults."""
    rows = list(parts_of(data, Path(name).suffix, name, words))
    assert not [row for row in rows if isinstance(row, BadRow)]
    return [(row["title"], row["text"]) for row in rows if isinstance(row, dict)]


def test_markdown_is_cut_at_its_headings_and_not_in_code() -> None:
    assert passages(MARKDOWN.encode(), "a.md") == [
        ("Handbook", "Read *this* first."),
        ("Handbook > Install", "```\n# no heading\n```"),
        ("Handbook > Install > Linux", "Run it."),
        ("Handbook > Install > Mac", "Brew it."),
    ]
    assert passages(b"\xef\xbb\xbf# Top\r\nText.\r\n", "b.md") == [("Top", "Text.")]
    assert passages("Text.".encode("utf-16"), "some notes.txt") == [("some notes", "Text.")]


WRAPPED = """The part that wears first is the seal; the
> Bell shows a light when it has to be re-
> placed."""
KEPT = """Name: Pump
Price: 200 euros

- an item that is really quite long, so that it goes on until
  its end is here
- two

| a column of a table that is as wide as a line | and one more |
|---|---|
| c | d |

```
a line of code that is as long as any line of prose is here
the next line
```"""


def test_a_sentence_goes_on_where_only_the_line_ends() -> None:
    whole = "The part that wears first is the seal; the Bell shows a light when it has to be re-placed."
    assert passages(f"> {WRAPPED}".encode(), "a.md") == [("a", f"> {whole}")]
    assert passages(WRAPPED.replace("> ", "").encode(), "a.txt") == [("a", whole)]
    assert passages(f"<p>{WRAPPED.replace('> ', '')} <!-- not\nthis --></p><pre>a\nb</pre>".encode(), "a.html") == [
        ("a", f"{whole.replace('re-placed', 're- placed')}\na\nb")
    ]
    [(_, kept)] = passages(KEPT.encode(), "a.md")
    assert kept == KEPT.replace("until\n  its", "until its")


@given(st.lists(st.text("abcdefgh", min_size=2, max_size=12), min_size=1, max_size=60), st.integers(50, 100))
def test_a_column_of_any_width_is_read_as_one_line(words: list[str], width: int) -> None:
    assert unwrapped("\n".join(wrap(" ".join(words), width))) == " ".join(words)


@given(st.text())
def test_no_letter_is_lost_with_the_line_breaks(text: str) -> None:
    told = unwrapped(text)
    assert "".join(told.replace("\u00ad", "").split()) == "".join(text.replace("\u00ad", "").split())


def test_html_is_its_main_text_cut_at_headings() -> None:
    assert passages(HTML.encode(), "a.html") == [
        ("Guide & more > Start", "Say hello."),
        ("Guide & more > Start > Next step", "a b\nx\ny"),
    ]


def test_docx_has_paragraphs_tables_and_headings_in_their_order() -> None:
    assert passages(docx(), "a.docx") == [
        ("The Report", "Before all."),
        ("The Report > Costs", "rent | 900"),
        ("The Report > Costs > Later", "Less."),
    ]


def folder(root: Path) -> Path:
    for name, content in {
        "a.md": MARKDOWN.encode(),
        "deep/b.pdf": pdf("The river is Nor.", "", "The hill is Vale.", title="Places"),
        "c.html": HTML.encode(),
        "d.docx": docx(),
        "e.txt": b"word " * 30,
        "bad.pdf": b"%PDF-1.4 nothing",
        "caf.md": b"caf\xe9 au lait",
        "scan.pdf": pdf("", ""),
        ".git/config.md": b"hidden",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_folder_of_documents_is_a_corpus_with_source_section_and_page(tmp_path: Path) -> None:
    report = write_corpus(folder(tmp_path / "in"), tmp_path / "o.parquet", 0.5, words=10)
    table = pq.read_table(tmp_path / "o.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {**dict.fromkeys(("id", "title", "text", "source", "section"), "string"), "page": "int64"}
    rows = table.to_pylist()
    assert [(row["source"], row["title"], row["page"], row["text"]) for row in rows if row["page"]] == [
        ("deep/b.pdf", "Places", 1, "The river is Nor."),
        ("deep/b.pdf", "Places", 3, "The hill is Vale."),
    ]
    assert {row["section"] for row in rows if row["source"] == "a.md"} == {
        None,
        "Install",
        "Install > Linux",
        "Install > Mac",
    }
    assert dict(report.sorts) == {
        "Markdown passages": 4, "HTML passages": 2, "PDF passages": 2, "DOCX passages": 3, "text passages": 1,
    }  # fmt: skip
    told = {(Path(one.file).name, one.line): one.reason for one in report.rejected}
    assert told[("bad.pdf", 1)].startswith("cannot be read as PDF: ")
    assert told[("caf.md", 1)] == "not UTF-8: invalid continuation byte at byte 3"
    assert told[("scan.pdf", 1)] == "no text in it: a scan? make its text readable (OCR) first"
    assert told[("e.txt", 2)] == told[("e.txt", 3)] == "the same as a row before it, and without an id"
    assert len(told) == 5


def test_the_same_documents_elsewhere_have_the_same_passages(tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        write_corpus(folder(tmp_path / name), tmp_path / "o.parquet", 0.5)
        tables.append(pq.read_table(tmp_path / "o.parquet"))
    assert tables[0].equals(tables[1])


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=400), st.integers(3, 40))
def test_no_word_is_lost_or_doubled_and_no_passage_is_too_long(text: str, words: int) -> None:
    cut = [row for row in parts_of(text.encode(), ".txt", "a.txt", words) if isinstance(row, dict)]
    assert "".join("".join(row["text"].split()) for row in cut) == "".join(text.split())
    assert all(count_words(row["text"]) <= words for row in cut)


def test_scripts_without_blanks_are_counted_by_letters() -> None:
    assert count_words("two words") == 2
    assert count_words("東京は日本の首都です") == 10
    assert len(passages("東京は日本の首都です。".encode() * 30, "a.txt", 50)) > 5


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bs4", None)
    told = r"the package beautifulsoup4 is needed to read this: pip install 'wbrag\[files\]'"
    with pytest.raises(InputError, match=told):
        needed("bs4")
    with pytest.raises(InputError, match=told):
        list(parts_of(b"<p>x", ".html", "a.html", 10))


def test_ten_times_the_files_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "GROUP_LETTERS", 50_000)

    def peak(count: int) -> int:
        root = tmp_path / str(count)
        root.mkdir()
        for number in range(count):
            (root / f"{number}.md").write_text(f"# File {number}\n" + f"Line {number} of the file. " * 900)
        gc.collect()
        tracemalloc.start()
        report = write_corpus(root, tmp_path / "o.parquet", words=5000)
        told = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (report.passages, list[Rejected](report.rejected)) == (count, [])
        return told

    few, many = peak(8), peak(80)
    assert many < few + 500_000  # the files hold 2 MB
