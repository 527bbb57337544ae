"""What people decide about units holds for whatever is written; that it does through updates: test_update.py."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

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
