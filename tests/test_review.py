"""What people decide about units holds for whatever is written; that it does through updates: test_update.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from served_run import UNITS, served_run
from served_run import unit as served_unit
from small_store import rows_in

from wbrag.config import Benchmark, TrainConfig
from wbrag.life.review import accept, reject, restore
from wbrag.run.actors import Generators
from wbrag.run.decided import decisions_of
from wbrag.run.folder import unit_rows
from wbrag.run.job import Job
from wbrag.run.record import RunRecord
from wbrag.run.writeback import made_units
from wbrag.units.decisions import Decision, decided


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


def test_a_decision_while_an_update_is_not_ended_holds_in_it(tmp_path: Path) -> None:
    run = served_run(tmp_path / "run")
    cfg = TrainConfig(benchmark=Benchmark(name="toy"))
    update = Job(cfg, run, RunRecord(run, {"corpus": "03d54f258644dce5"}), before=tmp_path)
    given = run / "traces", tmp_path / "questions", run / "base", cast("Generators", None)
    made_units(update, *given)
    good = UNITS["good"]["id"]
    assert good in [one["id"] for one in unit_rows(run)]
    reject(run / "writeback", good, "wrong")
    made_units(Job(cfg, run, update.record), *given)  # a training is as it was measured
    assert good in [one["id"] for one in unit_rows(run)]
    made_units(update, *given)
    assert good not in [one["id"] for one in unit_rows(run)]


def test_a_unit_that_was_accepted_by_mistake_waits_again(tmp_path: Path) -> None:
    run, waiting = served_run(tmp_path / "run"), served_unit("Elm", "Elm is a town.", ["p-1290"])
    store = run / "writeback"
    accept(store, waiting["id"], "", waiting, run / "base")
    assert waiting["id"] in {row["id"] for row in rows_in(store)}
    restore(store, waiting["id"], run / "base", waits=True)
    assert waiting["id"] not in {row["id"] for row in rows_in(store)}
    assert decisions_of(store) == {}
