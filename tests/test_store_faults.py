"""Faults from outside: killed jobs, zombies, a full disk, two jobs at once, readers beside a publisher, old stores."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from crashing import faults_at
from small_store import ENCODER, SPEC, add, answers, copy_of, encode, live_numbers, table_of, vectors_of

from wbrag.store.files import StoreError, dump_json, sha256_file
from wbrag.store.garbage import collect_garbage, pinned, reading
from wbrag.store.lease import LeaseError, acquire, leased
from wbrag.store.live import diff
from wbrag.store.manifest import files_of, history, latest, name_of, read_manifest, versions
from wbrag.store.publish import publish, publish_segment
from wbrag.store.revise import compact, delete, delete_rows, rollback
from wbrag.store.search import KnowledgeBase
from wbrag.store.segment import PASSAGES, SEGMENT, VECTORS, open_ref, write_segment
from wbrag.store.storage import LocalStorage
from wbrag.store.verify import repair, verify

SCHEMA_1 = Path(__file__).parent / "data" / "store_schema_1"
#: Children are forked from a server that has all imports and never used an OpenMP thread, so they start at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["small_store", "faiss", "pyarrow.parquet", "wbrag.store.revise", "wbrag.store.garbage"])


def segment_file(store: Path, number: int, name: str) -> Path:
    """A file of the number-th segment of the current version."""
    newest = latest(store)
    assert newest
    return store / "segments" / newest.segments[number].id / name


# F1 and F4: dead and undead jobs


def job(store: Path, seconds: float) -> None:
    """What one run does to a knowledge base; started again, it does what is left."""
    import faiss

    faiss.omp_set_num_threads(1)
    with leased(store, "run-1", seconds) as lease:
        if live_numbers(store, latest(store) or 0) == [0]:  # type: ignore[arg-type]
            publish(store, vectors_of(range(1, 40)), table_of(range(1, 40)), ENCODER, {"step": 1}, lease)
        if latest(store).version == 2:  # type: ignore[union-attr]
            delete(store, ["p3", "p5"], {"step": 2}, lease)
        if latest(store).version == 3:  # type: ignore[union-attr]
            compact(store, {"step": 3}, lease=lease)


def test_f1_a_job_killed_at_any_moment_and_started_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    add(tmp_path / "start", [0])
    reference = copy_of(tmp_path / "start", tmp_path / "reference")
    took = []
    for store in (copy_of(tmp_path / "start", tmp_path / "warm"), reference):
        began = time.perf_counter()
        child = FORKS.Process(target=job, args=(store, 600))
        child.start()
        child.join()
        took.append(time.perf_counter() - began)
        assert child.exitcode == 0
    moments = random.Random(7)
    killed = 0
    for number in range(20):
        store = copy_of(tmp_path / "start", tmp_path / str(number))
        child = FORKS.Process(target=job, args=(store, 600))
        child.start()
        time.sleep(moments.uniform(0, took[1]))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        assert verify(store, full=True) == []
        assert live_numbers(store, versions(store)[-1]) in ([0], list(range(40)), live_numbers(reference, 4))
        job(store, 600)  # the same holder: takes over from its dead attempt at once
        assert [sha256_file(store / name_of(v)) for v in versions(store)] == [
            sha256_file(reference / name_of(v)) for v in versions(reference)
        ]
        collect_garbage(store, grace_seconds=0)
        assert sorted(os.listdir(store / "segments")) == sorted(os.listdir(reference / "segments"))
    assert killed >= 5


def test_f4_what_a_zombie_writes_is_never_seen_and_is_collected(tmp_path: Path) -> None:
    add(tmp_path, [1, 2])
    zombie = acquire(tmp_path, "run-1")
    late = write_segment(tmp_path, vectors_of([8]), table_of([8]), SPEC, ENCODER)
    with leased(tmp_path, "run-1") as lease:  # the same run, started again
        publish(tmp_path, vectors_of([9]), table_of([9]), ENCODER, {}, lease)
        with pytest.raises(LeaseError, match="lease 1 of 'run-1' was lost: 'run-1' has lease 2 now"):
            publish_segment(tmp_path, late, {}, zombie)
    with pytest.raises(LeaseError, match="lease 1 of 'run-1' was lost"):
        publish_segment(tmp_path, late, {}, zombie)
    scratch = tmp_path / "segments" / f".tmp-{'a' * 32}"
    scratch.mkdir()
    (scratch / "vectors.faiss").write_bytes(b"half")
    before = sha256_file(tmp_path / name_of(2))
    assert collect_garbage(tmp_path, grace_seconds=3600) == []  # a running writer's look the same
    assert live_numbers(tmp_path, 2) == [1, 2, 9]
    expected = [f"segments/.tmp-{'a' * 32}", f"segments/{late.id}"]
    assert collect_garbage(tmp_path, grace_seconds=0, dry_run=True) == expected
    assert collect_garbage(tmp_path, grace_seconds=0) == expected
    assert versions(tmp_path) == [1, 2]
    assert sha256_file(tmp_path / name_of(2)) == before


# F5 is law 6, F6 is law 8 and what follows: what opening refuses, and what repair brings back


@pytest.mark.parametrize("name", [VECTORS, PASSAGES, SEGMENT])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_f6_opening_names_a_file_that_is_cut_or_missing(tmp_path: Path, name: str, damage: str) -> None:
    add(tmp_path, range(50))
    file = segment_file(tmp_path, 0, name)
    data = file.read_bytes()
    file.write_bytes(b"" if damage == "empty" else data[:-3])
    if damage == "missing":
        file.unlink()
    with pytest.raises(StoreError, match=str(file)):
        KnowledgeBase(tmp_path)


def test_f6_a_flipped_bit_in_a_passage_is_named_when_it_is_read(tmp_path: Path) -> None:
    add(tmp_path, range(50))
    file = segment_file(tmp_path, 0, PASSAGES)
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=str(file)):
        answers(tmp_path)


def test_f6_repair_brings_back_the_same_bytes(tmp_path: Path) -> None:
    add(tmp_path, range(3000))
    add(tmp_path, range(3000, 3010))
    whole = copy_of(tmp_path, tmp_path.parent / f"{tmp_path.name}-whole")
    for number, content in ((0, b"\0" * 200), (1, None)):
        file = segment_file(tmp_path, number, VECTORS)
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    assert len(verify(tmp_path)) == 2
    repaired = repair(tmp_path, encode, ENCODER)
    assert repaired == [str(segment_file(tmp_path, n, VECTORS).relative_to(tmp_path)) for n in (0, 1)]
    assert verify(tmp_path, full=True) == []
    assert [sha256_file(tmp_path / name) for name in repaired] == [sha256_file(whole / name) for name in repaired]
    assert repair(tmp_path, encode, ENCODER) == []


def test_f6_repair_refuses_what_would_not_be_the_same(tmp_path: Path) -> None:
    add(tmp_path, range(30))
    file = segment_file(tmp_path, 0, VECTORS)
    expected = sha256_file(file)
    file.unlink()
    with pytest.raises(StoreError, match="was made by encoder 'small-8d', not by 'other'"):
        repair(tmp_path, encode, "other")
    with pytest.raises(StoreError, match=rf"its sha256 is \w+, segment.json says {expected}"):
        repair(tmp_path, lambda texts: encode(texts[::-1]), ENCODER)
    assert not file.exists()
    passages = segment_file(tmp_path, 0, PASSAGES)
    passages.write_bytes(passages.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"passages\.parquet.*bring this file back from a backup"):
        repair(tmp_path, encode, ENCODER)


# F7: a full disk


CHANGES: dict[str, Callable[[Path], object]] = {
    "publish": lambda store: add(store, [20, 21, 22]),
    "delete": lambda store: delete(store, ["p2"], {}),
    "compact": lambda store: compact(store, {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_f7_a_full_disk_is_an_error_and_nothing_else(tmp_path: Path, name: str) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    add(tmp_path / "start", range(6))
    delete(tmp_path / "start", ["p1"], {})
    for step in range(1000):
        store = copy_of(tmp_path / "start", tmp_path / "store")
        failed: OSError | None = None
        with faults_at(store, step, "torn", full) as faults:
            try:
                CHANGES[name](store)
            except OSError as error:
                failed = error
        if faults.done <= step:
            break
        assert failed is None or failed.errno == errno.ENOSPC  # None: only a removal of scratch files failed
        assert verify(store, full=True) == []
        if failed and versions(store)[-1] == 2:
            CHANGES[name](store)
        assert versions(store)[-1] == 3
        collect_garbage(store, grace_seconds=0)
        assert list(store.rglob(".tmp-*")) == []
    assert step >= 10


def limited(store: Path, limit: int) -> None:
    """Exit 3 when publishing under a limit to the size of files fails with an error that names no version."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        add(store, range(6, 2000))
    except (OSError, StoreError, RuntimeError):  # RuntimeError: FAISS's own writer
        os._exit(3)
    os._exit(0)


