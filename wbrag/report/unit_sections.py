"""Sections of a run's report on its units: how they were made, how many of which kind, what was left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import Any

from wbrag.config import Merge, Units
from wbrag.metrics import score
from wbrag.report.evaluation import Setting
from wbrag.report.page import Block, Details, Heading, Table, Text
from wbrag.report.tables import number

Row = Mapping[str, Any]

#: What the classes of `schema.LEFT` are.
LEFT_KINDS = {
    "copy": "nearly the whole of one passage",
    "echo": "repeats the question or the prompt",
    "answer": "an answer, no passage",
    "empty_list": "a list without entries",
    "half_sentence": "half a sentence",
    "foreign": "a name, number, date or quotation that no source has",
    "unsupported": "not borne out by its sources",
    "unusable": "a reply that is no passage",
    "gated": "no passage could be made of the reply",
    "failed": "the request failed",
    "harmful": "took more than it gave on other training questions",
}
#: Which near units are read, as the end of a sentence, by `merge.reach`.
REACH = {
    "near": ".",
    "named": ", and whose title stands in the question.",
    "linked": ", and whose title stands in the question, and as far as they fit units that these name.",
}
HOPS = ("", ", and what that evidence mentions", ", what that evidence mentions, and what is mentioned with that")
EXAMPLES, HARMFUL_SHOWN, QUESTIONS_SHOWN, WIDTH = 2, 10, 10, 240


def unit_blocks(config: Row, units: Sequence[Row], corpus: int | None) -> list[Block]:
    """How the units (`schema.UNIT`) of a run with this `config` were made, and how many of which form and doubt there
    are; `corpus`: the passages of the base, if known.
    """
    blocks: list[Block] = [Heading("Units"), Text(making_told(config))]
    if not units:
        return [*blocks, Text("No unit was written.")]
    many = f" There are {corpus / len(units):,.1f} passages for each unit ({corpus:,} in the corpus)." if corpus else ""
    asked = sum(bool(unit["example_ids"]) for unit in units)
    told = f"{asked:,} of the {len(units):,} units are about what a kept example asks about"
    told += f", {len(units) - asked:,} about what its evidence only mentions." if asked < len(units) else "."
    return [*blocks, Text(f"{told}{many}"), _class_table(units)]


def making_told(config: Row) -> str:
    """How units are made and read with these settings, in words."""
    how = Units(**(config.get("units") or asdict(Units())))
    merge = Merge(**{**asdict(Merge()), **(config.get("merge") or {})})
    wording = "rewritten by the generator" if how.form == "distilled" else "word for word"
    if how.scope == "subject":
        told = (
            f"One subject at a time: what passages that hold its name say of it (of the {how.search} nearest to it), "
        )
        told += (
            f"each thing once, {wording}, in units of at most {how.tokens} tokens. Subjects are what the evidence of "
        )
        told += f"kept examples is about{HOPS[min(how.hops, 2)]}."
    elif how.form == "distilled":
        told = "One unit for each kept example: the evidence in its documents, rewritten by the generator."
    else:
        chooser = "generator" if how.evidence == "llm" else f"encoder (the {how.sentences} nearest to the question)"
        told = f"One unit for each kept example: sentences of its documents word for word, chosen by the {chooser}."
    if how.faithful and how.form == "distilled":
        told += f" A sentence that its sources do not bear out was cut (the critic: {how.critic})."
    if how.validate:
        told += " What took more than it gave on training questions that did not make it was left out."
    return f"{told} {_merge_told(merge)} (units={how.name})"


def _merge_told(merge: Merge) -> str:
    if merge.policy != "beside":
        return "Units and passages compete for the K places by score."
    return (
        f"The K passages stay; before them come the units that are as near to the question as the best passage, up to "
        f"{merge.margin:g} in score, within {merge.room:.0%} of the passages' characters" + REACH[merge.reach]
    )


def _class_table(units: Sequence[Row]) -> Table:
    """Units by form and doubt, and together."""
    classes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for unit in units:
        classes[unit["form"] or "-", unit["doubt"] or "-"].append(unit)
    rows = [(form, doubt, *_class_cells(some)) for (form, doubt), some in sorted(classes.items())]
    if len(rows) > 1:
        rows.append(("all", "", *_class_cells(units)))
    header = ("form", "doubt", "units", "asked about", "only mentioned", "tokens, mean", "sources, mean")
    return Table(header, tuple(rows))


def _class_cells(units: Sequence[Row]) -> tuple[str, ...]:
    asked = sum(bool(unit["example_ids"]) for unit in units)
    tokens = [unit["unit_tokens"] for unit in units if unit["unit_tokens"] is not None]
    sources = sum(len(unit["source_ids"]) for unit in units) / len(units)
    mean = sum(tokens) / len(tokens) if tokens else None
    return f"{len(units):,}", f"{asked:,}", f"{len(units) - asked:,}", number(mean), number(sources)


def left_out_blocks(left_out: Sequence[Row], readings: Sequence[Row], setting: Setting) -> list[Block]:
    """What was left out of the units (`schema.LEFT`), by kind with two examples each, and the harmful ones with the
    training questions (`readings`, as `schema.PREDICTION`) whose score they changed.
    """
    if not left_out:
        return []
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in left_out:
        kinds[row["kind"]].append(row)
    rows = []
    for kind, some in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        name = f"{kind}: {LEFT_KINDS[kind]}" if kind in LEFT_KINDS else kind
        for i, row in enumerate(some[:EXAMPLES]):
            first = (name, f"{len(some):,}") if i == 0 else ("", "")
            rows.append((*first, shorten(row["text"] or "-", WIDTH), shorten(row["reason"] or "-", WIDTH)))
    told = f"{len(left_out):,} left out: units, or sentences of them. All are in left_out.parquet."
    table = Table(("what", "left out", "examples", "why"), tuple(rows), numbers=False)
    return [Heading("Left out of the units"), Text(told), table, *_harmful_blocks(kinds["harmful"], readings, setting)]


def _harmful_blocks(harmful: Sequence[Row], readings: Sequence[Row], setting: Setting) -> list[Block]:
    blocks: list[Block] = []
    for row in harmful[:HARMFUL_SHOWN]:
        changed = [
            one for one in readings if _read(one, row["text"]) and _scores(one, setting)[0] != _scores(one, setting)[1]
        ]
        cells = tuple(
            (
                one["question"],
                " | ".join(one["golden_answers"]),
                one["answer_base"] or "",
                one["answer_writeback"] or "",
            )
            for one in changed[:QUESTIONS_SHOWN]
        )
        table = Table(("training question", "golden answers", "without units", "with units"), cells, numbers=False)
        title, _, text = row["text"].partition("\n")
        blocks.append(Details(f"{title}: {row['reason']}", (Text(text), *([table] if cells else []))))
    if not blocks:
        return []
    more = f", the first {HARMFUL_SHOWN}" if len(harmful) > HARMFUL_SHOWN else ""
    return [
        Text(f"Harmful units{more}, with the training questions whose score changed where they were read:"),
        *blocks,
    ]


def _read(row: Row, contents: str) -> bool:
    documents = row["documents_writeback"] or []
    return any(d["source"] == "writeback" and f"{d['title']}\n{d['text']}" == contents for d in documents)


def _scores(row: Row, setting: Setting) -> tuple[float, float]:
    """Without units and with them, as `writeback.validated` counts them: what failed changed nothing."""
    answers = row["answer_base"], row["answer_base"] if row["error"] else row["answer_writeback"]
    before, after = (
        0.0 if text is None else score(setting.metric, text, row["golden_answers"], setting.labels) for text in answers
    )
    return before, after
