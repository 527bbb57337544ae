"""Builds on Ray beyond the flat one: IVF, resuming after a kill, and the job that builds or adopts a base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wbrag import config
from wbrag.retrieval.encoder import open_encoder
from wbrag.store.build import _identity, build_store
from wbrag.store.export import export
from wbrag.store.files import StoreError
from wbrag.store.lease import LeaseError, acquire
from wbrag.store.manifest import Manifest, latest
from wbrag.store.resume import finish, finished, resumable_folder
from wbrag.store.revise import compact, delete
from wbrag.store.search import KnowledgeBase
from wbrag.store.verify import repair, verify

ROOT = Path(__file__).parents[1]
HASHING = config.Encoder(name="hashing", kind="hashing", model="hashing", dimension=32)


def corpus(n: int) -> pa.Table:
    ids = [f"c{i}" for i in range(n)]
    texts = [f"the town of {i * 7919 % 10007} lies near {i}" for i in range(n)]
    return pa.table({"id": ids, "title": [f"Town {i}" for i in range(n)], "text": texts})


def build(source: Path, store: Path, index: config.Index, encoders: int = 1) -> Manifest:
    return build_store(source, store, HASHING, index, config.Cluster(encoders=encoders), {"from": "test"})


def ivf(shards: int = 1) -> config.Index:
    return config.Index("ivf_fp16", shards=shards, nlist=8, nprobe=8)


# The scratch folder


def test_a_finished_file_is_not_made_again(tmp_path: Path) -> None:
    file, made = tmp_path / "deep" / "file", []

    def write(path: Path) -> None:
        made.append(path)
        path.write_bytes(b"content")

    assert not finished(file)
    for _ in range(3):
        assert finish(file, write).read_bytes() == b"content"
    assert len(made) == 1
    assert sorted(path.name for path in file.parent.iterdir()) == ["file", "file.sha256"]


@pytest.mark.parametrize("damage", ["changed", "emptied", "unnoted", "gone"])
def test_a_file_that_is_not_what_was_finished_is_made_again(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "file"
    finish(file, lambda path: path.write_bytes(b"content"))
    match damage:
        case "changed":
            file.write_bytes(b"CONTENT")
        case "emptied":
            file.write_bytes(b"")
        case "unnoted":
            (tmp_path / "file.sha256").unlink()
        case _:
            file.unlink()
    assert finish(file, lambda path: path.write_bytes(b"again")).read_bytes() == b"again"


def test_a_folder_stays_only_when_something_in_it_is_worth_it(tmp_path: Path) -> None:
    for fail, work in ((False, True), (True, False), (True, True)):
        try:
            with resumable_folder(tmp_path, "x") as folder:
                if work:
                    finish(folder / "file", lambda path: path.write_bytes(b"content"))
                if fail:
                    raise RuntimeError("stop")
        except RuntimeError:
            pass
        assert folder.exists() == (fail and work)
    with resumable_folder(tmp_path, "x") as folder:
        assert finished(folder / "file")


def test_two_processes_do_not_build_the_same(tmp_path: Path) -> None:
    with (
        resumable_folder(tmp_path, "x"),
        pytest.raises(StoreError, match=r"\.build-x: another process is building"),
        resumable_folder(tmp_path, "x"),
    ):
        pass


# IVF


@pytest.mark.usefixtures("ray_session")
def test_an_ivf_build_is_the_same_for_any_number_of_shards(tmp_path: Path) -> None:
    pq.write_table(corpus(5200), tmp_path / "in.parquet")
    one = build(tmp_path / "in.parquet", tmp_path / "one", ivf())
    many = build(tmp_path / "in.parquet", tmp_path / "many", ivf(shards=4), encoders=2)
    assert one == many
    assert one.spec.nlist == 8
    assert os.listdir(tmp_path / "many" / "segments") == [one.segments[0].id]  # no scratch left
    flat = build(tmp_path / "in.parquet", tmp_path / "flat", config.Index())
    xq = open_encoder(HASHING).encode_queries(["Town 77", "the town of 5", "near 5199"])
    exact = KnowledgeBase(tmp_path / "flat").search(xq, 7)
    assert KnowledgeBase(tmp_path / "many", nprobe=8).search(xq, 7) == exact
    assert flat.segments[0].rows == 5200
    assert verify(tmp_path / "many", full=True) == []


@pytest.mark.usefixtures("ray_session")
def test_what_is_added_to_an_ivf_store_takes_its_template(tmp_path: Path) -> None:
    for rows in (1500, 2600):
        pq.write_table(corpus(rows), tmp_path / "in.parquet")
        made = build(tmp_path / "in.parquet", tmp_path / "store", ivf())
    assert [ref.rows for ref in made.segments] == [1500, 1100]
    assert len(os.listdir(tmp_path / "store" / "templates")) == 1
    with pytest.raises(StoreError, match=r"index\.kind is 'flat_fp16', version 2 has 'ivf_fp16'"):
        build(tmp_path / "in.parquet", tmp_path / "store", config.Index())
    xq = open_encoder(HASHING).encode_queries(["Town 77", "near 2599"])
    delete(tmp_path / "store", ["c77"], {})
    before = KnowledgeBase(tmp_path / "store", nprobe=8).search(xq, 5)
    assert len(compact(tmp_path / "store", {}).segments) == 1
    assert KnowledgeBase(tmp_path / "store", nprobe=8).search(xq, 5) == before
    file = next((tmp_path / "store" / "segments").glob(f"{made.segments[0].id}/vectors.faiss"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    encoder = open_encoder(HASHING)
    assert len(repair(tmp_path / "store", encoder.encode_passages, encoder.fingerprint)) == 1
    assert file.read_bytes() == content


@pytest.mark.usefixtures("ray_session")
def test_more_lists_than_passages_are_refused(tmp_path: Path) -> None:
    pq.write_table(corpus(5), tmp_path / "in.parquet")
    with pytest.raises(config.ConfigError, match=r"index\.nlist=8: 5 vectors"):
        build(tmp_path / "in.parquet", tmp_path / "store", ivf())
    assert latest(tmp_path / "store") is None


# Two jobs


@pytest.mark.usefixtures("ray_session")
def test_a_build_holds_the_lease_and_takes_it_over_from_its_dead_attempt(tmp_path: Path) -> None:
    source, store = tmp_path / "in.parquet", tmp_path / "store"
    pq.write_table(corpus(50), source)
    other = acquire(store, "another job")
    with pytest.raises(LeaseError, match="'another job' holds lease 1 until"):
        build(source, store, config.Index())
    other.release()
    name = _identity(source, store, None, HASHING, config.Index())
    dead = acquire(store, f"build {name}")
    made = build(source, store, config.Index())
    assert made.segments[0].rows == 50
    with pytest.raises(LeaseError, match=r"lease 2 of 'build \w+' was lost"):
        dead.renew()
    assert delete(store, ["c1"], {}).version == 2  # the build has released what it took
    assert latest(store).version == 2  # type: ignore[union-attr]


# Resuming


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("index", [config.Index(shards=3), ivf(shards=3)], ids=["flat", "ivf"])
def test_a_build_that_failed_late_goes_on_where_it_stopped(tmp_path: Path, index: config.Index) -> None:
    """The merge finds its folder barred: the next call encodes nothing and writes no shard but the damaged one."""
    source, store = tmp_path / "in.parquet", tmp_path / "store"
    pq.write_table(corpus(4000), source)
    straight = build(source, tmp_path / "straight", index)
    scratch = store / "segments" / f".build-{_identity(source, store, None, HASHING, index)}"
    scratch.mkdir(parents=True)
    (scratch / "segment").write_text("in the way")
    with pytest.raises(Exception, match="File exists"):
        build(source, store, index)
    vectors = sorted(scratch.glob("vectors-*/*.npy"))
    shards = sorted(scratch.glob("shards/*.faiss"))
    assert (len(vectors), len(shards)) == (4, 3)
    assert latest(store) is None
    written = {file: file.stat().st_mtime_ns for file in (*vectors, *shards)}
    shards[1].write_bytes(b"damaged")
    with pytest.raises(Exception, match="File exists"):
        build(source, store, index)
    again = {file: file.stat().st_mtime_ns for file in (*vectors, *shards)}
    assert [file for file in written if written[file] != again[file]] == [shards[1]]
    (scratch / "segment").unlink()
    assert build(source, store, index) == straight
    assert not scratch.exists()
    assert verify(store, full=True) == []


def job(folder: Path, *more: str) -> list[str]:
    """jobs/build_index.py as a user starts it."""
    fixed = [f"corpus={folder / 'corpus.jsonl'}", f"store={folder / 'store'}", "encoder=hashing"]
    small = ["cluster.object_store_mib=200", "encoder.dimension=64"]
    return [sys.executable, str(ROOT / "jobs" / "build_index.py"), *fixed, *small, *more]


def environment() -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**found, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def write_corpus(folder: Path, rows: int) -> None:
    lines = [{"id": row["id"], "contents": f"{row['title']}\n{row['text']}"} for row in corpus(rows).to_pylist()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_build_loses_no_finished_group(tmp_path: Path) -> None:
    write_corpus(tmp_path, 60_000)
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(job(tmp_path), env=environment(), stdout=log, stderr=log)
        while len(done := list(tmp_path.glob("store/segments/.build-*/vectors-*/*.npy.sha256"))) < 3:
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    for process in psutil.wait_procs(family, timeout=20)[1]:
        process.kill()
    assert latest(tmp_path / "store") is None
    kept = {file: file.stat().st_mtime_ns for file in done}
    again = subprocess.Popen(job(tmp_path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen: dict[Path, int] = {}
    while again.poll() is None:  # they go with the scratch folder at the end
        seen |= {file: file.stat().st_mtime_ns for file in kept if file.exists()}
        time.sleep(0.05)
    assert again.stdout is not None
    assert again.returncode == 0, again.stdout.read().decode()
    assert seen == kept
    made = latest(tmp_path / "store")
    assert made is not None
    assert made.segments[0].rows == 60_000
    assert verify(tmp_path / "store", full=True) == []


def test_the_job_builds_and_adopts_and_exits_with_2_for_what_cannot_be(tmp_path: Path) -> None:
    write_corpus(tmp_path, 900)
    ran = subprocess.run(
        job(tmp_path, "index=ivf_fp16", "index.nlist=4"), env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "version 1, 900 passages, ivf_fp16, encoder hashing-64d" in ran.stdout
    hit = KnowledgeBase.open(tmp_path / "store").search_one("Town 7 the town of 5412 lies near 7", 1)[0]
    assert hit.id == "c7"
    export([tmp_path / "store"], tmp_path / "out")
    adopting = [f"adopt={tmp_path / 'out' / 'flat.index'}", f"store={tmp_path / 'adopted'}"]
    ran = subprocess.run(job(tmp_path, *adopting), env=environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "version 1, 900 passages, flat_fp16" in ran.stdout
    wrong = [*adopting, f"store={tmp_path / 'third'}", "encoder.passage_prefix='of: '"]
    ran = subprocess.run(job(tmp_path, *wrong), env=environment(), capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "inner product" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_settings_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    for index, message in (
        (config.Index("hnsw"), r"index\.kind: 'hnsw'"),
        (config.Index(shards=0), r"index\.shards=0"),
        (config.Index("ivf_fp16", nprobe=0), r"index\.nprobe=0"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            build(tmp_path / "none", tmp_path / "store", index)
    assert list(tmp_path.iterdir()) == []
