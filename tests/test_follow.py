"""A reader that keeps up: threads search in one knowledge base while it goes from pair to pair, and none is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_store import passages, publish, unit_vectors

from wbrag.config import Encoder
from wbrag.retrieval.encoding import open_encoder
from wbrag.schema import SEEN_BY
from wbrag.store import changes, rows
from wbrag.store.changes import collect, delete
from wbrag.store.files import StoreError
from wbrag.store.place import Place, place_of
from wbrag.store.search import KnowledgeBase, Store
from wbrag.store.vectors import spec_of
from wbrag.store.versions import Version, current, named

CLIENTS, PUBLISHES, D = 4, 50, 16
XQ = unit_vectors(3, seed=9)


def told(store: Path, says: str, count: int, base: tuple[int, str] | None = None) -> Version:
    """A version in which `count` rows say this; every second is for hr alone."""
    place, prefix = place_of(store), store.name[0]
    seen = pa.array([[["hr"]] if i % 2 else [] for i in range(count)], SEEN_BY.type)
    table = pa.table({"id": [f"{prefix}{i}" for i in range(count)], "title": ["t"] * count, "text": [says] * count})
    table = table.append_column(SEEN_BY, seen)
    schema, spec = rows.schema_in(place, None, table.schema, D), spec_of("flat_fp16", D)
    piece = changes.write_piece(place, rows.with_vectors(table, unit_vectors(count, d=D), schema), spec)
    return changes.publish(store, [piece], spec, "test", {}, base, upsert=True)


def publish_pair(folder: Path, says: str) -> None:
    base = told(folder / "base", says, 8)
    told(folder / "writeback", says, 6, named(base))


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def pins(folder: Path) -> set[int]:
    return {int(name[:6]) for name in place_of(folder / "writeback").names("pins")}


class Client(Thread):
    """Asks one question after the other, in all ways there are, until it is told to stop."""

    def __init__(self, knowledge: KnowledgeBase, stop: Event, number: int) -> None:
        super().__init__()
        self.knowledge, self.stop, self.number = knowledge, stop, number
        self.asked, self.pairs, self.faults = 0, set[str](), list[object]()

    def run(self) -> None:
        even = pc.field("id").isin([f"{store}{i}" for store in "bw" for i in range(0, 8, 2)])
        while not self.stop.is_set():
            groups, where = [None, [], ["hr"]][self.asked % 3], even if self.number % 2 else None
            try:
                found = self.knowledge.search(XQ, 20, where=where, groups=groups)
            except Exception as error:
                self.faults.append(error)
                return
            every = groups != [] and where is None
            for documents in found:
                says = {document.text for document in documents}
                versions = {(document.source, document.version) for document in documents}
                if len(says) != 1 or len(versions) != 2 or len(documents) != (14 if every else 7):
                    self.faults.append((says, versions, len(documents)))
                self.pairs |= says
            self.asked += 1


def test_no_query_is_lost_while_a_follower_goes_through_50_pairs(tmp_path: Path) -> None:
    """What was published before is cleaned up at once, but for what some search still reads."""
    publish_pair(tmp_path, "0")
    stop = Event()
    with KnowledgeBase.open(tmp_path, follow=0.01, threads=1) as knowledge:
        clients = [Client(knowledge, stop, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for number in range(1, PUBLISHES + 1):
            publish_pair(tmp_path, str(number))
            for store in ("base", "writeback"):
                collect(tmp_path / store, keep=1, grace=0)
        until(lambda: knowledge.writeback == current(tmp_path / "writeback"))
        asked = [client.asked for client in clients]
        until(
            lambda: all(client.asked > before or client.faults for client, before in zip(clients, asked, strict=True))
        )
        stop.set()
        for client in clients:
            client.join()
        assert [client.faults for client in clients] == [[]] * CLIENTS
        assert knowledge.follow_error is None
        assert {str(PUBLISHES)} <= set.intersection(*(client.pairs for client in clients))
        assert len(set.union(*(client.pairs for client in clients))) > PUBLISHES / 5
        until(lambda: len(pins(tmp_path)) == 1)
    assert pins(tmp_path) == set()


def test_a_pair_is_let_go_after_the_last_search_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_pair(tmp_path, "old")
    knowledge, nearest, inside, go_on = KnowledgeBase.open(tmp_path), Store.nearest, Event(), Event()

    def slow(self: Store, *given: Any) -> Any:  # noqa: ANN401 - as Store.nearest
        if threading.current_thread() is not threading.main_thread() and self.source == "base":
            inside.set()
            assert go_on.wait(20)
        return nearest(self, *given)

    monkeypatch.setattr(Store, "nearest", slow)
    found: list[Any] = []
    search = Thread(target=lambda: found.extend(knowledge.search(XQ, 20)))
    search.start()
    assert inside.wait(20)
    publish_pair(tmp_path, "new")
    assert knowledge.refresh()
    assert {d.text for some in knowledge.search(XQ, 20) for d in some} == {"new"}
    assert pins(tmp_path) == {1, 2}
    for store in ("base", "writeback"):
        collect(tmp_path / store, keep=1, grace=0)
    knowledge.close()
    assert pins(tmp_path) == {1}
    go_on.set()
    search.join(20)
    assert {d.text for some in found for d in some} == {"old"}  # base and units
    assert pins(tmp_path) == set()


def test_a_pin_that_comes_while_files_are_collected_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_pair(tmp_path, "old")
    opened, pins_of = list[KnowledgeBase](), changes.pins

    def late(place: Place) -> dict[str, int]:
        known = pins_of(place)
        opened.append(KnowledgeBase.open(tmp_path))
        return known

    with monkeypatch.context() as patched:
        patched.setattr(changes, "pins", late)
        collect(tmp_path / "writeback", grace=0)
    publish_pair(tmp_path, "new")
    collect(tmp_path / "writeback", keep=1, grace=0)
    assert {d.text for some in opened[0].search(XQ, 20) for d in some} == {"old"}
    for knowledge in opened:
        knowledge.close()
    assert pins(tmp_path) == set()


def test_what_goes_wrong_while_following_is_told_and_the_old_pair_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, unit_vectors(4), passages(4), "test", {})
    with KnowledgeBase(tmp_path, follow=0.01) as knowledge, caplog.at_level(logging.WARNING):
        (tmp_path / "versions").rename(tmp_path / "away")
        until(lambda: knowledge.follow_error is not None)
        assert "no version was ever published there" in str(knowledge.follow_error)
        assert len(knowledge.search(XQ, 9)[0]) == 4
        time.sleep(0.1)  # many turns, told once
        assert ["stays at the pair that is open" in record.message for record in caplog.records] == [True]
        (tmp_path / "away").rename(tmp_path / "versions")
        delete(tmp_path, ["p0"], {})
        until(lambda: knowledge.base.version == 2 and knowledge.follow_error is None)
        assert len(knowledge.search(XQ, 9)[0]) == 3
    with pytest.raises(StoreError, match="this knowledge base is closed"):
        knowledge.refresh()
    with pytest.raises(ValueError, match="what stays at a pair follows none"):
        KnowledgeBase(tmp_path, versions=(1, 0), follow=1.0)


def test_nobody_follows_what_is_closed_or_gone(tmp_path: Path) -> None:
    publish(tmp_path, unit_vectors(4), passages(4), "test", {})
    names = [f"follow {place_of(tmp_path)}"]
    closed, dropped = KnowledgeBase(tmp_path, follow=0.01), KnowledgeBase(tmp_path, follow=0.01)
    following = [thread for thread in threading.enumerate() if thread.name in names]
    assert len(following) == 2
    closed.close()
    del dropped
    until(lambda: not any(thread.is_alive() for thread in following))


def test_threads_that_ask_in_words_share_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_encoder(Encoder(name="hashing", kind="hashing", model="", dimension=D))
    publish(tmp_path, encoder.encode_passages(["a", "b"]), passages(2), encoder.fingerprint, {})
    encode, inside, most = encoder.encode_queries, 0, 0

    def counted(texts: list[str]) -> np.ndarray:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_queries", counted)
    with KnowledgeBase(tmp_path, encoder=encoder) as knowledge:
        threads = [Thread(target=knowledge.search_one, args=("a", 1)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_pin_goes_where_it_was_put_though_the_link_leads_elsewhere_by_then(tmp_path: Path) -> None:
    """As the first update of a run does to its base, while a server has it open."""
    for name in ("shared", "own"):
        publish(tmp_path / name, unit_vectors(2), passages(2), "hashing", {})
    link = tmp_path / "base"
    link.symlink_to(tmp_path / "shared")
    with KnowledgeBase(link, encoder=_Given()):  # type: ignore[arg-type]
        assert len(list((tmp_path / "shared" / "pins").iterdir())) == 1
        link.unlink()
        link.symlink_to(tmp_path / "own")
    assert list((tmp_path / "shared" / "pins").iterdir()) == []


class _Given:
    fingerprint, dimension = "hashing", D
