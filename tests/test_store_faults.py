"""Real processes killed at any moment, and many that write and read at once: never anything but a whole version."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from forked import processes

from wbrag.store.changes import collect, compact, delete, publish, write_piece
from wbrag.store.place import place_of
from wbrag.store.rows import Piece, opened, schema_in, with_vectors
from wbrag.store.search import KnowledgeBase
from wbrag.store.vectors import Spec, spec_of
from wbrag.store.verify import verify
from wbrag.store.versions import current, history, latest, named

SPEC = spec_of("flat_fp16", 8)
GROUPS, EACH, WRITERS, READERS = 5, 4, 4, 4
#: Processes that are killed, and pairs that each writer publishes: as a rule, and with --long.
KILLS, LONG_KILLS = 80, 200
PUBLISHES, LONG_PUBLISHES = 20, 50


def content(store: Path, ids: Sequence[str], text: str) -> tuple[list[Piece], Spec, str]:
    drawn = np.random.default_rng(len(text)).normal(size=(len(ids), 8))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    table = pa.table({"id": list(ids), "title": list(ids), "text": [text] * len(ids)})
    place = place_of(store)
    rows = with_vectors(table, vectors, schema_in(place, None, table.schema, 8))
    return [write_piece(place, rows, SPEC)], SPEC, "enc"


def texts(store: Path) -> dict[str, str]:
    table = opened(place_of(store), current(store)).to_table(columns=["id", "text"])
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def group(number: int) -> list[str]:
    return [f"g{number}-{i}" for i in range(EACH)]


def work(store: Path, log: Path, first: int, seed: int) -> None:
    """Change after change: before each one line of what it is, after it the word that it is done."""
    draw = random.Random(seed)
    with log.open("a", buffering=1) as lines:
        for number in range(first, first + 1000):
            kind, chosen = draw.choice(["upsert", "upsert", "delete", "compact", "collect"]), draw.randrange(1, GROUPS)
            lines.write(json.dumps({"number": number, "kind": kind, "group": chosen}) + "\n")
            match kind:
                case "upsert":
                    publish(store, *content(store, group(chosen), str(number)), {}, upsert=True)
                case "delete":
                    gone = set(group(chosen)) & set(texts(store))
                    delete(store, gone, {})
                case "compact":
                    compact(store, {}, keep_rows=3 * EACH)
                case _:
                    collect(store, keep=2, grace=0)
            lines.write("done\n")


def after(state: dict[int, str], change: dict[str, Any]) -> dict[int, str]:
    """What the groups hold once a change is made."""
    made = dict(state)
    if change["kind"] == "upsert":
        made[change["group"]] = str(change["number"])
    elif change["kind"] == "delete":
        made.pop(change["group"], None)
    return made


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_the_old_version_or_the_new_one(tmp_path: Path, long: bool) -> None:
    store, context, draw = tmp_path / "store", processes(), random.Random(1)
    publish(store, *content(store, group(0), "0"), {})  # stays, so that there is always a row
    state, first = {0: "0"}, 1
    for kill in range(LONG_KILLS if long else KILLS):
        log = tmp_path / f"{kill}.log"
        process = context.Process(target=work, args=(store, log, first, kill))
        process.start()
        while not (log.exists() and log.stat().st_size):
            assert process.exitcode is None
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.12))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines = log.read_text().splitlines()
        changes = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        for change in changes[: lines.count("done")]:
            state = after(state, change)
        found = texts(store)
        whole = {int(key[1:].partition("-")[0]): text for key, text in found.items()}
        assert found == {key: text for number, text in whole.items() for key in group(number)}
        allowed = [state, *(after(state, change) for change in changes[lines.count("done") :])]
        assert whole in allowed, (changes[-3:], lines[-1])
        state, first = whole, first + len(changes)
        if kill % 20 == 0:
            assert verify(store, full=True) == []
            with KnowledgeBase(store) as knowledge:
                hits = knowledge.search(np.eye(8, dtype=np.float32)[:1], 100)[0]
                assert {hit.id: hit.text for hit in hits} == found
    collect(store, grace=0)
    assert verify(store, full=True) == []
    assert place_of(store).names("pins") == []


def write(folder: Path, writer: int, publishes: int) -> None:
    """Pair after pair: a passage of the base and a unit, which say the same."""
    base, units = folder / "base", folder / "writeback"
    for number in range(publishes):
        told = f"{writer}-{number}"
        made = publish(base, *content(base, ["same", told], told), {"by": told}, upsert=True)
        publish(units, *content(units, ["unit", f"u{told}"], told), {"by": told}, named(made), upsert=True)


def read(folder: Path, until: float, log: Path) -> None:
    """Pair after pair as they come: one whole pair each time, by whichever way it was opened."""
    faults, pairs = [], set()
    query = np.eye(8, dtype=np.float32)[:1]
    while latest(folder / "writeback") is None:
        time.sleep(0.01)
    with KnowledgeBase.open(folder) as knowledge:
        while time.time() < until and not (log.parent / "stop").exists():
            hits = {hit.id: hit for hit in knowledge.search(query, 10_000)[0]}
            versions = {(hit.source, hit.version) for hit in hits.values()}
            if hits["same"].text != hits["unit"].text or len(versions) != 2:
                faults.append([hits["same"].text, hits["unit"].text, sorted(versions)])
            pairs.add(hits["unit"].text)
            knowledge.refresh()
    log.write_text(json.dumps({"faults": faults, "pairs": len(pairs)}))


@pytest.mark.slow
def test_many_writers_lose_nothing_and_readers_see_whole_pairs(tmp_path: Path, long: bool) -> None:
    context, publishes = processes(), LONG_PUBLISHES if long else PUBLISHES
    readers = [
        context.Process(target=read, args=(tmp_path, time.time() + 240, tmp_path / f"reader-{number}"))
        for number in range(READERS)
    ]
    writers = [context.Process(target=write, args=(tmp_path, number, publishes)) for number in range(WRITERS)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join(240)
    (tmp_path / "stop").touch()
    for process in readers:
        process.join(60)
    assert [process.exitcode for process in (*writers, *readers)] == [0] * (WRITERS + READERS)
    told = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(publishes)}
    assert texts(tmp_path / "base").keys() == {"same"} | told
    assert texts(tmp_path / "writeback").keys() == {"unit"} | {f"u{one}" for one in told}
    for name in ("base", "writeback"):
        assert sorted(one.note["by"] for one in history(tmp_path / name)) == sorted(told)
    for number in range(READERS):
        found = json.loads((tmp_path / f"reader-{number}").read_text())
        assert found["faults"] == []
        assert found["pairs"] > 1


def test_a_full_disk_leaves_the_current_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    publish(store, *content(store, group(0), "0"), {})
    made = content(store, group(1), "1")
    link = os.link
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        publish(store, *made, {})
    monkeypatch.setattr(os, "link", link)
    assert (current(store).version, set(texts(store))) == (1, set(group(0)))
    assert publish(store, *made, {}).version == 2
    assert not [name for name in os.listdir(store / "versions") if name.startswith(".tmp")]
