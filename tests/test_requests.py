"""From kept examples to requests for units, over a world of a few passages: by question, by subject, and what is
mentioned there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import Units
from wbrag.schema import REQUEST, Document, document_rows
from wbrag.units import requests as requests_module
from wbrag.units.requests import LEAST, Nearest, Search, by_question, by_subject
from wbrag.units.sentences import holds, sentences, words

#: Stands in every golden answer, and nowhere else.
GOLD = "Zyxgold"
PASSAGES = {
    document.id: document
    for document in (
        Document(
            "oak", "Oakwick", "Oakwick is a town on the Osk. Its mill was built by Ida Brandt. It is quiet there."
        ),
        Document("fair", "Fairs", "Oakwick has a wool fair at Whitsun. The fair draws many. Elm has none."),
        Document("osk", "Osk", "The Osk is a river. The Osk rises near Port Elden. Boats go up it."),
        Document("port", "Port Elden", "Port Elden trades with Oakwick. Port Elden was founded by Rolf Hagen."),
        Document("ida", "Ida Brandt", "Ida Brandt was born in 1870."),
        Document("elm", "Elm", "Elm is a village. The village is quiet."),
        Document("whit", "Whitsun", "Whitsun is a holiday. It is in spring."),
        Document("storm", "Storms", "Any port is good in a storm."),
    )
}


def example(
    key: str, question: str, documents: Sequence[str], ranks: Sequence[int], **changes: object
) -> dict[str, Any]:
    """The trace row of a kept example, golden answers included."""
    nothing = dict.fromkeys(("unit_title", "unit_text", "evidence"))
    found = document_rows([PASSAGES[name] for name in documents])
    row = {"id": key, "question": question, "documents": found, "kept_ranks": list(ranks), **nothing}
    return row | {"golden_answers": [f"{GOLD} {key}"], "metadata": f'{{"answer": "{GOLD}"}}'} | changes


KEPT = [
    example("e1", "What river is Oakwick on?", ["fair", "oak", "elm"], [2]),
    example("e2", "When is the fair of Oakwick?", ["fair", "oak"], [1]),
    example("e3", "who was born in 1870?", ["ida", "oak"], [1]),
    example("e4", "What is Elm?", ["elm", "oak"], [1, 2]),
]


class World:
    """The two things that need a machine, and what they were asked."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.searched: list[list[str]] = []
        self.compared: list[tuple[list[str], list[list[str]]]] = []

    def search(self, names: Sequence[str]) -> list[list[Document]]:
        """Passages with a word of the name: more than hold the name itself."""
        self.searched.append(list(names))
        every = PASSAGES.values()
        return [[one for one in every if words(name.lower()) & words(one.contents.lower())] for name in names]

    def nearest(self, questions: Sequence[str], there: Sequence[Sequence[str]]) -> list[list[int]]:
        """The sentences that share most words with the question."""
        self.compared.append((list(questions), [list(some) for some in there]))
        shared = [[len(words(q) & words(one)) for one in some] for q, some in zip(questions, there, strict=True)]
        return [sorted(sorted(range(len(n)), key=lambda i, n=n: -n[i])[: self.count]) for n in shared]


