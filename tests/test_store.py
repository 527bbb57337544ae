"""The store on Lance: versions are whole or not there, search is exact, and every damage is named."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wbrag.config import ConfigError
from wbrag.store import rows, versions
from wbrag.store.changes import collect, compact, copy_store, delete, publish, to_join, write_piece
from wbrag.store.files import StoreError
from wbrag.store.place import Place, place_of
from wbrag.store.rows import Piece
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import Spec, spec_of, train_template
from wbrag.store.verify import repair, verify

DIMENSION = 8
FLAT = spec_of("flat_fp16", DIMENSION)
ENCODER = "enc"


def vectors_of(ids: list[str]) -> np.ndarray:
    """A unit vector for each id, the same for ids of one ending, so that there are ties."""
    made = [np.random.default_rng(int(key.rpartition("-")[2])).normal(size=DIMENSION) for key in ids]
    return np.array([one / np.linalg.norm(one) for one in made]).astype(np.float16).reshape(len(ids), DIMENSION)


def passages(ids: list[str], text: str = "text", **more: list[Any] | pa.Array) -> pa.Table:
    return pa.table(
        {"id": ids, "title": [f"title {key}" for key in ids], "text": [f"{text} {key}" for key in ids], **more}
    )


def content(
    place: Place, *tables: pa.Table, spec: Spec = FLAT, encoder: str = ENCODER
) -> tuple[list[Piece], Spec, str]:
    """The tables as a piece each, with all columns that the store has by now."""
    columns = pa.unify_schemas([table.schema for table in tables])
    schema = rows.schema_in(place, versions.latest(place), columns, DIMENSION)
    made = [rows.with_vectors(table, vectors_of(table["id"].to_pylist()), schema) for table in tables]
    return [write_piece(place, table, spec) for table in made], spec, encoder


def store(folder: Path, *ids: list[str]) -> Place:
    """A store with a version for each list of ids."""
    place = place_of(folder)
    for some in ids:
        publish(place, *content(place, passages(some)), {"ids": len(some)})
    return place


def nearest(texts: dict[str, str], query: np.ndarray, k: int) -> list[tuple[str, str]]:
    """What a search has to find among ids with these texts: best first, of equal scores the lesser id."""
    ids = sorted(texts)
    # One by one: BLAS may give two equal vectors of a matrix other last bits.
    scores = [float(np.dot(vector, query.astype(np.float32))) for vector in vectors_of(ids).astype(np.float32)]
    order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
    return [(ids[i], texts[ids[i]]) for i in order[:k]]


def everything(place: Place, number: int = 0) -> dict[str, str]:
    version = versions.read_version(place, number) if number else versions.current(place)
    table = rows.opened(place, version).to_table(columns=["id", "text"])
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


IDS = [f"{letter}-{number}" for letter in "abc" for number in range(6)]
SOME = st.lists(st.sampled_from(IDS), min_size=1, max_size=6, unique=True)


class Life(RuleBasedStateMachine):
    """A store and, beside it, what each of its versions holds as plain dictionaries."""

    folder: Path

    @initialize(ids=SOME)
    def first(self, ids: list[str]) -> None:
        self.place = place_of(self.folder / os.urandom(8).hex())
        publish(self.place, *content(self.place, passages(ids)), {})
        self.told = [{key: f"text {key}" for key in ids}]
        self.oldest = 1

    @rule(ids=SOME, again=st.booleans(), labels=st.booleans())
    def upsert(self, ids: list[str], again: bool, labels: bool) -> None:
        text, more = f"text {len(self.told)}", {"label": pa.array(ids)} if labels else {}
        made = content(self.place, passages(ids, text, **more))
        live = self.told[-1]
        if not again and set(ids) & set(live):
            with pytest.raises(StoreError, match=f"id '{min(set(ids) & set(live))}' is live in version"):
                publish(self.place, *made, {})
            return
        publish(self.place, *made, {}, upsert=again)
        self.told.append(live | {key: f"{text} {key}" for key in ids})

    @rule(ids=SOME)
    def delete(self, ids: list[str]) -> None:
        live = [key for key in ids if key in self.told[-1]]
        assert delete(self.place, live, {}).version == len(self.told) + bool(live)
        if live:
            self.told.append({key: text for key, text in self.told[-1].items() if key not in live})

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.oldest, len(self.told)))
        versions.rollback(self.place, number, {})
        self.told.append(self.told[number - 1])

    @rule(keep=st.integers(1, 4), most=st.integers(3, 20))
    def compact(self, keep: int, most: int) -> None:
        before = versions.current(self.place)
        after = compact(self.place, {}, keep, most)
        if after != before:
            self.told.append(self.told[-1])
        fragments = [f.metadata for f in rows.opened(self.place, after).get_fragments()]
        assert all(not f.num_deletions for f in fragments)

    @precondition(lambda self: len(self.told) > 2)
    @rule(keep=st.integers(1, 3))
    def clean_up(self, keep: int) -> None:
        collect(self.place, keep, grace=0)
        now = versions.current(self.place)
        self.told += [self.told[-1]] * (now.version - len(self.told))
        self.oldest = now.oldest

    @invariant()
    def holds(self) -> None:
        assert versions.current(self.place).version == len(self.told)
        for number in range(self.oldest, len(self.told) + 1):
            assert everything(self.place, number) == self.told[number - 1]
        assert verify(self.place, full=True) == []
        with KnowledgeBase(self.place) as kb:
            for query in vectors_of(["q-1", "q-77"]):
                found = kb.search(query[None], 4)[0]
                assert [(one.id, one.text) for one in found] == nearest(self.told[-1], query, 4)


@pytest.mark.slow
def test_a_store_is_what_a_dictionary_of_each_version_is(tmp_path: Path) -> None:
    Life.folder = tmp_path
    quick = settings(max_examples=20, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Life, settings=quick)  # type: ignore[no-untyped-call]


def test_what_is_deleted_already_is_passed_over_and_what_was_never_there_is_named(tmp_path: Path) -> None:
    place = store(tmp_path, ["a-1", "a-2"])
    assert delete(place, ["a-1"], {}).version == 2
    assert delete(place, ["a-1"], {}).version == 2
    with pytest.raises(StoreError, match="version 2 has no passage 'a-9'"):
        delete(place, ["a-9", "a-2"], {})
    assert delete(place, ["a-1", "a-2"], {}).rows == 0
    with KnowledgeBase(place) as kb:
        assert kb.search(vectors_of(["a-1"]), 3) == [[]]
    publish(place, *content(place, passages(["a-1"], "again")), {})
    assert everything(place) == {"a-1": "again a-1"}


@pytest.mark.parametrize("kind", ["flat_fp16", "ivf_fp16"])
def test_a_batch_a_single_query_and_a_device_find_the_same(tmp_path: Path, kind: str) -> None:
    place, spec = place_of(tmp_path), FLAT
    ids = [f"p-{number}" for number in range(300)]
    if kind == "ivf_fp16":
        template = train_template(vectors_of(ids), 4)
        spec = spec_of(kind, DIMENSION, template, 4)
        place.create(f"templates/{spec.template}.faiss", template)
    parts = [passages(ids[start : start + 75]) for start in range(0, 300, 75)]
    publish(place, *content(place, *parts, spec=spec), {})
    delete(place, ids[::7], {})
    texts, queries = everything(place), vectors_of([f"q-{number}" for number in range(1000, 1020)])
    wanted = [[key for key, _ in nearest(texts, query, 9)] for query in queries]
    for options in ({}, {"block_bytes": 100}, {"block_bytes": 1 << 20}):
        with KnowledgeBase(place, nprobe=4, **options) as kb:
            assert [[one.id for one in hits] for hits in kb.search(queries, 9)] == wanted
            assert [[one.id for one in kb.search(query[None], 9)[0]] for query in queries] == wanted


def test_columns_are_kept_with_their_types_and_can_be_asked_for(tmp_path: Path) -> None:
    place = store(tmp_path, ["a-1", "a-2"])
    labels = pa.array([["x", "y"], ["y"]])
    publish(place, *content(place, passages(["b-1", "b-2"], label=labels, year=pa.array([1999, 2001]))), {})
    schema = rows.opened(place, versions.current(place)).schema
    assert (schema.field("label").type, schema.field("year").type) == (pa.list_(pa.string()), pa.int64())
    query = vectors_of(["q-5"])
    with KnowledgeBase(place) as kb:

        def found(where: Any) -> list[str]:  # noqa: ANN401
            return sorted(one.id for one in kb.search(query, 9, where=where)[0])

        assert found("array_has(label, 'x')") == ["b-1"]
        assert found("year > 2000 OR year IS NULL") == ["a-1", "a-2", "b-2"]
        assert found(pc.field("year") > 2000) == ["b-2"]
        with pytest.raises(ValueError, match=r"where: .colour = 'red'. does not fit .* year \(int64\)"):
            found("colour = 'red'")
    with pytest.raises(StoreError, match="column 'year' is string, the store's is int64"):
        publish(place, *content(place, passages(["c-1"], year=pa.array(["x"]))), {})


def test_another_encoder_kind_or_dimension_is_refused_with_both_values(tmp_path: Path) -> None:
    place = store(tmp_path, ["a-1"])
    with pytest.raises(StoreError, match=r"encoder is 'other', version 1 of .* has 'enc'"):
        publish(place, *content(place, passages(["b-1"]), encoder="other"), {})
    other = spec_of("flat_fp16", DIMENSION, nlist=1)
    with pytest.raises(StoreError, match=r"index is Spec\(.*nlist=1\), version 1 has Spec\(.*nlist=0\)"):
        publish(place, *content(place, passages(["b-1"]), spec=other), {})
    with pytest.raises(StoreError, match=r"what is to be published: id 'b-1' stands in row 0 and in row 1"):
        publish(place, *content(place, passages(["b-1"]), passages(["b-1"])), {})
    with pytest.raises(StoreError, match="nothing to publish"):
        publish(place_of(tmp_path / "new"), [], FLAT, ENCODER, {})


def test_what_is_no_store_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path / "run" / "base", ["a-1"])
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, told in [
        ("run", r"run: is a run folder; its stores are .*run/base"),
        ("file", "file: is a file, a store is a folder"),
        ("empty", "empty: no version was ever published there"),
        ("none", "none: no such folder"),
    ]:
        with pytest.raises(StoreError, match=told):
            KnowledgeBase(tmp_path / name)
    with pytest.raises(ConfigError, match=r"store: 'gs://b/x': .* not under gs://"):
        place_of("gs://b/x")
    assert str(place_of(Path("s3://bucket/kb/"))) == str(place_of("s3:/bucket/kb")) == "s3://bucket/kb"
    use_endpoint(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"s3://bucket/kb: the object store cannot be asked: .*127\.0\.0\.1:1"):
        verify("s3://bucket/kb")
    monkeypatch.setenv("HOME", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    for where in ("~/base", "run/base", tmp_path / "run" / "base", str(tmp_path / "run")):
        with KnowledgeBase.open(where) as kb:
            assert kb.base.rows == 1
    (tmp_path / "run").rename(tmp_path / "moved")
    with KnowledgeBase.open(tmp_path / "moved") as kb:
        assert kb.search(vectors_of(["a-1"]), 1)[0][0].id == "a-1"


def test_base_and_units_are_one_pair_until_they_are_refreshed(tmp_path: Path) -> None:
    base = store(tmp_path / "base", ["a-1", "a-2"])
    units = place_of(tmp_path / "writeback")
    belongs = versions.named(versions.current(base))
    publish(units, *content(units, passages(["u-1"])), {"merge": {"policy": "plain"}}, belongs)
    kb, query = KnowledgeBase.open(tmp_path), vectors_of(["q-3"])
    first = sorted(one.id for one in kb.search(query, 9)[0])
    assert first == ["a-1", "a-2", "u-1"]
    delete(base, ["a-1"], {})  # a base of its own is not yet the pair's
    assert not kb.refresh()
    assert sorted(one.id for one in KnowledgeBase.open(tmp_path).search(query, 9)[0]) == first
    versions.paired(units, versions.current(base), {})
    assert sorted(one.id for one in kb.search(query, 9)[0]) == first
    collect(base, keep=1, grace=0)
    collect(units, keep=1, grace=0)
    assert sorted(one.id for one in kb.search(query, 9)[0]) == first  # pinned
    assert kb.refresh()
    assert sorted(one.id for one in kb.search(query, 9)[0]) == ["a-2", "u-1"]
    assert {one.source for one in kb.search(query, 9)[0]} == {"base", "writeback"}
    kb.close()
    assert base.names("pins") == units.names("pins") == []


def test_a_pair_that_cannot_be_refreshed_stays_open_and_pinned(tmp_path: Path) -> None:
    place = store(tmp_path / "base", ["a-1"])
    kb, query = KnowledgeBase(place), vectors_of(["q-3"])
    made = publish(place, *content(place, passages(["b-1"])), {})
    manifest = Path(place.root, next(name for name in made.files if name.endswith(".manifest")))
    whole = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(StoreError, match="manifest: no such file"):
        kb.refresh()
    assert [name[:6] for name in place.names("pins")] == ["000001"]
    assert [one.id for one in kb.search(query, 9)[0]] == ["a-1"]
    manifest.write_bytes(whole)
    assert kb.refresh()
    assert sorted(one.id for one in kb.search(query, 9)[0]) == ["a-1", "b-1"]
    kb.close()
    assert place.names("pins") == []


def test_a_copy_is_whole_whatever_is_published_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, link = store(tmp_path / "store", ["a-0", "b-1"]), os.link
    more = content(made, passages(["c-2"]))

    def slow(source: str | Path, target: str | Path) -> None:
        link(source, target)
        if str(source).endswith(".lance") and versions.current(made).version == 1:
            with monkeypatch.context() as undone:
                undone.setattr(os, "link", link)
                publish(made, *more, {})

    monkeypatch.setattr(os, "link", slow)
    copy_store(Path(made.root), tmp_path / "copy")
    assert verify(tmp_path / "copy", full=True) == []
    assert (versions.current(tmp_path / "copy").version, versions.current(made).version) == (1, 2)


def test_a_run_opens_where_it_was_moved_with_or_without_its_cache(tmp_path: Path) -> None:
    store(tmp_path / "runs" / "cache" / "index-1", ["a-1"])
    (tmp_path / "runs" / "one").mkdir()
    (tmp_path / "runs" / "one" / "base").symlink_to(tmp_path / "runs" / "cache" / "index-1")
    (tmp_path / "runs" / "one").rename(tmp_path / "alone")
    with KnowledgeBase.open(tmp_path / "alone") as kb:
        assert kb.base.rows == 1
    (tmp_path / "alone").rename(tmp_path / "runs" / "one")
    (tmp_path / "runs").rename(tmp_path / "all")
    with KnowledgeBase.open(tmp_path / "all" / "one") as kb:
        assert kb.base.rows == 1
    (tmp_path / "all" / "cache").rename(tmp_path / "elsewhere")
    with pytest.raises(
        StoreError, match=r"one/base: leads to .*index-1, which is not there, and neither is .*cache/index-1"
    ):
        KnowledgeBase.open(tmp_path / "all" / "one")


def damaged(place: Place) -> Iterator[tuple[str, Path, bytes]]:
    """Each file of a store's current version, and each of its records, with its bytes."""
    version = versions.current(place)
    for name in (*version.files, *(versions.record_name(number) for number in versions.numbers(place)[:-1])):
        path = Path(place.root, name)
        yield name, path, path.read_bytes()


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_every_damage_is_named(tmp_path: Path, how: str) -> None:
    place = store(tmp_path, ["a-1", "a-2", "a-3"], ["b-1"])
    delete(place, ["a-2"], {})
    for name, path, whole in damaged(place):
        at = len(whole) // 2
        changed = {"flip": whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], "cut": whole[:-1]}.get(how)
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        (fault, *_) = verify(place, full=True)
        assert name in fault or "versions/" in fault
        if name.startswith("index/"):
            assert repair(place) == [name]
            assert path.read_bytes() == whole
        elif how != "flip" and not name.startswith("versions/"):
            with pytest.raises(StoreError, match=name):
                KnowledgeBase(place)
        path.write_bytes(whole)
    assert verify(place, full=True) == []


