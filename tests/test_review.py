"""What people decide about units, and that it holds: pure, on a small store, and through an update."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import rows_in
from test_update import changed_to, folder, trained, world

from wbrag.run.folder import read_left_out
from wbrag.run.job import Session
from wbrag.run.review import accept, decisions_of, edit, reject, restore
from wbrag.run.update import Updated
from wbrag.store.files import StoreError
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, rollback
from wbrag.units.decisions import Decision, decided

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from units import main

__all__ = ["folder", "trained"]  # fixtures


def unit(key: str, text: str = "text") -> dict[str, Any]:
    return {"id": key, "title": "title", "text": text, "example_ids": ["e"], "source_ids": ["s"], "subject": ""}


IDS = st.sampled_from("abcdef")
DECISIONS = st.dictionaries(
    IDS,
    st.tuples(st.sampled_from(["accepted", "rejected", "edited"]), st.sampled_from("xyz"), st.sampled_from("12")),
)


@given(st.sets(IDS), DECISIONS, st.sampled_from("12"))
def test_what_was_decided_holds_for_whatever_is_written(
    written: set[str], told: dict[str, tuple[Any, str, str]], says: str
) -> None:
    made = {
        key: Decision(state, "why", "now", unit(f"new-{other}" if state == "edited" else key), {"s": said})
        for key, (state, other, said) in told.items()
    }
    kept, left_out = decided([unit(key) for key in sorted(written)], made, {"s": says})
    ids = [one["id"] for one in kept]
    assert ids == sorted(set(ids))
    for key in written:
        assert (key in ids) == (key not in made or made[key].state == "accepted")
    for one in made.values():
        if one.state == "edited":
            fresh = any(o.unit["id"] == one.unit["id"] and o.sources["s"] == says for o in made.values())
            assert (one.unit["id"] in ids) == fresh
    assert {"rejected", "edited", "review"} >= {row["kind"] for row in left_out}


def test_what_was_rejected_or_edited_stays_so_with_every_update(folder: Path, session: Session) -> None:
    run = folder / "run"
    store = run / "writeback"
    oak, elm = (next(row for row in rows_in(store) if row["title"] == title) for title in ("Oakton", "Elmton"))
    with KnowledgeBase.open(run) as reader:
        assert any(one.id == oak["id"] for one in reader.search_one("What is Oakton's river?", 3))
        reject(store, oak["id"], "it is about another Oakton")
        edit(store, run / "base", elm["id"], "Elmton", "Elmton's river is called Elmwasser.", "shorter")
        assert reader.refresh()
        assert not any(one.id == oak["id"] for one in reader.search_one("What is Oakton's river?", 3))
        read = reader.search_one("What is Elmton's river called?", 3)
        assert "Elmton's river is called Elmwasser." in [one.text for one in read]
    (made,) = [row for row in rows_in(store) if row["form"] == "edited"]

    now = world() | {"m9": ("Lindenson", "Lindenson's trade is Fishing.")}
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    ids = {row["id"] for row in rows_in(store)}
    assert {oak["id"], elm["id"]} & ids == set()
    assert [row for row in rows_in(store) if row["form"] == "edited"] == [made]
    kinds = {row["kind"]: row["reason"] for row in read_left_out(found.folder)}
    assert kinds["rejected"] == f"{decisions_of(store)[oak['id']].at}: it is about another Oakton"

    key = elm["source_ids"][0]
    now[key] = now[key][0], f"{now[key][1]} It is an old place."
    found = changed_to(folder, now, session)
    assert isinstance(found, Updated)
    assert not [row for row in rows_in(store) if row["form"] == "edited"]
    (told,) = [row["reason"] for row in read_left_out(found.folder) if row["kind"] == "review"]
    assert f"{key} changed since" in told
    restore(store, oak["id"])
    assert next(row for row in rows_in(store) if row["id"] == oak["id"]) == oak
    assert oak["id"] not in decisions_of(store)


def test_decisions_are_versions_and_outlive_a_rollback(folder: Path, session: Session) -> None:
    store = folder / "run" / "writeback"
    key = rows_in(store)[0]["id"]
    before = current(store).version
    accept(store, key, "read it")
    assert decisions_of(store)[key].state == "accepted"
    reject(store, key, "on second thoughts")
    rollback(store, before, {})
    assert decisions_of(store)[key].state == "rejected"
    with pytest.raises(StoreError, match="has no unit 'nothing'"):
        reject(store, "nothing", "")
    with pytest.raises(StoreError, match="nothing was decided"):
        restore(store, "nothing")


def test_the_command_lists_shows_and_decides(
    folder: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "run")
    assert main(["list", run]) == 0
    told = capsys.readouterr().out.splitlines()
    key = told[1].split()[0]
    assert main(["show", run, key]) == 0
    assert ">> " in capsys.readouterr().out
    assert main(["search", run, "What is Oakton's river?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["title"] == "Oakton"
    assert main(["reject", run, key, "--why", "wrong"]) == 0
    assert main(["show", run, key]) == 2
    assert f"has no unit '{key}'" in capsys.readouterr().err
    assert main(["decisions", run]) == 0
    assert "wrong" in capsys.readouterr().out
