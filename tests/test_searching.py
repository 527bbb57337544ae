"""Searching while answering: one handle for many coroutines gives what single searches give, and no crash is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import publish

from wbrag.config import Backbone, Encoder, Method, TrainConfig
from wbrag.retrieval.encoder import passage_text
from wbrag.retrieval.encoding import HeldEncoder, open_encoder
from wbrag.retrieval.searching import BatchedSearch
from wbrag.run.actors import Generator
from wbrag.run.retrieve import (
    Knowledge,
    MergedDocuments,
    MethodSearch,
    Opening,
    retrieve_block,
    search_block,
)
from wbrag.schema import RETRIEVED, Document, document_rows

HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=64)
WORDS = ("mayor", "river", "hill", "ferry", "mill", "tower", "bridge")
FRAGMENTS = 3


def publish_passages(store: Path, name: str, texts: Sequence[str]) -> None:
    encoder = open_encoder(HASHING)
    titles = [f"{name} {i}" for i in range(len(texts))]
    table = pa.table({"id": [f"{name}{i}" for i in range(len(texts))], "title": titles, "text": list(texts)})
    vectors = encoder.encode_passages([passage_text(*pair) for pair in zip(titles, texts, strict=True)])
    publish(store, vectors, table, encoder.fingerprint, {"made_by": "test"})


@pytest.fixture(scope="module")
def method_search(tmp_path_factory: pytest.TempPathFactory) -> MethodSearch:
    """Both stores, the base in FRAGMENTS, searched by the very functions that run in the encoder's actor."""
    folder = tmp_path_factory.mktemp("stores")
    for number in range(FRAGMENTS):
        texts = [f"{a} and {b}" for a in WORDS[number::FRAGMENTS] for b in WORDS]
        publish_passages(folder / "base", f"p{number}-", texts)
    publish_passages(folder / "writeback", "wb-", [f"the {word} of the town" for word in WORDS])
    stores = Knowledge(TrainConfig(encoder=HASHING), folder / "base", folder / "writeback")
    return MethodSearch([LocalActor()], FRAGMENTS, Opening(stores))


class LocalActor:
    """The handle of an encoder's Ray actor, as far as a search sees it, in this process."""

    def __init__(self) -> None:
        self.held, self.calls = HeldEncoder(HASHING, "cpu", 1), 0

    @property
    def apply(self) -> SimpleNamespace:
        async def done(*given: Any) -> Any:  # noqa: ANN401
            values = [await one if isinstance(one, asyncio.Future) else one for one in given]  # as Ray waits for them
            return self.held.apply(*values)

        def remote(*given: Any) -> Any:  # noqa: ANN401
            self.calls += 1
            return asyncio.ensure_future(done(*given))

        return SimpleNamespace(remote=remote)


class Sent:
    """A method_search as the handle sees it; keeps the batches it got."""

    def __init__(self, method_search: MethodSearch) -> None:
        self.method_search = method_search
        self.batches: list[list[str]] = []

    async def __call__(self, queries: list[str], k: int, merged: list[bool]) -> list[list[Document]]:
        self.batches.append(queries)
        await asyncio.sleep(0)
        return await self.method_search.search(queries, k, merged)


QUERIES = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), st.integers(1, 9), st.booleans()),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40)
@given(QUERIES, st.integers(1, 7))
def test_searched_together_is_searched_one_by_one(
    method_search: MethodSearch, queries: list[tuple[str, int, bool]], batch: int
) -> None:
    sent = Sent(method_search)

    async def together() -> list[list[Document]]:
        handle = BatchedSearch(sent, batch=batch, wait=0.001)
        return await asyncio.gather(*[(handle.merged if both else handle.base)(q, k) for q, k, both in queries])

    alone = [asyncio.run(method_search.search([query], k, [both]))[0] for query, k, both in queries]
    assert asyncio.run(together()) == alone
    gathered = [queries[start : start + batch] for start in range(0, len(queries), batch)]
    assert sent.batches == [
        [query for query, other, _ in some if other == k]
        for some in gathered
        for k in dict.fromkeys(k for _, k, _ in some)
    ]


def test_the_base_search_never_sees_write_back(method_search: MethodSearch) -> None:
    base, both = asyncio.run(method_search.search(["the mayor of the town"] * 2, 3, [False, True]))
    assert {document.source for document in base} == {"base"}
    assert both[0].id == "wb-0"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_however_many_searchers_there_are_all_are_asked_and_find_the_same(
    method_search: MethodSearch, count: int
) -> None:
    """Of both stores and of the base alone, in one request: with one searcher, with the base in shards, in groups."""
    actors = [LocalActor() for _ in range(count)]
    several = MethodSearch(actors, FRAGMENTS, Opening(method_search.opening.stores))
    queries, merged = ["the mayor of the town", "a mill and a river", "hill"], [True, False, True]

    async def asked(search: MethodSearch, times: int) -> list[list[list[Document]]]:
        return await asyncio.gather(*[search.search(queries, 5, merged) for _ in range(times)])

    (alone,) = asyncio.run(asked(method_search, 1))
    assert asyncio.run(asked(several, 4)) == [alone] * 4
    assert all(actor.calls for actor in actors)


