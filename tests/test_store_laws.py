"""The nine laws of the store, each over random input, and a model that says what any sequence of changes must show."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from crashing import How, crashes
from hypothesis import given, settings
from hypothesis import strategies as st
from small_store import ENCODER, SPEC, D, add, answers, copy_of, encode, live_numbers, table_of, vectors_of

from wbrag.config import Encoder
from wbrag.retrieval.encoder import open_encoder
from wbrag.store.adopt import adopt, open_flat
from wbrag.store.export import export
from wbrag.store.files import sha256_file
from wbrag.store.garbage import collect_garbage, pinned
from wbrag.store.lease import leased
from wbrag.store.live import places
from wbrag.store.manifest import Manifest, files_of, latest, name_of, read_manifest, versions
from wbrag.store.mirror import mirror
from wbrag.store.passages import conform, write_passages
from wbrag.store.publish import publish
from wbrag.store.revise import compact, delete, delete_rows, rollback
from wbrag.store.segment import PASSAGES, VECTORS, open_ref, seal, write_segment
from wbrag.store.storage import storage_of
from wbrag.store.vectors import merge_vectors, rows_of, write_vectors
from wbrag.store.verify import repair, verify

HASHING = Encoder(name="hashing", kind="hashing", model="", dimension=16)
NUMBERS = st.lists(st.integers(0, 60), min_size=1, max_size=25, unique=True)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def ranges(numbers: list[int], cuts: set[int]) -> list[list[int]]:
    """The list cut at these places."""
    places = sorted({0, len(numbers), *(cut for cut in cuts if cut < len(numbers))})
    return [numbers[start:stop] for start, stop in itertools.pairwise(places)]


CUTS = st.sets(st.integers(1, 24), max_size=4)


@settings(max_examples=10)
@given(NUMBERS, CUTS)
def test_law_1_any_cut_into_shards_gives_the_same_segment(numbers: list[int], cuts: set[int]) -> None:
    with folder() as store, storage_of(store).scratch() as scratch:
        whole = write_segment(store, vectors_of(numbers), table_of(numbers), SPEC, ENCODER)
        shards = []
        for part in ranges(numbers, cuts):
            shards.append(scratch / f"{len(shards)}.faiss")
            write_vectors(shards[-1], [vectors_of(part)], SPEC)
        (scratch / "segment").mkdir()
        merge_vectors(scratch / "segment" / VECTORS, shards, SPEC)
        write_passages(scratch / "segment" / PASSAGES, [conform(table_of(numbers), "test")])
        merged = seal(store, scratch / "segment", SPEC, ENCODER)
        assert (merged.id, merged.sha256) == (whole.id, whole.sha256)


@settings(max_examples=10)
@given(NUMBERS, CUTS, st.integers(1, 30))
def test_law_2_any_split_into_segments_answers_as_one(numbers: list[int], cuts: set[int], k: int) -> None:
    with folder() as root:
        add(root / "one", numbers)
        for part in ranges(numbers, cuts):
            newest = add(root / "split", part)
        assert len(newest.segments) == len(ranges(numbers, cuts))
        assert answers(root / "split", k=k) == answers(root / "one", k=k)


@settings(max_examples=10)
@given(NUMBERS, st.data())
def test_law_3_doing_it_twice_is_doing_it_once(numbers: list[int], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from(numbers)))
    with folder() as store:
        add(store, [100])
        steps: list[Callable[[], Manifest]] = [
            lambda: add(store, numbers),
            lambda: delete(store, [f"p{n}" for n in gone], {}),
            lambda: delete_rows(store, np.array([0]), {}),
            lambda: compact(store, {}),
            lambda: rollback(store, 2, {}),
        ]
        for step in steps:
            once = step()
            assert step() == once == latest(store)


@settings(max_examples=10)
@given(NUMBERS, NUMBERS, st.data())
def test_law_4_rollback_is_exact_and_history_only_grows(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    with folder() as store:
        add(store, first)
        before, names = answers(store), files_of(read_manifest(store, 1))
        add(store, second)
        alive = live_numbers(store, versions(store)[-1])
        delete(store, [f"p{n}" for n in data.draw(st.sets(st.sampled_from(alive), min_size=1))], {})
        if data.draw(st.booleans()):
            compact(store, {})
        abandoned = latest(store)
        assert abandoned
        restored = rollback(store, 1, {"why": "test"})
        assert (restored.version, restored.restored_from) == (abandoned.version + 1, 1)
        assert restored.next_row == abandoned.next_row
        assert files_of(restored) == names
        assert answers(store) == before
        again = rollback(store, abandoned.version, {})
        assert replace(again, note={}) == replace(
            abandoned, version=again.version, parent=again.parent, restored_from=abandoned.version, note={}
        )
        assert answers(store) == answers(store, abandoned.version)


@settings(max_examples=12)
@given(NUMBERS, CUTS, st.data())
def test_law_5_what_is_deleted_never_shows_and_compaction_changes_nothing(
    numbers: list[int], cuts: set[int], data: st.DataObject
) -> None:
    gone = {f"p{n}" for n in data.draw(st.sets(st.sampled_from(numbers)))}
    with folder() as store:
        for part in ranges(numbers, cuts):
            add(store, part)
        before = answers(store)
        delete(store, sorted(gone), {})
        after = answers(store)
        assert after == [[hit for hit in hits if hit[0] not in gone] for hits in before]
        k = data.draw(st.integers(1, 30))
        shown = answers(store, k=k)
        assert shown == [hits[:k] for hits in after]
        small = compact(store, {}, keep_rows=data.draw(st.sampled_from([1, 5, 1000])))
        assert small.tombstones is None
        assert (answers(store), answers(store, k=k)) == (after, shown)


def test_law_5_one_compacted_segment_is_the_one_that_a_publish_would_have_written(tmp_path: Path) -> None:
    add(tmp_path / "a", range(2000))
    add(tmp_path / "a", range(2000, 2500))
    delete(tmp_path / "a", [f"p{n}" for n in range(0, 2500, 3)], {})
    (compacted,) = compact(tmp_path / "a", {}).segments
    (published,) = add(tmp_path / "b", [n for n in range(2500) if n % 3]).segments
    assert (compacted.id, compacted.rows, compacted.row_start) == (published.id, 1666, 2500)


# Law 6: a crash anywhere leaves the old or the new version, whole, and doing it again gives what no crash would have.


def prepared(root: Path) -> Path:
    """Three versions, a segment that nobody needs and what a killed writer left."""
    store = root / "prepared"
    add(store, range(6))
    add(store, range(6, 10))
    delete(store, ["p1", "p7"], {})
    write_segment(store, vectors_of([77]), table_of([77]), SPEC, ENCODER)
    (store / "segments" / f".tmp-{'0' * 32}" / "shards").mkdir(parents=True)
    given_by_others(root / "given")
    return store


def given_by_others(folder: Path) -> None:
    """A corpus and its flat index, as FlashRAG has them."""
    folder.mkdir()
    rows = table_of([5, 2, 9]).to_pylist()
    texts = [f"{row['title']}\n{row['text']}" for row in rows]
    lines = [json.dumps({"id": row["id"], "contents": text}) for row, text in zip(rows, texts, strict=True)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    index = faiss.IndexFlatIP(HASHING.dimension)
    index.add(open_encoder(HASHING).encode_passages(texts).astype(np.float32))
    faiss.write_index(index, str(folder / "flat.index"))


def first_version(store: Path) -> None:
    add(store / "new", [3, 4])


def under_lease(store: Path) -> None:
    with leased(store, "job") as lease:
        publish(store, vectors_of([20, 21]), table_of([20, 21]), ENCODER, {}, lease)


def taken_over(store: Path) -> None:
    folder = store.parent / "given"
    adopt(folder / "corpus.jsonl", folder / "flat.index", store / "new", HASHING, {})


def read_and_pinned(store: Path) -> None:
    with pinned(store, 2, 60):
        pass


def mend(store: Path) -> None:
    repair(store, encode, ENCODER)


WORK: dict[str, Callable[[Path], object]] = {
    "first": first_version,
    "publish": lambda store: add(store, [20, 21, 22]),
    "lease": under_lease,
    "delete": lambda store: delete(store, ["p2", "p8"], {}),
    "rollback": lambda store: rollback(store, 1, {}),
    "compact": lambda store: compact(store, {}),
    "collect": lambda store: collect_garbage(store, grace_seconds=0, keep_versions=1),
    "repair": mend,
    "import": taken_over,
    "pin": read_and_pinned,
    "mirror": lambda store: mirror(store.parent / "prepared", store / "new"),
}


def leftovers(store: Path) -> list[Path]:
    """Everything in the store that no version stands on."""
    needed = {f for v in versions(store) for f in files_of(read_manifest(store, v))}
    inside = [path for name in ("segments", "tombstones") for path in (store / name).glob("*")]
    temporary = list(store.rglob(".tmp-*"))
    return temporary + [path for path in inside if path.relative_to(store).as_posix() not in needed]


@pytest.mark.parametrize("how", ["power", "unnamed"])
@pytest.mark.parametrize("name", WORK)
def test_law_6_a_crash_at_any_file_operation_leaves_a_whole_version(tmp_path: Path, name: str, how: How) -> None:
    template, work = prepared(tmp_path), WORK[name]
    if name == "repair":
        damaged = template / "segments" / read_manifest(template, 1).segments[0].id / VECTORS
        damaged.write_bytes(damaged.read_bytes()[:-1])
    reference = copy_of(template, tmp_path / "reference")
    work(reference)
    subject = "new" if name in ("first", "import", "mirror") else "."
    allowed = [state(template / subject), state(reference / subject)]
    if name == "mirror":  # which copies one version after the other
        allowed[1:1] = [(version, live_numbers(template, version)) for version in versions(template)]
    known = verify(template, full=True)
    for step in range(1000):
        store = copy_of(template, tmp_path / "store")
        if not crashes(store, step, how, lambda store=store: work(store)):  # type: ignore[misc]
            break
        found = verify(store / subject, full=True)
        assert [fault.rpartition("/store/")[2] for fault in found] in (
            [],
            [f.rpartition("/prepared/")[2] for f in known],
        )
        assert state(store / subject) in allowed
        work(store)
        assert verify(store / subject, full=True) == []
        assert state(store / subject) == allowed[-1]
        number = versions(store / subject)[-1]
        assert sha256_file(store / subject / name_of(number)) == sha256_file(reference / subject / name_of(number))
        collect_garbage(store / subject, grace_seconds=0)
        if name != "collect":  # which keeps one version
            assert leftovers(store / subject) == []
    assert step >= (2 if name == "pin" else 5)
    assert state(store / subject) == allowed[-1]  # what was done lasts
    assert verify(store / subject, full=True) == []


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("how", ["power", "unnamed"])
def test_law_6_an_export_is_whole_or_not_there(tmp_path: Path, how: How) -> None:
    store, out = prepared(tmp_path), tmp_path / "exports" / "out"
    export([store], tmp_path / "reference")
    for step in range(1000):
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        if not crashes(out.parent, step, how, lambda: export([store], out)):
            break
        if not out.exists():
            export([store], out)
        assert contents(out) == contents(tmp_path / "reference")
    assert step >= 5


def state(store: Path) -> tuple[int, list[int]]:
    """The current version and what is live in it."""
    newest = latest(store)
    return (newest.version, live_numbers(store, newest)) if newest else (0, [])


# Law 7


@settings(max_examples=5)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True), min_size=2, max_size=4))
def test_law_7_publishers_from_one_parent_lose_nothing(intents: list[list[int]]) -> None:
    with folder() as store:
        barrier, errors = threading.Barrier(len(intents)), list[Exception]()

        def work(numbers: list[int]) -> None:
            try:
                barrier.wait()
                add(store, numbers)
            except Exception as error:  # reported below, in the main thread
                errors.append(error)

        threads = [threading.Thread(target=work, args=(numbers,)) for numbers in intents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        newest = latest(store)
        assert newest
        live = live_numbers(store, newest)
        assert sorted(live) == sorted(set().union(*intents))
        assert newest.next_row == len(live)  # ranges are disjoint and without gaps
        assert verify(store) == []


# Law 8: refusals before FAISS is called are in test_index.py; here whatever happens to a file.


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.sampled_from(["flip", "cut", "empty", "missing"]), st.integers(0, 7))
def test_law_8_any_damage_is_named_with_its_file(place: int, damage: str, bit: int) -> None:
    with folder() as root:
        store = prepared(root)
        newest = read_manifest(store, 3)
        needed = [store / name for name in sorted(files_of(newest))]
        files = [file for path in needed for file in ([path] if path.is_file() else sorted(path.iterdir()))]
        files += [store / name_of(version) for version in (1, 2, 3)]
        file = files[place % len(files)]
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[place // len(files) % len(content)] ^= 1 << bit
        elif damage == "cut":
            del content[place // len(files) % len(content) :]
        file.write_bytes(b"" if damage == "empty" else content)
        if damage == "missing":
            if file.name == "000003.json":
                return  # the newest manifest cannot be missed: see docs/knowledge-base.md
            file.unlink()
        found = verify(store, full=True)
        assert found
        assert all(str(file) in fault for fault in found)


# Law 9, within a segment and in what is exported


@settings(max_examples=10)
@given(NUMBERS, CUTS, st.data())
def test_law_9_row_i_of_the_vectors_is_passage_i(numbers: list[int], cuts: set[int], data: st.DataObject) -> None:
    with folder() as store:
        for part in ranges(numbers, cuts):
            add(store, part)
        delete(store, [f"p{n}" for n in data.draw(st.sets(st.sampled_from(numbers)))], {})
        newest = compact(store, {}, keep_rows=4)
        for ref in newest.segments:
            segment = open_ref(store, ref)
            titles = segment.passages.take(np.arange(ref.rows))["title"].to_pylist()
            assert np.array_equal(rows_of(segment.index), encode(titles))
        assert D == segment.index.d if newest.segments else True


@settings(max_examples=10)
@given(NUMBERS, CUTS, st.data())
def test_law_9_label_n_of_an_exported_index_is_line_n_of_its_corpus(
    numbers: list[int], cuts: set[int], data: st.DataObject
) -> None:
    with folder() as root:
        for part in ranges(numbers, cuts):
            add(root / "base", part)
        add(root / "writeback", [100, 101, 102])
        delete(root / "base", [f"p{n}" for n in data.draw(st.sets(st.sampled_from(numbers)))], {})
        dtype = data.draw(st.sampled_from(["float16", "float32"]))
        export([root / "base", root / "writeback"], root / "out", dtype)
        lines = [json.loads(line) for line in (root / "out" / "corpus.jsonl").read_text().splitlines()]
        assert [int(line["id"][1:]) for line in lines] == [*live_numbers(root / "base", latest_of(root)), 100, 101, 102]
        index, made = open_flat(root / "out" / "flat.index")
        assert np.array_equal(made, encode([line["contents"] for line in lines]).astype(dtype))
        assert index.ntotal == len(lines)


def latest_of(root: Path) -> Manifest:
    newest = latest(root / "base")
    assert newest
    return newest


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True), st.integers(0, 30))
def test_ids_are_found_whichever_side_is_longer(ids: list[int], among: list[int], cut: int) -> None:
    chunks = [pa.array([f"p{n}" for n in part], pa.string()) for part in (among[:cut], among[cut:])]
    found = places(pa.chunked_array([[f"p{n}" for n in ids]], pa.string()), pa.chunked_array(chunks))
    assert found.tolist() == [among.index(n) if n in among else -1 for n in ids]


# All together


STEP = st.one_of(
    st.tuples(st.just("add"), NUMBERS),
    st.tuples(st.just("delete"), st.sets(st.integers(0, 60), max_size=6)),
    st.tuples(st.just("rollback"), st.integers(0, 6)),
    st.tuples(st.just("compact"), st.sampled_from([1, 4, 1000])),
    st.tuples(st.just("collect"), st.integers(0, 3)),
)


def take_step(store: Path, step: tuple[str, object]) -> None:
    match step:
        case "add", numbers:
            add(store, numbers)  # type: ignore[arg-type]
        case "delete", numbers:
            alive = live_numbers(store, versions(store)[-1])
            delete(store, [f"p{n}" for n in alive if n in numbers], {})  # type: ignore[operator]
        case "rollback", back:
            newest = latest(store)
            assert newest
            rollback(store, max(newest.oldest, newest.version - back), {})  # type: ignore[operator]
        case "compact", keep_rows:
            compact(store, {}, keep_rows)  # type: ignore[arg-type]
        case "collect", keep:
            collect_garbage(store, 0, keep)  # type: ignore[arg-type]


def expected(live: dict[int, list[int]], step: tuple[str, object], newest: Manifest) -> list[int]:
    """What is live after a step, by a model of one line per kind."""
    before = live[newest.version]
    match step:
        case "add", numbers:
            return before + [n for n in numbers if n not in before]  # type: ignore[attr-defined]
        case "delete", numbers:
            return [n for n in before if n not in numbers]  # type: ignore[operator]
        case "rollback", back:
            return live[max(newest.oldest, newest.version - back)]  # type: ignore[operator]
        case _:
            return before


@settings(max_examples=15)
@given(st.lists(st.tuples(STEP, st.integers(0, 60)), min_size=2, max_size=7), st.sampled_from(["before", "unnamed"]))
def test_any_sequence_of_changes_and_crashes_shows_what_the_model_says(
    steps: list[tuple[tuple[str, object], int]], how: How
) -> None:
    with folder() as root:
        store = root / "store"
        live = {add(store, [1, 2, 3]).version: [1, 2, 3]}
        for step, crash in steps:
            newest = latest(store)
            assert newest
            live_after = expected(live, step, newest)
            if crashes(store, crash, how, lambda step=step: take_step(store, step)):  # type: ignore[misc]
                here = live_numbers(store, versions(store)[-1])
                assert here in (live[newest.version], live_after)
                if latest(store) == newest:
                    take_step(store, step)
                shutil.rmtree(store / "leases", ignore_errors=True)  # a dead collector's lease would have to expire
            live[versions(store)[-1]] = live_after
            for version in range(newest.version, versions(store)[-1] + 1):
                live.setdefault(version, live_after)
            assert live_numbers(store, versions(store)[-1]) == live_after
            assert verify(store, full=True) == []
        if live_after:
            add(root / "fresh", live_after)
            assert answers(store) == answers(root / "fresh")
        else:
            assert answers(store) == [[]] * 7


def test_law_6_would_find_a_flush_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wbrag.store import files

    monkeypatch.setattr(files, "fsync", lambda path: None)
    for step in range(100):
        store = tmp_path / str(step)
        add(store, [1])
        assert crashes(store, step, "power", lambda store=store: add(store, [2, 3]))  # type: ignore[misc]
        if verify(store, full=True):
            return
    pytest.fail("no crash found the fault")
