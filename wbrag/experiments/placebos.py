"""Placebos: write-back stores of the same size and length as a run's own, each without one ingredient of the method.

    raw           documents that the gates kept, copied: is it distillation, or only that they are there twice?
    random        random passages of the corpus, distilled: is it which documents, or any compact text?
    ungated       documents that the generator calls relevant, for random examples: is it the utility gate?
    no_documents  units that the generator writes from its own knowledge: is it the documents?
    cheat_sheet   questions with their golden answers: how far does plain leakage go?

Two of them need no generator, the other three give requests for it (`schema.REQUEST`). A placebo is measured and told,
and never published as a run's knowledge base.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil
from typing import Any

from wbrag.config import ConfigError
from wbrag.schema import unit_id

Row = Mapping[str, Any]

#: Name -> what a report calls it.
PLACEBOS = {
    "raw": "gated documents, copied raw",
    "random": "random passages, distilled",
    "ungated": "relevant documents, no utility gate",
    "no_documents": "units written without documents",
    "cheat_sheet": "questions with golden answers",
}
#: Those that the generator writes.
WRITTEN_ONES = ("random", "ungated", "no_documents")
#: Requests made for each unit that is wanted: some replies are no passages.
SPARE = 1.5
#: The columns of `schema.TRACE` that placebos are made from.
TRACE_COLUMNS = ("id", "question", "golden_answers", "documents", "kept_ranks", "unit_id", "unit_title", "unit_text")


def check_placebos(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no placebo."""
    for name in names:
        if name not in PLACEBOS:
            raise ConfigError(f"placebos: {name!r} is unknown; known are {', '.join(PLACEBOS)}")


def own_units(traces: Sequence[Row]) -> list[Row]:
    """One row for each of a run's units, in order of unit id: the least of the examples that made it."""
    made = sorted((row for row in traces if row["unit_id"]), key=lambda row: (row["unit_id"], row["id"]))
    return [next(rows) for _, rows in groupby(made, key=lambda row: row["unit_id"])]


def raw_units(traces: Sequence[Row]) -> list[dict[str, Any]]:
    """As many units as the run has: the kept documents of each as they stand, cut to the unit's own length in words."""
    units = []
    for row in own_units(traces):
        kept = [row["documents"][rank - 1] for rank in row["kept_ranks"]]
        text = cut(" ".join(document["text"] for document in kept), words(row["unit_text"]))
        units.append(_unit("raw", kept[0]["title"], text, row["id"], [document["id"] for document in kept]))
    return _distinct(units)


def cheat_sheet(traces: Sequence[Row]) -> list[dict[str, Any]]:
    """As many units as the run has: the question as the title, its golden answers as the text."""
    own = own_units(traces)
    return _distinct([_unit("cheat_sheet", r["question"], "; ".join(r["golden_answers"]), r["id"], []) for r in own])


def requests(placebo: str, traces: Sequence[Row], passages: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    """Rows of `schema.REQUEST` for one of WRITTEN_ONES, in the order in which their units are to be taken.

    `passages` is what `random` draws from (id, title, text); no request carries a golden answer.
    """
    draw, own = random.Random(f"{placebo}/{seed}"), own_units(traces)
    wanted = ceil(SPARE * len(own))
    match placebo:
        case "random":
            made = [_about(passage) for passage in draw.sample(passages, min(wanted, len(passages)))]
        case "ungated":
            made = [(row["question"], row["documents"]) for row in draw.sample(traces, min(wanted, len(traces)))]
        case "no_documents":
            made = [(row["question"], []) for row in own]
        case other:
            raise ValueError(f"{other!r} is not one of {WRITTEN_ONES}")
    return [
        {"id": f"{placebo}-{i:06d}", "question": question, "documents": documents, "judged": placebo == "ungated"}
        for i, (question, documents) in enumerate(made)
    ]


def written_units(placebo: str, written: Sequence[Row], traces: Sequence[Row]) -> list[dict[str, Any]]:
    """The first usable units written for `requests`, as many as the run has, each cut to the length of one of its own.

    Fewer where fewer could be written; the report says how many.
    """
    own = own_units(traces)
    usable = [row for row in sorted(written, key=lambda row: str(row["id"])) if row["status"] == "kept"]
    units = []
    for row, model in zip(usable, own, strict=False):
        made = row["units"][0]
        text = cut(made["text"], words(model["unit_text"]))
        units.append(_unit(placebo, made["title"], text, row["id"], made["source_ids"] or []))
    return _distinct(units)


def words(text: str) -> int:
    """Words between blanks."""
    return len(text.split())


def cut(text: str, count: int) -> str:
    """The first `count` words of a text, at least one."""
    return " ".join(text.split()[: max(1, count)])


def _unit(placebo: str, title: str, text: str, example: str, sources: Sequence[str]) -> dict[str, Any]:
    """A row of `schema.UNIT`; its id says what it is. Its tokens are not counted: no tokenizer is here."""
    key = unit_id(title, text, tuple(sources)).removeprefix("wb-")
    row = {"id": f"placebo-{placebo}-{key}", "title": title, "text": text, "example_ids": [example]}
    counts = {"source_ids": list(sources), "source_tokens": None, "unit_tokens": None}
    return row | counts | {"subject": "", "form": placebo, "doubt": ""}


def _distinct(units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [unit for _, unit in sorted({unit["id"]: unit for unit in reversed(units)}.items())]


def _about(passage: Row) -> tuple[str, list[Row]]:
    """A question that asks for a passage, and the passage as its document."""
    document = {key: passage[key] for key in ("id", "title", "text")} | {"score": 0.0, "source": "base", "version": 0}
    return f"What is known about {passage['title'] or cut(passage['text'], 8)}?", [document]