def test_a_late_query_makes_a_batch_of_its_own(method_search: MethodSearch) -> None:
    sent = Sent(method_search)

    async def work() -> None:
        handle = BatchedSearch(sent, batch=64, wait=0.002)
        await asyncio.gather(handle.base("mayor", 1), handle.base("river", 1))
        await handle.base("hill", 1)

    asyncio.run(work())
    assert sent.batches == [["mayor", "river"], ["hill"]]


@pytest.mark.parametrize("answers", [None, 0])
def test_a_crash_reaches_every_waiter_of_its_batch_and_no_other(answers: int | None) -> None:
    async def search_many(queries: list[str], k: int, merged: list[bool]) -> list[list[Document]]:
        if "bad" in queries:
            if answers is None:
                raise ConnectionError("the index is gone")
            return []
        return [[Document(query, "t", "x")] for query in queries]

    async def work() -> list[object]:
        handle = BatchedSearch(search_many, batch=3)
        first = asyncio.gather(*[handle.base(q, 1) for q in ("a", "bad", "b")], return_exceptions=True)
        second = asyncio.gather(*[handle.base(q, 1) for q in ("c", "d", "e")], return_exceptions=True)
        return [*await first, *await second]

    *failed, c, d, e = asyncio.run(asyncio.wait_for(work(), timeout=5))
    told = "the index is gone" if answers is None else "3 queries were sent and 0 answers came back"
    assert [str(error) for error in failed] == [told] * 3
    assert [found[0].id for found in (c, d, e)] == ["c", "d", "e"]  # type: ignore[index]


def test_who_gives_up_does_not_disturb_the_others() -> None:
    seen: list[list[str]] = []

    async def search_many(queries: list[str], k: int, merged: list[bool]) -> list[list[Document]]:
        seen.append(queries)
        return [[Document(query, "t", "x")] for query in queries]

    async def work() -> list[Document]:
        handle = BatchedSearch(search_many, wait=0.01)
        leaving = asyncio.ensure_future(handle.base("a", 1))
        staying = asyncio.ensure_future(handle.base("b", 1))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert [document.id for document in asyncio.run(asyncio.wait_for(work(), timeout=5))] == ["b"]
    assert seen == [["b"]]


def test_a_generator_has_one_handle_and_searches_the_base_for_the_base_answer(method_search: MethodSearch) -> None:
    """What the actor does with its method_search, without Ray: unsure questions are searched for, in few batches."""
    flags: list[bool] = []
    batches: list[int] = []

    def remote(*given: Any) -> Any:  # noqa: ANN401
        flags.extend(given[4])
        batches.append(len(given[4]))
        return method_search.actors[0].apply.remote(*given)

    actors = [SimpleNamespace(apply=SimpleNamespace(remote=remote))]
    reader = Backbone(name="scripted", kind="scripted", model="scripted")
    cfg = TrainConfig(backbone=reader, method=Method(name="flare"))
    generator = Generator(cfg)
    known = Document("d", "t", "The ferry is Alma.")
    rows = [
        {"id": f"q{i}", "question": f"What is the {thing}?", "golden_answers": ["Alma"], "metadata": "{}"}
        | {"documents": document_rows([known]), "documents_writeback": document_rows([known])}
        for i, thing in enumerate(["ferry", "hill", "mill", "tower"] * 5)
    ]

    async def work() -> tuple[pa.Table, pa.Table]:
        schema = RETRIEVED.append(pa.field("documents_writeback", RETRIEVED.field("documents").type))
        searches = [replace(method_search, actors=actors) for _ in range(2)]
        trained = await generator.train(pa.Table.from_pylist(rows, RETRIEVED), cfg, searches[0])
        flags.append(False)  # between the two
        return trained, await generator.predict(pa.Table.from_pylist(rows, schema), cfg, searches[1])

    trained, predicted = asyncio.run(work())
    assert set(flags[:15]) == {False}
    assert sorted(flags[16:]) == [False] * 15 + [True] * 15
    assert trained["retrievals"].to_pylist() == [0, 1, 1, 1] * 5
    for side in ("base", "writeback"):
        assert predicted[f"retrievals_{side}"].to_pylist() == [0, 1, 1, 1] * 5
    assert predicted["error"].null_count == len(rows)
    assert len(batches) < 15
    assert len(generator.handles) == 1


def test_who_opens_the_stores_again_opens_the_versions_it_was_given(tmp_path: Path) -> None:
    store, cfg = tmp_path / "base", TrainConfig(encoder=HASHING, k=9)
    publish_passages(store, "p", ["the mayor", "the river"])
    publish_passages(store, "q", ["the hill"])
    encoder = open_encoder(HASHING)
    for version, there in ((0, 3), (1, 2)):
        stores = Knowledge(cfg, store, versions=(version, 0))
        rows = retrieve_block(encoder, Opening(stores), ["mayor"], 9)
        assert len(rows["documents"][0]) == there
        merged = MergedDocuments(replace(stores, writeback=tmp_path / "none"))(rows)
        assert len(merged["documents_writeback"][0]) == there
        assert len(search_block(encoder, Opening(stores), ["mayor"], 9, [True])[0]) == there
