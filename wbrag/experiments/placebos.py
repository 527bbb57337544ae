"""Placebos: write-back stores of the same size and length as a run's own, each without one ingredient of the method.

    raw           documents that the gates kept, copied: is it distillation, or only that they are there twice?
    random        random passages of the corpus, distilled: is it which documents, or any compact text?
    ungated       documents that the generator calls relevant, for random examples: is it the utility gate?
    no_documents  units that the generator writes from its own knowledge: is it the documents?
    cheat_sheet   questions with their golden answers: how far does plain leakage go?

Two of them need no generator. The other three are written as the run's own units are, by question or by subject: two of
other examples (rows as of kept traces), one of nothing. By subject, `ungated` takes the first documents of an example,
as where no gate keeps one, since a subject's statements are read from all that names it; and what the run has word for
word is word for word in its placebos too. A placebo is measured and told, never published as a run's knowledge base.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

from wbrag.config import ConfigError
from wbrag.schema import unit_id

Row = Mapping[str, Any]
Rows = Sequence[Row]
#: Title, text, examples, sources.
Draft = tuple[str, str, Sequence[str], Sequence[str]]

#: Name -> what a report calls it.
PLACEBOS = {
    "raw": "the sources, copied raw",
    "random": "units of random passages",
    "ungated": "no utility gate",
    "no_documents": "units written without documents",
    "cheat_sheet": "questions with golden answers",
}
#: Those that the generator writes.
WRITTEN_ONES = ("random", "ungated", "no_documents")
#: Requests made for each unit of a question that is wanted: some replies are no passages.
SPARE = 1.5
#: The columns of `schema.TRACE` that placebos are made from.
TRACE_COLUMNS = ("id", "question", "golden_answers", "documents", "kept_ranks")


def check_placebos(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no placebo."""
    for name in names:
        if name not in PLACEBOS:
            raise ConfigError(f"placebos: {name!r} is unknown; known are {', '.join(PLACEBOS)}")


def asked_about(units: Rows, traces: Rows) -> list[Row]:
    """The trace of the least example behind each of a run's units (`schema.UNIT`), in order of unit id; a unit that is
    there because another one's evidence mentions its subject has none.
    """
    of = {row["id"]: row for row in traces}
    return [of[min(unit["example_ids"])] for unit in sorted(units, key=lambda one: one["id"]) if unit["example_ids"]]


def raw_units(units: Rows, passages: Mapping[str, Row]) -> list[dict[str, Any]]:
    """As many units as the run has: the sources of each (`passages` by id) as they stand, cut to the unit's own length
    in words; under its subject, where it has one, else under the title of the first source.
    """
    made: list[Draft] = []
    for unit in units:
        sources = [passages[key] for key in unit["source_ids"] if key in passages]
        if sources:
            text = cut(" ".join(source["text"] for source in sources), len(unit["text"].split()))
            title = unit["subject"] or sources[0]["title"]
            made.append((title, text, unit["example_ids"], [source["id"] for source in sources]))
    return _distinct("raw", made)


def cheat_sheet(units: Rows, traces: Rows) -> list[dict[str, Any]]:
    """A unit for each of the run's that an example asks about: the question as title, its golden answers as text."""
    rows = asked_about(units, traces)
    return _distinct(
        "cheat_sheet", ((row["question"], "; ".join(row["golden_answers"]), [row["id"]], ()) for row in rows)
    )


def drawn(placebo: str, count: int, n_min: int, traces: Rows, passages: Rows, seed: int) -> list[dict[str, Any]]:
    """At most `count` rows to make units of as of a kept example's trace, drawn by the seed. `random`: of `passages`
    (id, title, text), each by itself; `ungated`: of all traces, with as many documents as are taken without a gate.
    """
    pool, rows = passages if placebo == "random" else traces, []
    for i in random.Random(f"{placebo}/{seed}").sample(range(len(pool)), min(count, len(pool))):
        row = dict(pool[i])
        if placebo == "random":
            document = {key: row[key] for key in ("id", "title", "text")}
            document |= {"score": 0.0, "source": "base", "version": 0}
            about = row["title"] or cut(row["text"], 8)
            row = {"id": row["id"], "question": f"What is known about {about}?", "documents": [document]}
        ranks = list(range(1, len(row["documents"]) + 1))[:n_min]
        rows.append(row | dict.fromkeys(("unit_title", "unit_text", "evidence")) | {"kept_ranks": ranks})
    return rows


def to_draw(units: Rows, by_subject: bool) -> int:
    """How many rows to draw: the examples behind the run's units, as a subject's mentions bring more; of units of one
    question each, some more than there are units.
    """
    return len({key for unit in units for key in unit["example_ids"]}) if by_subject else ceil(SPARE * len(units))


def written_units(placebo: str, written: Rows, units: Rows) -> list[dict[str, Any]]:
    """The first usable units of what was written (`schema.WRITTEN`), as many as the run has, each cut to the length of
    one of its own. Fewer where fewer could be written; the report says how many.
    """
    rows = sorted(written, key=lambda row: str(row["id"]))
    usable = [(row["id"], one) for row in rows if row["status"] == "kept" for one in row["units"]]
    lengths = [len(unit["text"].split()) for unit in sorted(units, key=lambda unit: unit["id"])]
    pairs = zip(usable, lengths, strict=False)
    made = ((one["title"], cut(one["text"], n), [key], one["source_ids"] or []) for (key, one), n in pairs)
    return _distinct(placebo, made)


def cut(text: str, count: int) -> str:
    """The first `count` words of a text, at least one."""
    return " ".join(text.split()[: max(1, count)])


def _distinct(placebo: str, drafts: Iterable[Draft]) -> list[dict[str, Any]]:
    """Rows of `schema.UNIT`, each once, in order of id, which says what they are; no tokenizer is here to count."""
    made: dict[str, dict[str, Any]] = {}
    for title, text, examples, sources in drafts:
        key = f"placebo-{placebo}-{unit_id(title, text, tuple(sources)).removeprefix('wb-')}"
        row = {"id": key, "title": title, "text": text, "example_ids": list(examples), "source_ids": list(sources)}
        told = {"source_tokens": None, "unit_tokens": None, "subject": "", "form": placebo, "doubt": ""}
        made.setdefault(key, row | told)
    return [unit for _, unit in sorted(made.items())]