def test_a_lost_or_cut_index_is_made_again_when_it_is_opened(tmp_path: Path) -> None:
    place = store(tmp_path, ["a-1", "a-2", "a-3"])
    delete(place, ["a-2"], {})
    (name,) = (name for name in versions.current(place).files if name.startswith("index/"))
    whole = (tmp_path / name).read_bytes()
    for bad in (None, b"", whole[:-3], bytes(len(whole))):
        (tmp_path / name).unlink()
        if bad is not None:
            (tmp_path / name).write_bytes(bad)
        with KnowledgeBase(place) as kb:
            assert kb.search(vectors_of(["a-3"]), 3)[0][0].id == "a-3"
        assert (tmp_path / name).read_bytes() == whole


def test_a_store_that_nobody_may_write_to_says_what_mends_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store(tmp_path, ["a-1"])
    (name,) = (name for name in versions.current(place).files if name.startswith("index/"))
    (tmp_path / name).unlink()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(Place, "put", refused)
    with pytest.raises(StoreError, match=rf"{name}: .* cannot be made again here .*; wbrag kb repair {tmp_path}, by"):
        KnowledgeBase(place)


def test_an_index_is_not_replaced_by_one_of_damaged_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = store(tmp_path, ["a-1", "a-2", "a-3"])
    (name,) = (name for name in versions.current(place).files if name.startswith("index/"))
    cut = (tmp_path / name).read_bytes()[:-3]
    (tmp_path / name).write_bytes(cut)
    kept = rows.all_vectors
    monkeypatch.setattr(rows, "all_vectors", lambda fragment: -kept(fragment))
    with pytest.raises(StoreError, match="the rows are damaged, verify names the file"):
        KnowledgeBase(place)
    assert (tmp_path / name).read_bytes() == cut


