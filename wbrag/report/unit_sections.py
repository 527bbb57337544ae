"""A run's units as its report tells them: how they were made, how many of which kind, what was left out and why; and
units drawn at random, for a person to hold against their sources.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from operator import itemgetter
from statistics import median
from textwrap import shorten
from typing import Any

from wbrag.config import Merge, Units
from wbrag.report.evaluation import Setting
from wbrag.report.overlap import units_read
from wbrag.report.page import Block, Details, Heading, Table, Text, markdown
from wbrag.report.tables import Column, count, number, tabled
from wbrag.run.lookup import sorted_places
from wbrag.schema import contents_of
from wbrag.units.faithful import Checked, checked
from wbrag.units.sentences import sentences, words

Row = Mapping[str, Any]
#: A unit of the draw, the passages that it was made of, and what the rules say of it.
Drawn = tuple[Row, list[Row], Checked]

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
    "access": "nobody may see all its sources",
    "harmful": "took more than it gave on other training questions",
    "attack": "speaks to a model, or is hidden from a reader",
    "superseded": "a newer passage says otherwise",
    "review": "waits for a person",
    "duplicate": "says what another unit says",
}
#: Which near units are read, as the end of a sentence, by `merge.reach`.
REACH = {
    "near": ".",
    "named": ", and whose title stands in the question.",
    "linked": ", and whose title stands in the question, and as far as they fit units that these name.",
}
HOPS = ("", ", and what that evidence mentions", ", what that evidence mentions, and what is mentioned with that")
#: What the rules say of a sentence, in words; any other is the class of a fault.
VERDICTS = {"stated": "stands in a source", "open": "no rule decides"}
CLASSES: Sequence[Column] = (
    ("doubt", "doubt", str),
    ("units", "units", count),
    ("asked about", "asked", count),
    ("only mentioned", "mentioned", count),
    ("tokens, mean", "tokens", number),
    ("sources, mean", "sources", number),
)
EXAMPLES, HARMFUL_SHOWN, QUESTIONS_SHOWN, WIDTH = 2, 10, 10, 240
DRAWN = 50


def unit_blocks(config: Row, units: Iterable[Row], corpus: int | None) -> list[Block]:
    """How a run's units were made, and how many of which form and doubt there are; `corpus`: passages of the base."""
    blocks: list[Block] = [Heading("Units"), Text(making_told(config))]
    classes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for unit in units:
        classes[unit["form"] or "-", unit["doubt"] or "-"].update(_counted(unit))
    every = sum(classes.values(), Counter[str]())
    if not every["units"]:
        return [*blocks, Text("No unit was written.")]
    records = [(form, _class(doubt, counts)) for (form, doubt), counts in sorted(classes.items())]
    told = f"{every['asked']:,} of the {every['units']:,} units are about what a kept example asks about"
    mentioned = every["units"] - every["asked"]
    told += f", {mentioned:,} about what its evidence only mentions." if mentioned else "."
    if corpus:
        told += f" There are {corpus / every['units']:,.1f} passages for each unit ({corpus:,} in the corpus)."
    records += [("all", _class("", every))] if len(records) > 1 else []
    return [*blocks, Text(told), tabled("form", CLASSES, records)]


def _counted(unit: Row) -> dict[str, int]:
    told = unit["unit_tokens"] is not None
    tokens = {"told": told, "tokens": unit["unit_tokens"] or 0}
    return {"units": 1, "asked": bool(unit["example_ids"]), "sources": len(unit["source_ids"]), **tokens}


def _class(doubt: str, counts: Mapping[str, int]) -> dict[str, Any]:
    units, asked = counts["units"], counts["asked"]
    numbers = {"units": units, "asked": asked, "mentioned": units - asked}
    tokens = counts["tokens"] / counts["told"] if counts["told"] else None
    return {"doubt": doubt, **numbers, "tokens": tokens, "sources": counts["sources"] / units}


def fitting(config: Row, units: Iterable[Row], predictions: Iterable[Row]) -> dict[str, float] | None:
    """Where units are read beside the passages: how many there are, and how many fit into the room (characters) that
    the passages of the median test question leave them; None where units take passages' places, or nothing was read.
    """
    merge = merge_of(config)
    held = [[len(contents_of(one)) for one in row["documents_base"] or []] for row in predictions]
    if merge.policy != "beside" or not any(held):
        return None
    room = merge.room * median(map(sum, filter(None, held)))
    fit = Counter(len(contents_of(unit)) <= room for unit in units)
    return {"share": merge.room, "room": room, "units": fit.total(), "fit": fit[True]} if fit else None