@pytest.mark.parametrize("limit", [100, 1000, 5000, 30_000])
def test_f7_a_file_that_cannot_grow_leaves_the_old_version(tmp_path: Path, limit: int) -> None:
    add(tmp_path, range(6))
    child = FORKS.Process(target=limited, args=(tmp_path, limit))
    child.start()
    child.join()
    assert child.exitcode == 3
    assert (versions(tmp_path), verify(tmp_path, full=True)) == ([1], [])
    assert list(tmp_path.rglob(".tmp-*")) == []


# F11: two jobs on one store


def test_f11_one_job_at_a_time_has_the_lease(tmp_path: Path) -> None:
    add(tmp_path, [1])
    first = acquire(tmp_path, "first", 600)
    with pytest.raises(LeaseError, match=r"'first' holds lease 1 until 20\d\d-.*'second' cannot have it"):
        acquire(tmp_path, "second")
    with pytest.raises(LeaseError, match=r"'first' holds lease 1 until .*; nobody else can commit"):
        add(tmp_path, [2])
    with pytest.raises(LeaseError, match="'first' holds lease 1"):
        collect_garbage(tmp_path, 0)
    first.release()
    assert acquire(tmp_path, "second").token == 2
    assert acquire(tmp_path, "second").token == 3
    assert sorted(os.listdir(tmp_path / "leases")) == ["000002.json", "000003.json"]