def test_of_many_first_writers_none_is_lost(tmp_path: Path) -> None:
    place, errors = place_of(tmp_path), []

    def write(number: int) -> None:
        try:
            for i in range(3):
                publish(place, *content(place, passages([f"w{number}-{i}"])), {"writer": number})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(everything(place)) == sorted(f"w{number}-{i}" for number in range(6) for i in range(3))
    assert [version.rows for version in versions.history(place)] == list(range(1, 19))
    assert verify(place, full=True) == []


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=12), st.integers(1, 60), st.integers(1, 60))
def test_only_small_or_thinned_neighbours_are_joined(counts: list[tuple[int, int]], keep: int, most: int) -> None:
    fragments = [(number, count, min(dead, count - 1)) for number, (count, dead) in enumerate(counts)]
    runs = to_join(fragments, keep, most)
    live = {number: count - dead for number, count, dead in fragments}
    joined = [number for run in runs for number in run]
    assert joined == [number for number, count, dead in fragments if count < keep or dead]
    for run in runs:
        assert run == list(range(run[0], run[-1] + 1))
        assert len(run) == 1 or sum(live[number] for number in run) <= most


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A local S3 server that honours conditional PUTs."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or a failed test prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """This process' S3 is at `endpoint`, as the usual variables say."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # of another test's endpoint
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("ENDPOINT_URL", endpoint)):
        monkeypatch.setenv(f"AWS_{name}", value)