def fitting_told(found: Mapping[str, float]) -> str:
    """`fitting` in words, and what to do where most units do not fit."""
    told = f"{found['fit']:,.0f} of {found['units']:,.0f} units fit into the room that the passages of the median test "
    told += f"question leave them: {found['room']:,.0f} characters, {found['share']:.0%} of the passages'."
    if 2 * found["fit"] >= found["units"]:
        return told
    return f"{told} What does not fit is not read: give more room (merge.room, up to 2), or a larger k."


def merge_of(config: Row) -> Merge:
    """How a run's units and passages are merged."""
    return Merge(**(config.get("merge") or {}))


def making_told(config: Row) -> str:
    """How units are made and read with these settings, in words."""
    how = Units(**(config.get("units") or {}))
    merge = merge_of(config)
    wording = "rewritten by the generator" if how.form == "distilled" else "word for word"
    if how.scope == "subject":
        told = (
            f"One subject at a time: what passages that hold its name say of it (of the {how.search} nearest to it), "
            f"each thing once, {wording}, {how.tokens} tokens of that a unit. Subjects are what the evidence of kept "
            f"examples is about{HOPS[min(how.hops, 2)]}."
        )
    elif how.form == "distilled":
        told = "One unit for each kept example: the evidence in its documents, rewritten by the generator."
    else:
        chooser = "generator" if how.evidence == "llm" else f"encoder (the {how.sentences} nearest to the question)"
        told = f"One unit for each kept example: sentences of its documents word for word, chosen by the {chooser}."
    if how.faithful and how.form == "distilled":
        told += f" A sentence that its sources do not bear out was cut (the critic: {how.critic})."
    if how.validate:
        told += " What took more than it gave on training questions that did not make it was left out."
    merged = "Units and passages compete for the K places by score."
    if merge.policy == "beside":
        merged = (
            "The K passages stay; before them come the units that are as near to the question as the best passage, up "
            f"to {merge.margin:g} in score, within {merge.room:.0%} of the passages' characters{REACH[merge.reach]}"
        )
    return f"{told} {merged} (units={how.name})"


def left_out_blocks(left_out: Iterable[Row], readings: Iterable[Row], setting: Setting) -> list[Block]:
    """What was left out (`schema.LEFT`) by kind, and harmful units with the `readings` whose score they changed."""
    kinds, first = Counter[str](), defaultdict[str, list[Row]](list)
    for row in left_out:
        kinds[row["kind"]] += 1
        if len(some := first[row["kind"]]) < max(EXAMPLES, HARMFUL_SHOWN):
            some.append(row)
    if not kinds:
        return []
    rows = []
    for kind, times in sorted(kinds.items(), key=lambda item: (-item[1], item[0])):
        named = (f"{kind}: {LEFT_KINDS[kind]}" if kind in LEFT_KINDS else kind, f"{times:,}")
        for row in first[kind][:EXAMPLES]:
            rows.append((*named, shorten(row["text"] or "-", WIDTH), shorten(row["reason"] or "-", WIDTH)))
            named = ("", "")
    told = f"{kinds.total():,} left out: units, or sentences of them. All are in left_out.parquet."
    table = Table(("what", "left out", "examples", "why"), tuple(rows), numbers=False)
    shown = first["harmful"][:HARMFUL_SHOWN]
    changed = _changed({row["text"] for row in shown}, readings, setting)
    harmful: list[Block] = [_harmful(row, changed[row["text"]]) for row in shown]
    more = f", the first {HARMFUL_SHOWN}" if kinds["harmful"] > HARMFUL_SHOWN else ""
    head = Text(f"Harmful units{more}, with the training questions whose score changed where they were read:")
    return [Heading("Left out of the units"), Text(told), table, *([head, *harmful] if harmful else [])]