def test_f11_an_expired_holder_can_neither_commit_nor_renew(tmp_path: Path) -> None:
    add(tmp_path, [1])
    stale = acquire(tmp_path, "dead", 0.05)
    time.sleep(0.1)
    with pytest.raises(LeaseError, match="lease 1 of 'dead' expired at"):
        delete(tmp_path, ["p1"], {}, stale)
    fresh = acquire(tmp_path, "alive", 600)
    for late in (lambda: delete(tmp_path, ["p1"], {}, stale), stale.renew):
        with pytest.raises(LeaseError, match="lease 1 of 'dead' was lost: 'alive' has lease 2 now"):
            late()
    stale.release()  # changes nothing
    delete(tmp_path, ["p1"], {}, fresh)
    fresh.renew()
    assert versions(tmp_path) == [1, 2]


def test_f11_a_lease_is_renewed_for_as_long_as_its_work_takes(tmp_path: Path) -> None:
    add(tmp_path, [1])
    with leased(tmp_path, "long", 0.4) as lease:
        time.sleep(1.0)
        with pytest.raises(LeaseError, match="'long' holds lease 1 until"):
            acquire(tmp_path, "second")
        delete(tmp_path, ["p1"], {}, lease)
    assert acquire(tmp_path, "second").token == 2  # released, and not held until it expires


def test_f11_a_lease_that_was_lost_is_not_taken_back(tmp_path: Path) -> None:
    add(tmp_path, [1])
    with leased(tmp_path, "run", 0.4) as lease:
        acquire(tmp_path, "run", 600)  # the same run, started again
        time.sleep(0.5)
        with pytest.raises(LeaseError, match="lease 1 of 'run' was lost: 'run' has lease 2 now"):
            delete(tmp_path, ["p1"], {}, lease)
    with pytest.raises(LeaseError, match="'run' holds lease 2 until"):
        add(tmp_path, [2])
    assert versions(tmp_path) == [1]


def test_f11_only_one_of_many_gets_the_lease(tmp_path: Path) -> None:
    won: list[int] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        barrier.wait()
        try:
            won.append(acquire(tmp_path, f"job {number}").token)
        except LeaseError:
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1]


# F13: what does not fit


