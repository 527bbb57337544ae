"""Who may see what: labels as people write them, those of units, and every way out of a knowledge base with readers of
all kinds, held against a decision made row by row.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import passages, publish, unit_vectors
from test_search import HASHING, publish_ivf

from wbrag.command import kb
from wbrag.command import units as units_program
from wbrag.config import Merge
from wbrag.data.benchmarks import InputError, OverErrorBudget, write_corpus
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import open_encoder
from wbrag.retrieval.merge import beside, best_of, by_name, linked, plain
from wbrag.schema import SEEN_BY, UNIT, Document
from wbrag.store.changes import delete
from wbrag.store.exchange import adopt, export
from wbrag.store.rows import coded, readable
from wbrag.store.search import NAMED, KnowledgeBase
from wbrag.store.vectors import train_template
from wbrag.store.versions import encoder_note, rollback
from wbrag.units.access import EVERYBODY, NOBODY, label_of, may_see, seen_by_nobody, together

GROUPS = ["legal", "hr", "sales", "böse,3:x", "r&d"]
LABELS = st.lists(st.lists(st.sampled_from(GROUPS), max_size=3), max_size=3)
READERS = st.sets(st.sampled_from(GROUPS))


# Labels


@given(st.lists(LABELS | st.none(), max_size=4), READERS)
def test_a_unit_is_seen_by_whoever_sees_all_its_sources(labels: list[list[list[str]] | None], groups: set[str]) -> None:
    both = together(labels)
    assert may_see(both, groups) == all(may_see(label, groups) for label in labels)
    assert seen_by_nobody(both) == (not may_see(both, GROUPS))
    assert together([both]) == both == together([*labels, *labels[::-1]])
    assert not any(set(one) < set(other) for one, other in product(both, both))  # the least clauses that say so


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, EVERYBODY),
        ("hr", [["hr"]]),
        (["sales", "hr", "hr"], [["hr", "sales"]]),
        ([["hr"], ["hr", "legal"], ["sales"]], [["hr"], ["sales"]]),
        ([], NOBODY),
        ("", NOBODY),
        ([""], NOBODY),
        ([[]], NOBODY),
        (["hr", ""], [["hr"]]),
    ],
)
def test_a_label_says_who(value: object, label: list[list[str]]) -> None:
    assert label_of(value) == label


@pytest.mark.parametrize("value", [3, True, {"hr": 1}, ["hr", 3], [["hr"], "sales"], [None]])
def test_what_is_no_group_is_no_label(value: object) -> None:
    with pytest.raises(ValueError, match="not a group or a list of groups"):
        label_of(value)


@given(st.lists(LABELS | st.none()), READERS)
def test_a_column_is_decided_as_its_rows_are(labels: list[list[list[str]] | None], groups: set[str]) -> None:
    column = pa.chunked_array([pa.array(labels[:3], SEEN_BY.type), pa.array(labels[3:], SEEN_BY.type)])
    numbers, distinct = coded(column)
    assert [distinct[number] for number in numbers] == labels
    assert len(distinct) == len({json.dumps(label) for label in labels})
    assert readable(column, groups).tolist() == [may_see(label, groups) for label in labels]


# Labels of a corpus


def corpus(folder: Path, *values: object, **more: object) -> Path:
    rows = [{"id": f"p{i}", "contents": f"T\nText {i}."} | more for i, _ in enumerate(values)]
    told = [row if value is ... else row | {"access": value} for row, value in zip(rows, values, strict=True)]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return folder / "c.jsonl"


def test_a_key_of_the_corpus_becomes_its_labels(tmp_path: Path) -> None:
    path, out = corpus(tmp_path, ["hr", "legal"], "sales", None, ..., []), tmp_path / "c.parquet"
    assert write_corpus(path, out, 0.0, access="access").rejected == []
    table = pq.read_table(out)
    assert table.column_names == ["id", "title", "text", "seen_by"]
    assert table["seen_by"].type == SEEN_BY.type
    assert table["seen_by"].to_pylist() == [[["hr", "legal"]], [["sales"]], [], [], [[]]]
    table = write_corpus(corpus(tmp_path, ["hr"], None), out) and pq.read_table(out)
    assert table["access"].to_pylist() == [["hr"], None]  # without the setting, a key like any other


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        ((..., ...), {"year": 1}, r"c\.jsonl: access='access': no row says anything under this key, but under year"),
        ((3, 4, None), {}, r"c\.jsonl: access='access': is int64 in most rows, not a group or a list of groups"),
        (([1.5], None), {}, r"access='access': is list<.*double> in most rows"),
        ((["hr"],), {"seen_by": "x"}, "has a key 'seen_by', as labels are called, beside access='access'; rename it"),
    ],
)
def test_a_key_that_holds_no_groups_is_refused_by_name(
    tmp_path: Path, values: Sequence[object], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_corpus(corpus(tmp_path, *values, **more), tmp_path / "c.parquet", 0.5, access="access")


def test_a_row_whose_label_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    path = corpus(tmp_path, ["hr"], 7, ["hr"])
    (left,) = write_corpus(path, tmp_path / "c.parquet", 0.5, access="access").rejected
    assert (left.line, left.reason) == (2, "access is 7, not a group or a list of groups")
    with pytest.raises(OverErrorBudget, match="access is 7"):
        write_corpus(path, tmp_path / "c.parquet", 0.1, access="access")


# Every way out of a knowledge base

N, UNITS, NLIST = 90, 40, 6
#: Towns whose units name each other, for the merges that go by names.
TOWNS = [f"Town{chr(65 + i)}" for i in range(20)]


@dataclass(frozen=True)
class World:
    """Stores with the labels that their passages were given, and the sources of their units."""

    folder: Path
    given: dict[str, object]
    sources: dict[str, list[str]]

    def sees(self, groups: Collection[str] | None, key: str) -> bool:
        """Decided by hand for a row, of what the corpus said."""
        if groups is None:
            return True
        if key in self.sources:
            return all(self.sees(groups, source) for source in self.sources[key])
        value = self.given[key]
        return value is None or bool({value} & set(groups) if isinstance(value, str) else set(value) & set(groups))


def drawn(rng: random.Random) -> object:
    """A label as a corpus has it: a third of the passages is for everybody."""
    kind = rng.random()
    if kind < 0.35:
        return None
    return rng.choice(GROUPS) if kind < 0.5 else rng.sample(GROUPS, rng.choice([0, 1, 1, 1, 2, 3]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """flat: three fragments with deleted rows; ivf: the same with lists; writeback: units, which name each other."""
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(5)
    given = {f"p{i}": drawn(rng) for i in range(N)}
    gone = [f"p{i}" for i in range(0, N, 9)]
    sources = {f"wb{i}": rng.sample(sorted({*given} - {*gone}), rng.choice([1, 1, 2, 2, 3])) for i in range(UNITS)}
    told = {key: label_of(value) for key, value in given.items()}
    vectors, table = unit_vectors(N), passages(N).append_column(SEEN_BY, pa.array(list(told.values()), SEEN_BY.type))
    template = train_template(vectors, NLIST)
    for rows in np.array_split(np.arange(N), 3):
        some = table.slice(int(rows[0]), len(rows))
        publish(folder / "flat", vectors[rows], some, "test", {})
        publish_ivf(folder / "ivf", vectors[rows], some, template, NLIST)
    for store in ("flat", "ivf"):
        delete(folder / store, gone, {})
    rows = [
        {"id": key, "title": TOWNS[i % 20], "text": f"{TOWNS[i % 20]} trades with {TOWNS[(i + 7) % 20]}."}
        | {"source_ids": some, "example_ids": [], "seen_by": together(told[one] for one in some)}
        for i, (key, some) in enumerate(sources.items())
    ]
    made = pa.Table.from_pylist(rows, UNIT.append(SEEN_BY))
    publish(folder / "writeback", unit_vectors(UNITS, seed=3), made, "test", {})
    publish(folder / "unlabelled", unit_vectors(UNITS, seed=3), made.drop_columns(["seen_by"]), "test", {})
    return World(folder, {key: value for key, value in given.items() if key not in gone}, sources)


def readers(count: int) -> Iterator[list[str] | None]:
    """Nobody in particular, everybody, strangers, and `count` drawn ones."""
    rng = random.Random(7)
    yield from (None, [], GROUPS, ["stranger"])
    yield from (rng.sample([*GROUPS, "stranger"], rng.choice([1, 1, 2, 2, 3])) for _ in range(count))


WHERE = pc.field("id").isin([*(f"p{i}" for i in range(0, N, 2)), *(f"wb{i}" for i in range(0, UNITS, 2))])
WAYS = {
    "plain": Merge(),
    "near": Merge("beside", margin=0.4, room=2.0),
    "named": Merge("beside", 2.0, 2.0, "named"),
    "linked": Merge("beside", 2.0, 2.0, "linked"),
}


def folded(lists: tuple[list[Document], list[Document]], k: int, merge: Merge, question: str) -> list[Document]:
    """What a reader is given of all passages and all units that may be seen, each best first."""
    near, every = lists[0][:k], lists[1]
    if merge.policy == "plain":
        return plain(near, every[:k], k)
    first = beside(near, every[: NAMED * k if by_name(merge) else k], k, merge, question)
    return [*(linked(near, first, every, k, merge) if merge.reach == "linked" else first), *near]


@pytest.mark.parametrize("base", ["flat", "ivf"])
def test_10000_searches_show_what_may_be_seen_and_all_of_it(world: World, base: str) -> None:
    """Whatever the merge, with and without a filter, by one query and by many, in blocks of a device too."""
    cases, count, xq = 0, 40, unit_vectors(40, seed=11)
    asked = [f"Is {TOWNS[i % 20]} far from {TOWNS[(i * 3) % 20]}?" for i in range(count)]
    where_base, units = world.folder / base, world.folder / "writeback"
    with KnowledgeBase(where_base, nprobe=NLIST) as one, KnowledgeBase(units) as other:
        ranked = [one.search(xq, N), [[_of_units(d) for d in some] for some in other.search(xq, UNITS)]]
    opened = [
        (merge, KnowledgeBase(where_base, units, merge=merge, nprobe=NLIST, threads=1)) for merge in WAYS.values()
    ]
    opened.append((WAYS["plain"], KnowledgeBase(where_base, units, nprobe=NLIST, block_bytes=16 * 2 * 7, threads=1)))
    for groups, (merge, knowledge), where in product(readers(10), opened, (None, WHERE)):
        k = random.Random(cases).choice([1, 3, 8, 40])
        found = knowledge.search(xq, k, where=where, questions=asked, groups=groups)
        for query, documents in enumerate(found):
            seen = [
                [
                    d
                    for d in ranked[at][query]
                    if world.sees(groups, d.id) and (where is None or int(d.id.strip("pwb")) % 2 == 0)
                ]
                for at in range(2)
            ]
            assert documents == folded((seen[0], seen[1]), k, merge, asked[query]), (groups, merge, where, k, query)
        one_by_one = knowledge.search(xq[:1], k, where=where, questions=asked[:1], groups=groups)
        assert one_by_one == found[:1]
        cases += count
    assert cases >= 5_000  # with both bases 10,000


def _of_units(found: Document) -> Document:
    return Document(found.id, found.title, found.text, found.score, "writeback")


@pytest.mark.parametrize("nprobe", [1, 2])
def test_lists_that_hold_too_little_are_not_the_end(world: World, nprobe: int) -> None:
    """An IVF base finds as many as there are, and none that may not be seen; nearest first; in shards too."""
    xq, base = unit_vectors(20, seed=12), world.folder / "ivf"
    whole = KnowledgeBase(base, nprobe=nprobe, threads=1)
    parts = [KnowledgeBase(base, nprobe=nprobe, shard=(i, 2), threads=1) for i in range(2)]
    for groups, where, k in product(readers(12), (None, WHERE), (1, 5, 60)):
        if groups is None and where is None:
            continue  # as many as the lists hold
        seen = {key for key in world.given if world.sees(groups, key) and (where is None or int(key[1:]) % 2 == 0)}
        shards = zip(*[part.search(xq, k, where=where, groups=groups) for part in parts], strict=True)
        for documents in (*whole.search(xq, k, where=where, groups=groups), *(best_of(some, k) for some in shards)):
            assert len(documents) == min(k, len(seen))
            assert {document.id for document in documents} <= seen
            scores = [document.score for document in documents]
            assert scores == sorted(scores, reverse=True)


def test_shards_show_a_reader_together_what_the_store_shows(world: World) -> None:
    base, units, xq = world.folder / "flat", world.folder / "writeback", unit_vectors(6, seed=13)
    parts = [KnowledgeBase(base, units, shard=(i, 3)) for i in range(3)]
    whole = KnowledgeBase(base, units)
    for groups in readers(6):
        lists = zip(*[part.search(xq, 9, writeback=False, groups=groups) for part in parts], strict=True)
        near = [best_of(some, 9) for some in lists]
        assert near == whole.search(xq, 9, writeback=False, groups=groups)
        switches = [True, False, True, True, False, True]
        folded_some = parts[0].fold(xq, near, 9, switches, groups=groups)
        assert folded_some == whole.search(xq, 9, writeback=switches, groups=groups)
        assert parts[1].fold(xq, near, 9, groups=groups) == whole.search(xq, 9, groups=groups)


def test_without_labels_everybody_sees_everything_and_beside_labels_nobody_does(world: World) -> None:
    xq = unit_vectors(3, seed=14)
    none = KnowledgeBase(world.folder / "unlabelled")
    assert none.search(xq, 99, groups=[]) == none.search(xq, 99)
    mixed = KnowledgeBase(world.folder / "flat", world.folder / "unlabelled")
    assert all({d.source for d in some} == {"base"} for some in mixed.search(xq, 99, groups=GROUPS))
    assert len(mixed.search(xq, 999)[0]) == len(world.given) + UNITS


def test_a_refreshed_reader_goes_by_the_labels_of_the_new_version(tmp_path: Path) -> None:
    """Those of fragments that stay are not read again; a row that a rollback brings back has its label."""
    table = passages(6).append_column(SEEN_BY, pa.array([[["hr"]]] * 3 + [[]] * 3, SEEN_BY.type))
    publish(tmp_path, unit_vectors(3), table[:3], "test", {})
    publish(tmp_path, unit_vectors(3, seed=2), table[3:], "test", {})
    delete(tmp_path, ["p0", "p3"], {})
    with KnowledgeBase(tmp_path) as knowledge:

        def seen(*groups: str) -> set[str]:
            return {document.id for document in knowledge.search(unit_vectors(1), 9, groups=groups)[0]}

        assert (seen(), seen("hr")) == ({"p4", "p5"}, {"p1", "p2", "p4", "p5"})
        read = {id(codes) for codes, _ in knowledge._pair.stores["base"].labels}
        more = passages(2, "q").append_column(SEEN_BY, pa.array([[["hr"]], [["legal"]]], SEEN_BY.type))
        publish(tmp_path, unit_vectors(2, seed=3), more, "test", {})
        assert knowledge.refresh()
        assert (seen(), seen("hr")) == ({"p4", "p5"}, {"p1", "p2", "p4", "p5", "q0"})
        assert {id(codes) for codes, _ in knowledge._pair.stores["base"].labels} > read
        rollback(tmp_path, 2, {})
        assert knowledge.refresh()
        assert (seen(), seen("hr")) == ({"p3", "p4", "p5"}, {f"p{i}" for i in range(6)})


def test_groups_in_one_text_are_refused(world: World) -> None:
    knowledge = KnowledgeBase(world.folder / "flat")
    for call in (knowledge.search, lambda xq, k, groups: knowledge.fold(xq, [[]], k, groups=groups)):
        with pytest.raises(ValueError, match="groups is 'hr'; give a list of texts"):
            call(unit_vectors(1), 3, groups="hr")


def test_an_export_holds_what_its_readers_may_see_and_comes_back_with_its_labels(world: World, tmp_path: Path) -> None:
    stores = [world.folder / "flat", world.folder / "writeback"]
    every = [*world.given, *world.sources]
    for number, groups in enumerate(readers(3)):
        out = tmp_path / str(number)
        facts = export(stores, out, groups=groups)
        lines = [json.loads(line) for line in (out / "corpus.jsonl").read_text().splitlines()]
        seen = [key for key in every if world.sees(groups, key)]
        assert [line["id"] for line in lines] == seen == pq.read_table(out / "dataset")["id"].to_pylist()
        assert facts["rows"] == len(seen)
        assert facts["groups"] == (None if groups is None else sorted(groups))
        for line in lines:
            assert may_see(label_of(line.get("seen_by")), ["hr"]) == world.sees(["hr"], line["id"])


# The programs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores of a run whose passages are text, encoded by the hashing encoder."""
    folder, encoder = tmp_path_factory.mktemp("run"), open_encoder(HASHING)
    for name, count in (("base", 30), ("writeback", 12)):
        rows = [
            {"id": f"{name[0]}{i}", "title": f"Town {i}", "text": f"The mayor of town{i} is {name}{i}."}
            | {"seen_by": label_of([None, ["hr"], ["legal", "hr"], []][i % 4])}
            for i in range(count)
        ]
        vectors = encoder.encode_passages([passage_text(row["title"], row["text"]) for row in rows])
        table = pa.Table.from_pylist(
            rows, pa.schema([*((key, pa.string()) for key in ("id", "title", "text")), SEEN_BY])
        )
        publish(folder / name, vectors, table, encoder.fingerprint, encoder_note(HASHING))
    return folder