def test_a_store_in_s3_is_the_same_store(tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, endpoint)
    monkeypatch.setenv("HOME", str(tmp_path))  # of the cache
    place = place_of("s3://wbrag/kb")
    place._files.mkdir("wbrag")
    with pytest.raises(StoreError, match="s3://wbrag/kb: no version was ever published there"):
        KnowledgeBase(place)
    publish(place, *content(place, passages(["a-1", "a-2"])), {})
    publish(place, *content(place, passages(["a-2", "b-1"], "new")), {}, upsert=True)
    delete(place, ["a-1"], {})
    publish(place, *content(place, passages(["c-1"])), {})
    compact(place, {})
    delete(place, ["c-1"], {})
    assert everything(place) == {"a-2": "new a-2", "b-1": "new b-1"}
    with KnowledgeBase(place) as kb:
        assert [one.id for one in kb.search(vectors_of(["a-2"]), 1)[0]] == ["a-2"]
    versions.rollback(place, 1, {})
    assert sorted(everything(place)) == ["a-1", "a-2"]
    assert verify(place, full=True) == []
    (name,) = (name for name in versions.current(place).files if name.startswith("index/"))
    whole = place.read(name)
    place._files.pipe_file(place._key(name), whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [fault.partition(": sha256")[0] for fault in verify(place, full=True)] == [f"{place}/{name}"]
    assert repair(place) == [name]
    assert place.read(name) == whole
    versions.rollback(place, 4, {})
    gone = collect(place, keep=2, grace=0)
    assert any(one.startswith("data.lance/data/") for one in gone)
    assert verify(place, full=True) == []
    assert not place.create(versions.record_name(versions.current(place).version), b"again")