def test_f13_unlike_vectors_are_refused_with_both_values(tmp_path: Path) -> None:
    add(tmp_path, [1])
    with pytest.raises(StoreError, match="encoder is 'other', version 1 has 'small-8d'"):
        add(tmp_path, [2], encoder="other")
    with pytest.raises(StoreError, match="queries: encoder is 'other', version 1 has 'small-8d'"):
        KnowledgeBase(tmp_path, encoder="other")
    with pytest.raises(StoreError, match="row 0 has norm nan"):
        publish(tmp_path, np.full((1, 8), np.nan, np.float16), table_of([2]), ENCODER, {})
    assert versions(tmp_path) == [1]


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda store: delete(store, ["p1", "nobody"], {}), "version 2 has no passage 'nobody'"),
        (lambda store: delete_rows(store, np.array([0, 99]), {}), "version 2 has no row 99"),
        (lambda store: rollback(store, 7, {}), r"000007\.json: no such file"),
        (lambda store: delete(store / "empty", ["p1"], {}), "nothing to publish, and no version is there"),
        (lambda store: diff(store, 1, 9), r"000009\.json: no such file"),
    ],
)
def test_f13_what_is_not_there_is_named(tmp_path: Path, work: Callable[[Path], object], message: str) -> None:
    add(tmp_path, [1, 2])
    delete(tmp_path, ["p2"], {})
    with pytest.raises(StoreError, match=message):
        work(tmp_path)
    assert versions(tmp_path) == [1, 2]


# F15: readers beside a publisher


def read_until(store: Path, stop: float, errors: multiprocessing.Queue[str]) -> None:
    """Open and search again and again; what is found must be a whole version, and no older than the one before."""
    import faiss

    faiss.omp_set_num_threads(1)
    last, seen = 0, 0
    while seen < 3 or not (store / "done").exists():
        if time.time() > stop:
            errors.put(f"no end after {seen} searches")
            return
        reader = KnowledgeBase(store, threads=1)
        for _ in range(2):
            found = sorted(int(d.id[1:]) for d in reader.search(vectors_of([3]), 1000)[0])
            if found != reader.base.note["live"]:
                errors.put(f"version {reader.base.version} shows {found}, holds {reader.base.note['live']}")
        if reader.base.version < last:
            errors.put(f"version {reader.base.version} after {last}")
        last, seen = reader.base.version, seen + 1


def test_f15_readers_beside_fifty_publishes_see_whole_versions(tmp_path: Path) -> None:
    def note(live: set[int]) -> dict[str, object]:
        return {"live": sorted(live)}

    publish(tmp_path, vectors_of([0]), table_of([0]), ENCODER, note({0}))
    errors: multiprocessing.Queue[str] = FORKS.Queue()
    readers = [FORKS.Process(target=read_until, args=(tmp_path, time.time() + 200, errors)) for _ in range(4)]
    for reader in readers:
        reader.start()
    live = {0}
    for number in range(1, 51):
        if number % 5 == 4:
            live -= {number - 1}
            delete(tmp_path, [f"p{number - 1}"], note(live))
        elif number % 10 == 0:
            compact(tmp_path, note(live))
            collect_garbage(tmp_path, grace_seconds=200)  # longer than a reader takes to open what it found
        else:
            live |= {number}
            publish(tmp_path, vectors_of([number]), table_of([number]), ENCODER, note(live))
    (tmp_path / "done").touch()
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    assert errors.empty(), errors.get()
    assert versions(tmp_path)[-1] == 51


def test_f15_garbage_collection_leaves_what_a_pinned_reader_needs(tmp_path: Path) -> None:
    add(tmp_path, range(5))
    before = answers(tmp_path)
    with pinned(tmp_path) as manifest:
        delete(tmp_path, ["p1"], {})
        compact(tmp_path, {})
        removed = collect_garbage(tmp_path, grace_seconds=0, keep_versions=1)
        assert [name.partition("/")[0] for name in removed] == ["tombstones"]  # version 2's
        assert answers(tmp_path, version=manifest.version) == before
        assert verify(tmp_path, full=True) == []
    assert collect_garbage(tmp_path, grace_seconds=0, keep_versions=1) == [f"segments/{manifest.segments[0].id}"]
    with pytest.raises(StoreError, match="no such file"):
        answers(tmp_path, version=1)
    with pytest.raises(StoreError, match="version 1 is not kept any more; there are 3 to 4"):
        rollback(tmp_path, 1, {})
    with pytest.raises(StoreError, match="version 1 is not kept any more; the oldest kept is 3"), pinned(tmp_path, 1):
        pass
    assert (verify(tmp_path, full=True), os.listdir(tmp_path / "pins")) == ([], [])