def _changed(texts: Set[str], readings: Iterable[Row], setting: Setting) -> Mapping[str, Sequence[Row]]:
    """Of units with these contents the first training questions that read them and whose score changed, as
    `writeback.validated` counts it.
    """
    found: dict[str, list[Row]] = {text: [] for text in texts}
    for row in readings if texts else ():
        read = set(map(contents_of, units_read(row))) & texts
        wanted = [text for text in read if len(found[text]) < QUESTIONS_SHOWN]
        if wanted and not row["error"] and setting.score(row, "base") != setting.score(row, "writeback"):
            for text in wanted:
                found[text].append(row)
    return found


def _harmful(left: Row, changed: Sequence[Row]) -> Details:
    """A unit that was left out, with the training questions that it `changed`."""
    cells = tuple(
        (row["question"], " | ".join(row["golden_answers"]), row["answer_base"] or "", row["answer_writeback"] or "")
        for row in changed
    )
    table = Table(("training question", "golden answers", "without units", "with units"), cells, numbers=False)
    title, _, text = left["text"].partition("\n")
    return Details(f"{title}: {left['reason']}", (Text(text), *([table] if cells else [])))


def drawn(units: Iterable[Row], seed: int) -> list[Row]:
    """At most `DRAWN` of the units (`schema.UNIT`), in order of id: of the same units always the same. They are gone
    through twice.
    """
    order = sorted_places(unit["id"] for unit in units)
    chosen = set(order[random.Random(seed).sample(range(len(order)), min(DRAWN, len(order)))].tolist())
    return sorted((unit for place, unit in enumerate(units) if place in chosen), key=itemgetter("id"))


def judged(
    units: Sequence[Row], passages: Mapping[str, Row], questions: Mapping[str, str], prompt_words: Sequence[str] = ()
) -> list[Drawn]:
    """The units of which all sources are in `passages`; `questions` are those of the training examples."""
    found = []
    for unit in units:
        sources = [passages[key] for key in unit["source_ids"] if key in passages]
        question = next((questions[key] for key in unit["example_ids"] if key in questions), "")
        if sources and len(sources) == len(unit["source_ids"]):
            held = checked(unit["title"], unit["text"], [*map(contents_of, sources)], question, prompt_words)
            found.append((unit, sources, held))
    return found


def verdicts_told(found: Sequence[Drawn]) -> str:
    """How many sentences the rules bear out, in one sentence."""
    kinds = Counter(one.kind for _, _, told in found for one in told.sentences)
    total = kinds.total()
    parts = [f"{kinds.pop('stated', 0):,} stand in their sources", f"{kinds.pop('open', 0):,} open (no rule decides)"]
    parts += [f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.most_common()]
    titles = sum(bool(told.title_fault) for _, _, told in found)
    said = f"Of the {total:,} sentences of {len(found):,} units, drawn at random: {', '.join(parts)}"
    return f"{said}; {titles:,} titles with a fault."


def sample_page(found: Sequence[Drawn], seed: int) -> str:
    """The units with their sources as Markdown."""
    note = "Verdicts are those of wbrag.units.faithful, before any critic. "
    blocks: list[Block] = [Text(verdicts_told(found)), Text(f"{note}Beside each sentence the nearest of a source.")]
    for unit, sources, verdict in found:
        told = f"{unit['id']}, from {', '.join(unit['source_ids'])}"
        told += f"; doubt: {unit['doubt']}" if unit["doubt"] else ""
        told += f"; the title is at fault: {verdict.title_fault}" if verdict.title_fault else ""
        rows = []
        for one in verdict.sentences:
            kind = VERDICTS.get(one.kind, one.kind.replace("_", " "))
            said = f"{kind}: {one.reason}" if one.reason else kind
            rows.append((one.sentence, said, *_nearest(one.sentence, sources)))
        header = ("sentence of the unit", "verdict", "nearest in the sources", "source")
        blocks += [Heading(unit["title"]), Text(told), Table(header, tuple(rows), numbers=False)]
    return markdown(f"{len(found)} units beside their sources", f"Drawn with seed {seed}", blocks)


def _nearest(sentence: str, sources: Sequence[Row]) -> tuple[str, str]:
    """The sentence of the sources that shares most of its words with this one, and whose it is."""
    said = words(sentence)
    there = [(text, str(source["id"])) for source in sources for text in sentences(source["text"])]
    return max(there, key=lambda one: len(said & words(one[0])) / max(1, len(said | words(one[0]))), default=("-", "-"))
