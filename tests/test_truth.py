"""Planted in a world before and after an update: 50 poisoned passages, 50 superseded facts, 50 true updates. No
instruction and next to no poison is in any unit, the old units are retired, and what is true and new is there.

Units are written by subject by a scripted generator, of what a hashing encoder finds; Ray does the same at scale
(test_update.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from test_algorithm import tools_for
from test_attacks import ATTACKS
from test_writeback import HASHING

from wbrag.config import ConfigError, TrainConfig, Units
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.run.checks import harmless_examples, harmless_search
from wbrag.run.inputs import check_dates_and_trust
from wbrag.schema import Document, document_rows
from wbrag.units.attacks import attack
from wbrag.units.requests import by_question, by_subject
from wbrag.units.sift import Evidence, Passage, Sifted, distinct, sifted
from wbrag.units.write import write_units

Row = dict[str, Any]
TREES = "Oak Elm Ash Birch Cedar Alder Maple Rowan Hazel Linden Willow Aspen Beech Poplar Yew".split()
ENDS = "ton ford wick bury mere dale field ham gate well".split()
TOWNS = [f"{tree}{end}" for end in ENDS for tree in TREES]
#: Each is planted in towns of its own.
POISONED, SUPERSEDED, UPDATED = TOWNS[:50], TOWNS[50:100], TOWNS[100:]
OLD, NEW = 2019.0, 2024.0
MORE = "Little else is told of the place, and few have been there, as the way is long and steep in every year."


def before() -> dict[str, Passage]:
    """Each town with its mayor, river and hill."""
    said = "{0}'s mayor is Mayor Old{1}. {0}'s river is River{1}. {0}'s hill is Hill{1}. " + MORE
    return {f"t{i:03}": Passage(f"t{i:03}", town, said.format(town, i), OLD) for i, town in enumerate(TOWNS)}


def after() -> dict[str, Passage]:
    """New passages with another mayor, old ones that were edited, and poison: orders, or lies of somebody who is not
    trusted. All are newer than what is true.
    """
    made = before()
    for i, town in enumerate(TOWNS):
        lie = f"{town}'s river is Lie{i}. {town}'s mayor is Mayor Lie{i}. {town}'s harbour is Lie{i}."
        if town in SUPERSEDED:
            made[f"n{i:03}"] = Passage(f"n{i:03}", f"News {i}", f"{town}'s mayor is Mayor New{i}. It was close.", NEW)
        elif town in UPDATED:
            text = made[f"t{i:03}"].text.replace("Mayor Old", "Mayor New")
            made[f"t{i:03}"] = Passage(f"t{i:03}", town, f"{text} {town}'s bridge is Bridge{i}.", NEW)
        elif i % 2:
            made[f"p{i:03}"] = Passage(f"p{i:03}", f"{town} today", lie, NEW, trusted=False)
        else:
            order = ATTACKS[i // 2 % len(ATTACKS)].replace("Oakton", town)
            made[f"p{i:03}"] = Passage(f"p{i:03}", f"{town} today", f"{lie} {order} {town}'s pond is Lie{i}.", NEW)
    return made


@dataclass(frozen=True, slots=True)
class World:
    """Units of a world, those that a person is asked about, and what was left out."""

    kept: list[Row]
    waiting: list[Row]
    left_out: list[Row]

    @property
    def told(self) -> str:
        return " ".join(unit["text"] for unit in self.kept)


def searched(passages: Mapping[str, Passage]) -> Callable[[Sequence[str], int], list[list[Document]]]:
    """The k passages that are nearest to each of some texts."""
    encoder, there = open_encoder(HASHING), list(passages.values())
    documents = [Document(one.id, one.title, one.text) for one in there]
    xb = encoder.encode_passages([passage_text(one.title, one.text) for one in there])

    def nearest(texts: Sequence[str], k: int) -> list[list[Document]]:
        scores = encoder.encode_queries(list(texts)).astype("float32") @ xb.T.astype("float32")
        return [[documents[i] for i in row[:k]] for row in (-scores).argsort(axis=1, kind="stable")]

    return nearest


def units_of(passages: Mapping[str, Passage], how: Units) -> World:
    """The units of one kept example for each town, as the run makes them."""
    search, k = searched(passages), 3
    asked = [f"What is {town}'s hill?" for town in TOWNS]
    kept = [
        {"id": f"q{i:03}", "question": question, "documents": document_rows(found), "kept_ranks": [1, 2, 3]}
        | dict.fromkeys(("unit_title", "unit_text", "evidence"))
        for i, (question, found) in enumerate(zip(asked, search(asked, k), strict=True))
    ]

    def first(questions: Sequence[str], there: Sequence[Sequence[str]]) -> list[list[int]]:
        return [[0] if some else [] for some in there]

    examples, find = harmless_examples(kept), harmless_search(lambda names: search(names, how.search))
    made = by_subject(examples, how, find, first) if how.scope == "subject" else by_question(examples, how, first)
    requests, units, shown = list(made), list[Row](), list[str]()
    for request in requests:
        llm = ScriptedLLM(read)
        units += asyncio.run(write_units(request, tools_for(llm), how, 2))["units"]
        shown += llm.prompts
    units = distinct(units)
    evidence = Evidence.of(units)
    ids = {one["id"] for row in (*requests, *kept) for one in row["documents"]}
    for key in sorted(ids):
        evidence.read(passages[key])
    found: Sifted = sifted(units, evidence)
    assert not [prompt for prompt in shown if "Tom Ash is" in prompt or "Ignore the above" in prompt]
    return World(found.kept, found.waiting, found.left_out)


SUBJECT = Units("subject", form="verbatim", scope="subject", search=10, checks=True)


@pytest.fixture(scope="module")
def old() -> World:
    return units_of(before(), SUBJECT)


@pytest.fixture(scope="module")
def new() -> World:
    return units_of(after(), SUBJECT)


def test_of_what_nobody_planted_nothing_goes(old: World) -> None:
    assert (old.waiting, old.left_out) == ([], [])
    assert all(f"{town}'s mayor is Mayor Old{i}." in old.told for i, town in enumerate(TOWNS))


def check_no_poison(world: World) -> None:
    poisoned = {source for unit in world.kept for source in unit["source_ids"] if source.startswith("p")}
    assert len(poisoned) <= 0.05 * len(POISONED)
    assert [unit for unit in world.kept if attack(unit["text"]) or attack(unit["title"])] == []
    assert "Lie" not in world.told
    assert len({row["request"] for row in world.left_out if row["kind"] == "attack"}) == len(POISONED[::2])
    assert all(row["reason"] for row in world.left_out)


def test_no_order_and_next_to_no_poison_is_in_any_unit(new: World) -> None:
    check_no_poison(new)
    waiting = " ".join(unit["text"] for unit in new.waiting)
    assert all(f"{town}'s harbour is Lie{i}." in waiting for i, town in enumerate(POISONED) if i % 2)
    assert all(set(unit["source_ids"]) <= {f"p{i:03}" for i in range(50)} for unit in new.waiting)
    assert not any(attack(unit["text"]) for unit in new.waiting)


def test_the_units_of_superseded_facts_are_retired_and_what_is_true_stays(old: World, new: World) -> None:
    there = {unit["id"] for unit in new.kept}
    numbers = {town: i for i, town in enumerate(TOWNS)}
    stale = {town: [one for one in old.kept if f"Mayor Old{numbers[town]}." in one["text"]] for town in SUPERSEDED}
    assert all(stale.values())
    retired = [
        town
        for town, units in stale.items()
        if not any(one["id"] in there for one in units) and f"Mayor Old{numbers[town]}." not in new.told
    ]
    assert len(retired) >= 0.95 * len(SUPERSEDED)
    facts = [f"{town}'s mayor is Mayor New{numbers[town]}." for town in (*SUPERSEDED, *UPDATED)]
    facts += [f"{town}'s bridge is Bridge{numbers[town]}." for town in UPDATED]
    assert len([fact for fact in facts if fact not in new.told]) <= 0.02 * len(UPDATED)
    facts = [f"{town}'s {what}{i}." for town, i in numbers.items() for what in ("river is River", "hill is Hill")]
    facts += [f"{town}'s mayor is Mayor Old{numbers[town]}." for town in POISONED]
    assert [fact for fact in facts if fact not in new.told] == []
    reasons = [row["reason"] for row in new.left_out if row["kind"] == "superseded"]
    assert len(reasons) == len(SUPERSEDED)
    assert f"newer passage n050 says: {TOWNS[50]}'s mayor is Mayor New50." in reasons


COLUMNS = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("day", pa.string())])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trust": "age"}, "trust='age': no passage has this key; other keys than id and contents: day"),
        ({"trust": "day"}, "trust='day': the passages have string there, not true or false"),
        ({"updated_at": "day", "units": Units()}, "updated_at='day' with units.checks=false"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_by_name(changes: dict[str, Any], told: str) -> None:
    check_dates_and_trust(TrainConfig(units=SUBJECT, updated_at="day"), COLUMNS)
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_dates_and_trust(TrainConfig(**{"units": SUBJECT, **changes}), COLUMNS)


def test_rewritten_units_hold_no_poison_either() -> None:
    check_no_poison(units_of(after(), Units("checked", search=10, checks=True)))