def test_f15_a_stage_pins_the_versions_that_its_actors_open(tmp_path: Path) -> None:
    base, empty = tmp_path / "base", tmp_path / "writeback"
    add(base, range(5))
    before = answers(base)
    with reading(base, empty, None) as found:
        assert found == (1, 0, 0)
        delete(base, ["p1"], {})
        compact(base, {})
        collect_garbage(base, grace_seconds=0, keep_versions=1)
        assert answers(base, version=found[0]) == before  # as an actor that was started again would find it
    assert os.listdir(base / "pins") == []
    assert not empty.exists()


@dataclass(frozen=True)
class ReadOnly(LocalStorage):
    def create(self, name: str, data: bytes) -> bool:
        raise OSError(errno.EROFS, "Read-only file system", name)


def test_f15_a_store_that_cannot_be_written_to_is_read_without_a_pin(tmp_path: Path) -> None:
    add(tmp_path, range(5))
    with reading(ReadOnly(tmp_path)) as found:
        assert found == (1,)
    with pytest.raises(OSError, match="Read-only"), pinned(ReadOnly(tmp_path)):
        pass


def test_f15_an_open_reader_outlives_its_files(tmp_path: Path) -> None:
    add(tmp_path, range(5))
    reader = KnowledgeBase(tmp_path)
    before = reader.search(vectors_of([1]), 5)
    delete(tmp_path, ["p1"], {})
    compact(tmp_path, {})
    collect_garbage(tmp_path, grace_seconds=0, keep_versions=1)
    assert reader.search(vectors_of([1]), 5) == before


def test_garbage_collection_keeps_what_is_young_or_was_current_in_the_grace_period(tmp_path: Path) -> None:
    add(tmp_path, range(5))
    delete(tmp_path, ["p1"], {})
    compact(tmp_path, {})
    assert collect_garbage(tmp_path, grace_seconds=3600, keep_versions=1) == []
    old = time.time() - 4000
    for path in tmp_path.rglob("*"):
        os.utime(path, (old, old))
    delete(tmp_path, ["p2"], {})  # version 3 was current until now
    removed = collect_garbage(tmp_path, grace_seconds=3600, keep_versions=1)
    assert sorted(name.partition("/")[0] for name in removed) == ["segments", "tombstones"]
    newest = latest(tmp_path)
    assert newest
    assert (newest.version, newest.oldest, newest.next_row) == (5, 3, 9)
    assert collect_garbage(tmp_path, grace_seconds=3600, keep_versions=1) == []  # and no version more
    assert rollback(tmp_path, 3, {}).segments == read_manifest(tmp_path, 3).segments


def test_a_writer_that_reuses_an_old_segment_makes_it_young(tmp_path: Path) -> None:
    add(tmp_path, [1])
    left = write_segment(tmp_path, vectors_of([2]), table_of([2]), SPEC, ENCODER)  # by a job that died
    for path in (left.path, *left.path.iterdir()):
        os.utime(path, (0, 0))
    assert collect_garbage(tmp_path, grace_seconds=60, dry_run=True) == [f"segments/{left.id}"]
    add(tmp_path, [2])
    rollback(tmp_path, 1, {})
    assert collect_garbage(tmp_path, grace_seconds=60, dry_run=True) == []
    assert time.time() - (left.path / SEGMENT).stat().st_mtime < 60


def test_a_version_without_its_files_cannot_be_committed(tmp_path: Path) -> None:
    segment = write_segment(tmp_path, vectors_of([2]), table_of([2]), SPEC, ENCODER)
    (segment.path / SEGMENT).unlink()
    with pytest.raises(StoreError, match=r"segment\.json: no such file; version 1 needs it"):
        publish_segment(tmp_path, segment, {})


