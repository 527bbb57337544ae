"""Units drawn at random, for a person to hold against their sources: what the rules say of each sentence, and which
sentence of the sources is nearest to it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wbrag.report.page import Block, Heading, Table, Text, markdown
from wbrag.units.faithful import Judged, checked
from wbrag.units.sentences import sentences, words

Row = Mapping[str, Any]
DRAWN = 50
#: What the rules say of a sentence, in words; any other is the class of a fault.
VERDICTS = {"stated": "stands in a source", "open": "no rule decides"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A unit of the draw, its sources' passages as far as they are known, and the rules' verdict on its parts."""

    unit: Row
    sources: tuple[Row, ...]
    title_fault: str
    sentences: tuple[Judged, ...]


def drawn(units: Sequence[Row], seed: int) -> list[Row]:
    """At most `DRAWN` of the units (`schema.UNIT`), in order of id: of the same units always the same."""
    ordered = sorted(units, key=lambda unit: str(unit["id"]))
    chosen = random.Random(seed).sample(ordered, min(DRAWN, len(ordered)))
    return sorted(chosen, key=lambda unit: str(unit["id"]))


def judged(
    units: Sequence[Row], passages: Mapping[str, Row], questions: Mapping[str, str], prompt_words: Sequence[str] = ()
) -> list[Drawn]:
    """The units with what the rules of `units.faithful` say of them, none of whose sources is missing from `passages`;
    `questions` are those of the training examples.
    """
    found = []
    for unit in units:
        sources = tuple(passages[key] for key in unit["source_ids"] if key in passages)
        question = next((questions[key] for key in unit["example_ids"] if key in questions), "")
        if sources and len(sources) == len(unit["source_ids"]):
            held = [f"{passage['title']}\n{passage['text']}" for passage in sources]
            told = checked(unit["title"], unit["text"], held, question, prompt_words)
            found.append(Drawn(unit, sources, told.title_fault, told.sentences))
    return found


def verdicts_told(found: Sequence[Drawn]) -> str:
    """How many sentences the rules bear out, in one sentence; "" for no unit."""
    if not found:
        return ""
    kinds = Counter(one.kind for unit in found for one in unit.sentences)
    total = kinds.total()
    parts = [f"{kinds.pop('stated', 0):,} stand in their sources", f"{kinds.pop('open', 0):,} open (no rule decides)"]
    parts += [f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.most_common()]
    titles = sum(bool(unit.title_fault) for unit in found)
    told = f"Of the {total:,} sentences of {len(found):,} units, drawn at random: {', '.join(parts)}"
    return f"{told}; {titles:,} titles with a fault."


def sample_page(found: Sequence[Drawn], seed: int) -> str:
    """The units with their sources as Markdown."""
    blocks: list[Block] = [Text(verdicts_told(found))]
    note = (
        "Verdicts are those of wbrag.units.faithful, before any critic. Beside each sentence the nearest of a source."
    )
    blocks.append(Text(note, "note"))
    for one in found:
        unit = one.unit
        told = f"{unit['id']}, from {', '.join(unit['source_ids'])}" + (
            f"; doubt: {unit['doubt']}" if unit["doubt"] else ""
        )
        told += f"; the title is at fault: {one.title_fault}" if one.title_fault else ""
        rows = tuple(
            (judged.sentence, _verdict(judged), *_nearest(judged.sentence, one.sources)) for judged in one.sentences
        )
        blocks += [Heading(unit["title"]), Text(told)]
        blocks.append(
            Table(("sentence of the unit", "verdict", "nearest in the sources", "source"), rows, numbers=False)
        )
    return markdown(f"{len(found)} units beside their sources", f"Drawn with seed {seed}", blocks)


def _verdict(one: Judged) -> str:
    told = VERDICTS.get(one.kind, one.kind.replace("_", " "))
    return f"{told}: {one.reason}" if one.reason else told


def _nearest(sentence: str, sources: Sequence[Row]) -> tuple[str, str]:
    """The sentence of the sources that shares most of its words with this one, and whose it is."""
    said = words(sentence)
    there = [(text, str(source["id"])) for source in sources for text in sentences(source["text"])]
    return max(there, key=lambda one: len(said & words(one[0])) / max(1, len(said | words(one[0]))), default=("-", "-"))