def told(program: Any, capsys: pytest.CaptureFixture[str], *words: str) -> Any:  # noqa: ANN401 - a module, JSON
    assert program.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("groups", "kinds"), [([], {0}), (["hr"], {0, 1, 2}), (["legal"], {0, 2}), (None, {0, 1, 2, 3})]
)
def test_programs_and_questions_show_what_a_reader_may_see(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: list[str] | None, kinds: set[int]
) -> None:
    words = [] if groups is None else ["--groups", *groups]
    units = told(units_program, capsys, "search", str(run), "mayor of town3", "-k", "99", *words)
    assert {int(one["id"][1:]) for one in units} == {i for i in range(12) if i % 4 in kinds}
    facts = told(kb, capsys, "export", str(run / "base"), str(tmp_path / "out"), *words)
    assert facts["rows"] == sum(i % 4 in kinds for i in range(30))
    with KnowledgeBase.open(run) as knowledge:
        found = knowledge.search_one("Who is the mayor of town3?", 99, groups=groups)
        assert {document.id for document in found if document.source == "writeback"} == {one["id"] for one in units}
        assert found == knowledge.search(["Who is the mayor of town3?"], 99, groups=groups)[0]
        again = knowledge.search_one("Who is the mayor of town3?", 5, where="title <> 'Town 3'", groups=groups)
        assert again == [document for document in found if document.title != "Town 3"][:5]
    adopt(tmp_path / "out" / "corpus.jsonl", tmp_path / "out" / "flat.index", tmp_path / "in", HASHING, {})
    with KnowledgeBase(tmp_path / "in") as copy:
        assert {int(d.id[1:]) % 4 for d in copy.search_one("mayor", 99, groups=["legal"])} == kinds & {0, 2}