def test_what_is_not_ours_is_not_collected(tmp_path: Path) -> None:
    add(tmp_path, [1])
    (tmp_path / "segments" / "notes.txt").write_text("mine")
    assert collect_garbage(tmp_path, grace_seconds=0) == []


# What changed


def test_diff_names_what_was_added_removed_and_changed(tmp_path: Path) -> None:
    add(tmp_path, [1, 2, 3])
    delete(tmp_path, ["p2", "p3"], {})
    changed = table_of([3, 4]).set_column(2, "text", [["another text", "text of 4"]])
    publish(tmp_path, vectors_of([3, 4]), changed, ENCODER, {})
    compact(tmp_path, {})
    for newest in (3, 4):
        found = diff(tmp_path, 1, newest)
        assert (found.added, found.removed, found.changed) == (("p4",), ("p2",), ("p3",))
        back = diff(tmp_path, newest, 1)
        assert (back.added, back.removed, back.changed) == (("p2",), ("p4",), ("p3",))
    assert diff(tmp_path, 3, 4) == diff(tmp_path, 1, 1)
    assert [manifest.version for manifest in history(tmp_path)] == [1, 2, 3, 4]


def test_compaction_keeps_large_clean_segments_and_columns(tmp_path: Path) -> None:
    add(tmp_path, range(50))
    for number in range(50, 54):
        add(tmp_path, [number])
    plain = table_of([54]).drop_columns(["subject"])
    publish(tmp_path, vectors_of([54]), plain, ENCODER, {})
    before, old = answers(tmp_path), latest(tmp_path)
    newest = compact(tmp_path, {"why": "test"}, keep_rows=40)
    assert old
    assert [ref.rows for ref in newest.segments] == [50, 4, 1]
    assert [ref.row_start for ref in newest.segments] == [55, 105, 109]
    assert (newest.segments[0].id, newest.segments[2].id) == (old.segments[0].id, old.segments[5].id)
    assert open_ref(tmp_path, newest.segments[1]).passages.take(np.array([3]))["subject"].to_pylist() == ["s53"]
    assert answers(tmp_path) == before


def test_a_store_may_be_all_deleted_and_compacted(tmp_path: Path) -> None:
    add(tmp_path, [1, 2])
    delete(tmp_path, ["p1", "p2"], {})
    assert compact(tmp_path, {}).segments == ()
    assert answers(tmp_path) == [[]] * 7
    assert (add(tmp_path, [1]).next_row, live_numbers(tmp_path, 4)) == (3, [1])


# F17: other versions of the format


def test_f17_a_store_of_the_format_before_is_read_and_goes_on(tmp_path: Path) -> None:
    """tests/data/store_schema_1 was written by the last commit whose manifests had no `oldest`."""
    store = copy_of(SCHEMA_1, tmp_path / "store")
    assert verify(store, full=True) == []
    assert live_numbers(store, 3) == [0, 2, 3, 4, 5, 6, 8, 9]
    add(tmp_path / "new", [0, 2, 3, 4, 5, 6, 8, 9])
    assert answers(store) == answers(tmp_path / "new")
    assert rollback(store, 1, {}).segments == read_manifest(SCHEMA_1, 1).segments
    assert add(store, [11]).next_row == 11
    assert verify(store, full=True) == []  # the chain goes through both formats
    assert collect_garbage(store, 0, 1) == [f"segments/{read_manifest(SCHEMA_1, 2).segments[1].id}", *tombstones()]
    assert verify(store, full=True) == []


def tombstones() -> list[str]:
    return [name for name in files_of(read_manifest(SCHEMA_1, 3)) if name.startswith("tombstones")]


@pytest.mark.parametrize("kind", ["manifest", "segment"])
def test_f17_a_store_of_the_future_is_refused_with_advice(tmp_path: Path, kind: str) -> None:
    if kind == "manifest":
        (tmp_path / "manifests").mkdir()
        (tmp_path / name_of(1)).write_bytes(dump_json({"schema": 3}))
        message = "schema is 3, this wbrag reads 1 and 2; upgrade wbrag"
    else:
        add(tmp_path, [1])
        segment_file(tmp_path, 0, SEGMENT).write_bytes(dump_json({"schema": 9}))
        message = r"segment\.json: sha256 is"
    with pytest.raises(StoreError, match=message):
        KnowledgeBase(tmp_path)