def fits(requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests as they come out of a table, which holds all that they are."""
    requests = list(requests)
    rows = pa.Table.from_pylist(requests, REQUEST).to_pylist()
    assert [{**row, "documents": None} for row in rows] == [{**row, "documents": None} for row in requests]
    return rows


def ids_of(request: dict[str, Any]) -> list[str]:
    return [document["id"] for document in request["documents"]]


def texts_of(request: dict[str, Any]) -> list[str]:
    return [one["text"] for one in request["statements"]]


# By question


def test_a_question_has_its_kept_documents_and_the_sentences_nearest_to_it() -> None:
    world = World(count=2)
    first, *_, last = fits(by_question(KEPT, Units(form="verbatim"), world.nearest))
    assert (first["id"], first["examples"], first["subject"], first["draft"]) == ("e1", ["e1"], "", None)
    assert first["question"] == "What river is Oakwick on?"
    assert ids_of(first) == ["oak"]
    assert texts_of(first) == sentences(PASSAGES["oak"].text)[:2]
    assert ids_of(last) == ["elm", "oak"]
    assert {one["source"] for one in last["statements"]} <= {"elm", "oak"}
    assert (len(world.compared), world.searched) == (1, [])  # one call for all
    assert [len(some) for some in world.compared[0][1]] == [3, 3, 1, 5]


@pytest.mark.parametrize("how", [Units(), Units(form="verbatim", evidence="llm")])
def test_where_the_generator_chooses_nothing_is_compared(how: Units) -> None:
    world = World()
    assert [row["statements"] for row in fits(by_question(KEPT, how, world.nearest))] == [[]] * 4
    assert world.compared == []


def test_what_algorithm_1_wrote_of_an_example_goes_along() -> None:
    told = {"unit_title": "Oakwick", "unit_text": "A town.", "evidence": "Oakwick is a town on the Osk."}
    rows = list(by_question([KEPT[0] | told, KEPT[1]], Units(faithful=True), World(count=1).nearest))
    assert [texts_of(row) for row in rows] == [
        ["Oakwick is a town on the Osk."],
        ["Oakwick has a wool fair at Whitsun."],
    ]
    assert [row["draft"] for row in fits(rows)] == [
        {"title": "Oakwick", "text": "A town.", "evidence": "Oakwick is a town on the Osk."},
        None,
    ]


# By subject


def requested(hops: int, kept: Sequence[dict[str, Any]] = KEPT) -> tuple[dict[str, dict[str, Any]], World]:
    world = World()
    rows = fits(by_subject(kept, Units(scope="subject", hops=hops), world.search, world.nearest))
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["subject"]: row for row in rows}, world


def test_examples_of_one_subject_are_one_request() -> None:
    found, world = requested(hops=0)
    assert list(found) == ["Oakwick", "Ida Brandt", "Elm"]
    assert world.searched == [["Oakwick", "Ida Brandt", "Elm"]]
    oak = found["Oakwick"]
    assert (oak["id"], oak["examples"], oak["question"]) == ("subject oakwick", ["e1", "e2"], KEPT[0]["question"])
    assert oak["draft"] is None


def test_what_does_not_name_a_subject_is_no_evidence_about_it() -> None:
    wrong = example("e5", "Where is the old tower?", ["elm", "storm", "whit"], [1, 2, 3])
    found, _ = requested(0, [wrong])
    assert ids_of(found["Elm"]) == ["elm", "fair"]
    assert {one["source"] for one in found["Elm"]["statements"]} <= {"elm", "fair"}
    titled = Document("v", '"Elm_(Osk)"', "It is a village. It has a well.")
    (row,) = by_subject(
        [example("e6", "what has it?", [], [1]) | {"documents": document_rows([titled])}],
        Units(scope="subject", hops=0),
        World().search,
        World().nearest,
    )
    assert (row["subject"], ids_of(row), len(row["statements"])) == ("Elm (Osk)", ["v"], 1)


def test_a_subject_has_the_passages_with_its_name_and_all_that_they_say_of_it_its_evidence_first() -> None:
    found, _ = requested(hops=0)
    assert set(ids_of(found["Oakwick"])) == {"oak", "fair", "port"}
    assert texts_of(found["Oakwick"]) == ["Oakwick is a town on the Osk.", "Oakwick has a wool fair at Whitsun."]
    assert set(ids_of(found["Elm"])) == {"elm", "fair"}  # e4 kept oak too, which does not name it
    assert texts_of(found["Elm"])[0] == "Elm is a village."
    assert "The village is quiet." not in texts_of(found["Elm"])


def test_evidence_that_does_not_name_its_subject_is_taken_all_the_same() -> None:
    """As where a passage says "it": none of its sentences holds the name that the question gives."""
    row = example("e5", "How quiet is Ida Brandt?", ["elm", "ida"], [1, 2])
    silent = row | {"documents": document_rows([replace(PASSAGES["elm"], title="Ida Brandt")]), "kept_ranks": [1]}
    found, _ = requested(0, [silent])
    assert texts_of(found["Ida Brandt"])[0] == "The village is quiet."
    assert set(texts_of(found["Ida Brandt"])[1:]) == {
        "Its mill was built by Ida Brandt.",  # the first name in it
        "Ida Brandt was born in 1870.",
    }


def test_an_example_without_a_subject_has_a_request_of_its_own() -> None:
    untitled = document_rows([replace(PASSAGES["elm"], title="")])
    some = [example(key, "is it quiet?", ["elm"], [1]) | {"documents": untitled} for key in ("e6", "e7")]
    world = World()
    found = fits(by_subject(some, Units(scope="subject"), world.search, world.nearest))
    assert [(row["id"], row["subject"], row["examples"]) for row in found] == [(key, "", [key]) for key in ("e6", "e7")]
    assert texts_of(found[0]) == texts_of(found[1]) == ["The village is quiet."]
    assert world.searched == []


def test_an_examples_own_documents_come_before_those_that_its_subject_finds() -> None:
    found, _ = requested(hops=0)
    assert ids_of(found["Oakwick"]) == ["oak", "fair", "port"]


def test_a_subject_has_the_name_that_it_is_first_asked_by_whatever_the_case() -> None:
    first = example("e8", "How long is the OSK?", ["osk"], [1])
    found, world = requested(0, [first, KEPT[3], example("e9", "Where does the Osk rise?", ["osk", "oak"], [1])])
    assert {name: row["examples"] for name, row in found.items()} == {"OSK": ["e8", "e9"], "Elm": ["e4"]}
    assert (found["OSK"]["id"], found["OSK"]["question"]) == ("subject osk", first["question"])
    assert world.searched == [["OSK", "Elm"]]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("scope", ["question", "subject"])
def test_requests_are_the_same_however_many_examples_are_in_memory(
    scope: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    untitled = {"documents": document_rows([replace(PASSAGES["elm"], title="")])}
    kept = [*KEPT, example("e6", "is it quiet?", ["elm"], [1]) | untitled, example("e7", "Who is quiet?", ["oak"], [1])]
    how = Units(form="verbatim", scope=scope, hops=2)

    def made() -> list[dict[str, Any]]:
        search, nearest = World().search, World().nearest
        return list(by_subject(kept, how, search, nearest) if scope == "subject" else by_question(kept, how, nearest))

    whole = made()
    assert {key for row in whole for key in row["examples"]} == {row["id"] for row in kept}
    monkeypatch.setattr(requests_module, "AT_ONCE", at_once)
    assert made() == whole


def test_hops_take_in_what_is_mentioned_as_far_as_it_is_told() -> None:
    assert list(requested(0)[0]) == ["Oakwick", "Ida Brandt", "Elm"]
    one, world = requested(1)
    assert list(one) == [
        "Oakwick",
        "Ida Brandt",
        "Elm",
        "Osk",
    ]  # Whitsun is mentioned too, and too little is said of it
    assert sorted(world.searched[1]) == ["Osk", "Whitsun"]
    osk = one["Osk"]
    assert (osk["examples"], osk["question"], ids_of(osk)) == ([], "", ["oak", "osk"])
    assert texts_of(osk) == ["The Osk is a river.", "The Osk rises near Port Elden."]
    two, world = requested(2)
    assert list(two) == [*one, "Port Elden"]
    assert world.searched[2] == ["Port Elden"]
    assert set(ids_of(two["Port Elden"])) == {"osk", "port"}  # a port is found too, and does not hold the name
    assert len(requested(9)[1].searched) <= 10
    assert list(requested(9)[0]) == [*two]  # of Rolf Hagen no passage says anything


def test_nothing_kept_asks_for_nothing() -> None:
    found, world = requested(2, [])
    assert (found, world.searched) == ({}, [])
    assert list(by_question([], Units(form="verbatim"), world.nearest)) == []


@given(st.lists(st.sampled_from(KEPT), unique_by=lambda row: row["id"]), st.integers(0, 3))
def test_every_example_is_behind_one_request_and_every_statement_stands_in_its_documents(
    kept: list[dict[str, Any]], hops: int
) -> None:
    found, world = requested(hops, kept)
    behind = [key for row in found.values() for key in row["examples"]]
    assert sorted(behind) == sorted(row["id"] for row in kept)
    assert len(world.searched) <= hops + 1
    for row in found.values():
        own = {d["id"] for one in kept if one["id"] in row["examples"] for d in one["documents"]}
        assert all(d["id"] in own or holds(f"{d['title']}\n{d['text']}", row["subject"]) for d in row["documents"])
        assert len(set(ids_of(row))) == len(ids_of(row))
        there = {d["id"]: sentences(d["text"]) for d in row["documents"]}
        assert all(one["text"] in there[one["source"]] for one in row["statements"])
        assert len(set(texts_of(row))) == len(texts_of(row))
        assert row["examples"] or (row["question"] == "" and len(row["statements"]) >= LEAST)


@pytest.mark.parametrize("scope", ["question", "subject"])
@pytest.mark.parametrize("form", ["verbatim", "distilled"])
def test_no_golden_answer_reaches_a_request_or_what_it_is_made_with(scope: str, form: str) -> None:
    world = World()
    how = Units(form=form, scope=scope, hops=2)
    search: Search = world.search
    nearest: Nearest = world.nearest
    assert all(GOLD in str(row["golden_answers"]) for row in KEPT)
    rows = list(by_subject(KEPT, how, search, nearest) if scope == "subject" else by_question(KEPT, how, nearest))
    assert len(rows) >= 4
    assert GOLD not in str((rows, world.searched, world.compared))
    changed = [row | {"golden_answers": ["other"], "metadata": "{}"} for row in KEPT]
    some = by_subject(changed, how, search, nearest) if scope == "subject" else by_question(changed, how, nearest)
    assert list(some) == rows
