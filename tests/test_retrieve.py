"""Retrieval by several actors: who holds what, the same rows however many there are, and after one has died."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import publish
from test_searching import FRAGMENTS, HASHING, WORDS

from wbrag.config import Cluster, Method, TrainConfig
from wbrag.retrieval.encoding import Encoders, open_encoder
from wbrag.run import retrieve as retrieval
from wbrag.run.lookup import Rows
from wbrag.run.retrieve import FOUND, Knowledge, MethodSearch, Opening, grouped, lent_search, retrieve_all, retrieved
from wbrag.store.versions import current

QUESTIONS = [f"the {a} of the {b}" for a in WORDS for b in WORDS]
SCHEMA = pa.schema([("question", pa.string())])


def stored(questions: list[str]) -> Rows:
    return Rows.of(pa.table({"question": questions}, SCHEMA).to_batches(), SCHEMA)


@given(st.integers(1, 40), st.integers(0, 50))
def test_every_actor_has_a_group_and_a_fragment_in_as_few_groups_as_can_be(actors: int, fragments: int) -> None:
    groups, most = grouped(list(range(actors)), fragments), max(1, fragments)
    assert sorted(chain(*groups)) == list(range(actors))
    sizes = [len(group) for group in groups]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert (len(groups) - 1) * most < actors


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of FRAGMENTS fragments with ties in each and between them: words count in any order."""
    store, encoder = tmp_path_factory.mktemp("retrieve") / "base", open_encoder(HASHING)
    for number in range(FRAGMENTS):
        texts = [f"{a} and {b}" for a in WORDS[number::FRAGMENTS] for b in WORDS] * 2
        ids = [f"p{number}-{i}" for i in range(len(texts))]
        table = pa.table({"id": ids, "title": [""] * len(texts), "text": texts})
        publish(store, encoder.encode_passages(texts), table, encoder.fingerprint, {})
    assert current(store).fragments == FRAGMENTS
    return store


@pytest.fixture(scope="module")
def encoders(ray_session: None) -> Iterator[Encoders]:
    """Three actors."""
    found = Encoders(HASHING, Cluster(encoders=3))
    yield found
    found.stop()


def test_rows_are_the_same_in_the_same_order_however_many_actors_there_are(
    base: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(retrieval, "RETRIEVE_ROWS", 4)
    stores, actors = Knowledge(TrainConfig(encoder=HASHING, k=7), base), encoders.start()

    def rows(count: int, fragments: int) -> pa.Table:
        search = MethodSearch(actors[:count], fragments, Opening(stores, count))
        return pa.concat_tables(retrieved(search, stored(QUESTIONS)))

    alone = rows(1, FRAGMENTS)
    assert alone["question"].to_pylist() == QUESTIONS
    assert {len(documents) for documents in alone["documents"].to_pylist()} == {7}
    assert rows(2, FRAGMENTS).equals(alone)
    assert rows(3, FRAGMENTS).equals(alone)
    assert rows(3, 2).equals(alone)  # two groups: one has the base in two shards, one has it whole
    for number, for_good in ((1, False), (2, True)):  # the others hold the base between them
        found = retrieved(MethodSearch(actors, FRAGMENTS, Opening(stores, 3)), stored(QUESTIONS))
        first = next(found)
        ray.kill(actors[number], no_restart=for_good)
        assert pa.concat_tables([first, *found]).equals(alone)


def test_what_runs_share_is_the_same_whoever_retrieved_it(base: Path, encoders: Encoders, tmp_path: Path) -> None:
    tables, one = [], Encoders(HASHING, Cluster())
    for name, kept in (("one", one), ("all", encoders)):
        cfg = TrainConfig(encoder=HASHING, run_dir=str(tmp_path / name / "run"))
        for some in (QUESTIONS[:20], QUESTIONS):
            rows = retrieve_all(cfg, stored(some), base, kept).rows(pa.array(some), FOUND.names)
        tables.append(rows)
    one.stop()
    assert tables[0].equals(tables[1])


def test_all_encoders_serve_methods_but_those_that_take_turns_with_engines(base: Path, encoders: Encoders) -> None:
    cfg = TrainConfig(encoder=HASHING, method=Method(name="flare"), cluster=Cluster(encoders=2))
    with lent_search(cfg, encoders, base) as found:
        assert found is not None
        assert found.groups == [encoders.start()]
    in_turn = Encoders(HASHING, cfg.cluster, lambda: [])
    in_turn.make_room = lambda: pytest.fail("engines were ended to search beside them")
    with lent_search(cfg, in_turn, base) as found:
        assert found is not None
        assert [len(group) for group in found.groups] == [2]
        assert found.opening.gpu_share == 0.0
    with lent_search(TrainConfig(encoder=HASHING), encoders, base) as found:
        assert found is None
