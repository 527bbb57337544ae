"""A store on an object store: a local S3 server that honours conditional PUTs, and the same laws as in a folder."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_store import ENCODER, add, answers, encode, live_numbers

from wbrag.config import ConfigError
from wbrag.store.files import StoreError
from wbrag.store.garbage import collect_garbage, pinned
from wbrag.store.lease import LeaseError, leased
from wbrag.store.live import diff
from wbrag.store.manifest import files_of, latest, name_of, read_manifest, versions
from wbrag.store.mirror import mirror
from wbrag.store.objects import ObjectStorage, open_storage
from wbrag.store.publish import publish_segment
from wbrag.store.revise import compact, delete, rollback
from wbrag.store.segment import PASSAGES, VECTORS, open_ref
from wbrag.store.storage import read, storage_of
from wbrag.store.verify import repair, verify


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A moto server on a free port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or a failed test prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, tmp_path: Path) -> ObjectStorage:
    """An empty store in a bucket of its own."""
    bucket = f"wbrag-{uuid.uuid4().hex[:12]}"
    made = open_at(endpoint, bucket, tmp_path / "cache")
    made._at("")[0].mkdir(bucket)
    return made


def open_at(endpoint: str, bucket: str, cache: Path) -> ObjectStorage:
    found = open_storage(f"s3://{bucket}/kb", cache, key="k", secret="s", client_kwargs={"endpoint_url": endpoint})
    assert isinstance(found, ObjectStorage)
    return found


def put(store: ObjectStorage, name: str, data: bytes) -> None:
    files, key = store._at(name)
    files.pipe_file(key, data)


def test_a_store_on_s3_goes_through_its_life_like_one_in_a_folder(s3: ObjectStorage, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert latest(s3) is None
    for store in (s3, folder):
        add(store, range(6))
        add(store, range(6, 10))
        delete(store, ["p1", "p7"], {})
        rollback(store, 2, {})
        delete(store, ["p1", "p7"], {})
        compact(store, {})
    assert [read(s3, name_of(v)) for v in versions(s3)] == [(folder / name_of(v)).read_bytes() for v in range(1, 7)]
    assert answers(s3) == answers(folder)
    assert answers(s3, version=2) == answers(folder, version=2)
    assert diff(s3, 2, 6) == diff(folder, 2, 6)
    assert verify(s3, full=True) == []
    removed = collect_garbage(s3, grace_seconds=0, keep_versions=1)
    assert removed == collect_garbage(folder, grace_seconds=0, keep_versions=1)
    assert s3.names("segments") == os.listdir(folder / "segments")
    assert verify(s3, full=True) == []


def test_a_manifest_is_created_by_a_conditional_put(s3: ObjectStorage) -> None:
    sent: list[dict[str, object]] = []
    client = s3._at("")[0]
    client.connect()
    client.s3.meta.events.register("before-call.s3.PutObject", lambda params, **_: sent.append(params))
    assert s3.create("manifests/000001.json", b"first")
    assert not s3.create("manifests/000001.json", b"second")
    assert read(s3, "manifests/000001.json") == b"first"
    assert [params["headers"]["If-None-Match"] for params in sent] == ["*", "*"]  # type: ignore[index]


def test_publishers_from_one_parent_all_succeed_on_s3(s3: ObjectStorage) -> None:
    barrier, errors = threading.Barrier(3), list[Exception]()

    def work(number: int) -> None:
        try:
            barrier.wait()
            add(s3, range(10 * number, 10 * number + 4))
        except Exception as error:  # reported below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert versions(s3) == [1, 2, 3]
    assert sorted(live_numbers(s3, 3)) == [*range(4), *range(10, 14), *range(20, 24)]


def test_a_segment_is_downloaded_once_and_only_if_it_is_whole(s3: ObjectStorage, endpoint: str, tmp_path: Path) -> None:
    newest = add(s3, range(30))
    (ref,) = newest.segments
    bucket = s3.url.split("/")[2]
    elsewhere = open_at(endpoint, bucket, tmp_path / "elsewhere")
    assert answers(elsewhere) == answers(s3)
    kept = tmp_path / "elsewhere" / ref.sha256 / ref.id
    assert sorted(os.listdir(kept)) == ["passages.parquet", "segment.json", "vectors.faiss"]
    name = f"segments/{ref.id}/{VECTORS}"
    data = bytearray(read(s3, name))
    data[-1] ^= 1
    put(s3, name, bytes(data))
    assert answers(elsewhere) == answers(s3)  # from the caches
    third = open_at(endpoint, bucket, tmp_path / "third")
    with pytest.raises(StoreError, match=r"vectors\.faiss: sha256 is \w+, segment\.json says"):
        open_ref(third, ref)
    assert os.listdir(tmp_path / "third") == []
    assert verify(s3) == []
    (fault,) = verify(s3, full=True)
    assert fault.startswith(f"{s3.url}/{name}: sha256 is")
    assert repair(s3, encode, ENCODER) == [name]
    assert verify(s3, full=True) == []
    assert answers(third) == answers(s3)


def test_what_is_missing_or_changed_on_s3_is_named(s3: ObjectStorage) -> None:
    add(s3, range(5))
    newest = delete(s3, ["p1"], {})
    (ref,) = newest.segments
    whole = {name: read(s3, name) for name in (f"segments/{ref.id}/{PASSAGES}", name_of(1), name_of(2))}
    for name, data in whole.items():
        for damaged in (data[:-1], data[:5] + bytes([data[5] ^ 1]) + data[6:]):
            put(s3, name, damaged)
            assert all(f"{s3.url}/{name}" in fault for fault in verify(s3, full=True) or [""])
            put(s3, name, data)
    for name in files_of(newest) | {name_of(1)}:
        file = f"{name}/segment.json" if name.startswith("segments") else name
        data = read(s3, file)
        s3.remove(file)
        assert any(f"{s3.url}/{file}" in fault for fault in verify(s3))
        put(s3, file, data)
    assert verify(s3, full=True) == []


def test_leases_and_pins_hold_on_s3(s3: ObjectStorage) -> None:
    add(s3, [1, 2])
    with leased(s3, "job") as lease:
        with pytest.raises(LeaseError, match="'job' holds lease 1"):
            add(s3, [3])
        delete(s3, ["p1"], {}, lease)
        lease.renew()
    with pinned(s3, 1):
        compact(s3, {})
        removed = collect_garbage(s3, grace_seconds=0, keep_versions=1)
        assert [name.partition("/")[0] for name in removed] == [
            "segments",
            "tombstones",
        ]  # p3's, which was refused
    assert len(collect_garbage(s3, grace_seconds=0, keep_versions=1)) == 1
    assert s3.names("pins") == []


def test_an_upload_that_stopped_half_way_is_finished_by_the_next(s3: ObjectStorage, tmp_path: Path) -> None:
    (ref,) = add(tmp_path / "folder", range(5)).segments
    put(s3, f"segments/{ref.id}/{VECTORS}", b"half")  # and no segment.json
    assert add(s3, range(5)).segments == (ref,)
    assert verify(s3, full=True) == []


def test_a_segment_that_is_not_there_cannot_be_committed(s3: ObjectStorage, tmp_path: Path) -> None:
    (ref,) = add(tmp_path / "folder", range(5)).segments
    with pytest.raises(StoreError, match=rf"{s3.url}/segments/{ref.id}/segment\.json: no such file"):
        publish_segment(s3, open_ref(tmp_path / "folder", ref), {})


def test_a_store_is_mirrored_to_s3_and_back(s3: ObjectStorage, tmp_path: Path) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back"
    add(folder, range(5))
    delete(folder, ["p1"], {})
    assert mirror(folder, s3) == [1, 2]
    compact(folder, {})
    collect_garbage(folder, grace_seconds=0, keep_versions=1)
    assert mirror(folder, s3) == [3, 4]
    assert mirror(folder, s3) == []
    assert answers(s3) == answers(folder)
    assert mirror(s3, back) == [1, 2, 3, 4]
    assert [(back / name_of(v)).read_bytes() for v in versions(back)] == [read(s3, name_of(v)) for v in range(1, 5)]
    assert (verify(back, full=True), answers(back)) == ([], answers(folder))


def test_a_mirror_of_something_else_or_of_damage_is_refused(s3: ObjectStorage, tmp_path: Path) -> None:
    add(tmp_path / "a", [1])
    add(tmp_path / "b", [2])
    mirror(tmp_path / "a", s3)
    with pytest.raises(StoreError, match=rf"{name_of(1)}: another version of this number; its sha256 is \w+, that of"):
        mirror(tmp_path / "b", s3)
    add(s3, [3])
    with pytest.raises(StoreError, match=rf"{s3.url}: has version 2, .*/a has not"):
        mirror(tmp_path / "a", s3)
    vectors = tmp_path / "b" / "segments" / read_manifest(tmp_path / "b", 1).segments[0].id / VECTORS
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match=r"vectors\.faiss: sha256 is"):
        mirror(tmp_path / "b", tmp_path / "c")
    assert versions(tmp_path / "c") == []


def test_a_place_that_cannot_commit_is_refused(tmp_path: Path) -> None:
    assert open_storage(str(tmp_path), tmp_path / "cache") == tmp_path
    assert str(storage_of(tmp_path)) == str(tmp_path)
    with pytest.raises(ConfigError, match="'ftp://host/kb': cannot commit to 'ftp'; choose a folder or s3"):
        open_storage("ftp://host/kb", tmp_path)
