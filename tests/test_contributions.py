"""Many runs bring their units into one knowledge base; each contribution is shown, taken back and moved by itself."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_store import passages, publish, rows_in, unit_vectors
from synthetic_run import CONFIG

from wbrag.command.kb import main
from wbrag.config import ConfigError, Encoder, Merge, TrainConfig
from wbrag.life.review import reject
from wbrag.life.update import check_labels
from wbrag.run.contribute import contribute, contributions, move, run_name, withdraw
from wbrag.run.folder import RunError
from wbrag.schema import SEEN_BY, UNIT, unit_id
from wbrag.store.changes import delete
from wbrag.store.files import StoreError
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current, named
from wbrag.units.access import EVERYBODY, NOBODY, Label
from wbrag.units.contributions import merged, shares

ENCODER = {"encoder": asdict(Encoder("hashing", "hashing", "hashing", dimension=16))}
NOTED = ENCODER | {"merge": asdict(Merge())}
Row = dict[str, Any]


def unit(number: int, *examples: str) -> Row:
    """A unit of passage p<number>, which these examples made."""
    row = dict.fromkeys(UNIT.names) | {"title": f"title {number}", "text": f"unit {number}", "subject": ""}
    row |= {"source_ids": [f"p{number}"], "example_ids": list(examples) or [f"e{number}"]}
    return row | {"id": unit_id(row["title"], row["text"], row["source_ids"])}


BROUGHT = st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(0, 5)))


@given(BROUGHT, st.randoms())
def test_contributions_come_in_any_order_and_go_without_a_trace(
    brought: dict[str, set[int]], chance: random.Random
) -> None:
    def all_of(names: list[str]) -> list[Row]:
        live: list[Row] = []
        for name in names:
            live = merged(live, name, [unit(n, f"{name}-{n}") for n in sorted(brought[name])])
        return live

    names = sorted(brought)
    live = all_of(names)
    other = names.copy()
    chance.shuffle(other)
    assert all_of([*other, *other]) == live
    assert {row["id"] for row in live} == {unit(n)["id"] for some in brought.values() for n in some}
    for row in live:
        assert row["example_ids"] == sorted(key for one in row["runs"] for key in one["example_ids"])
    for name in names:
        assert merged(live, name, []) == all_of([one for one in names if one != name])
        told, alone = shares(live).get(name, (0, 0))
        mine = brought[name].difference(*(some for one, some in brought.items() if one != name))
        assert (told, alone) == (len(brought[name]), len(mine))


def run_of(
    folder: Path, units: list[Row], count: int = 6, text: str = "text", seen_by: list[Label] | None = None
) -> Path:
    """A finished run's folder: its settings, a base of `count` passages, the units as its write-back store."""
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.replace("toy_nq", folder.name))
    (folder / "run.json").write_text(json.dumps({"hash": "0123456789abcdef"}))
    (folder / "metrics.json").write_text("{}")
    table = passages(count).set_column(2, "text", pa.array([f"{text} {i}" for i in range(count)]))
    if seen_by is not None:
        table = table.append_column(SEEN_BY, pa.array(seen_by, SEEN_BY.type))
    publish(folder / "base", unit_vectors(count, 1), table, "hashing", ENCODER)
    if units:
        told = pa.Table.from_pylist(units, UNIT)
        publish(
            folder / "writeback", unit_vectors(len(units), 2), told, "hashing", ENCODER | {"merge": asdict(Merge())}
        )
    return folder


def found(kb: Path, groups: list[str] | None = None) -> set[str]:
    """The units that a reader of every vector finds, of all groups or of these."""
    with KnowledgeBase.open(kb, encoder=_Given()) as reader:
        hits = reader.search(unit_vectors(1), 100, groups=groups)[0]
    return {hit.id for hit in hits if hit.source == "writeback"}


class _Given:
    fingerprint, dimension = "hashing", 16


def test_two_runs_share_one_knowledge_base(tmp_path: Path) -> None:
    kb, other = tmp_path / "kb", tmp_path / "other"
    nq, fever = run_of(tmp_path / "nq", [unit(0), unit(1, "a")]), run_of(tmp_path / "fever", [unit(1, "b"), unit(2)])
    first, second = contribute(nq, kb), contribute(fever, kb)
    assert (first.units, first.alone, first.versions) == (2, 2, (0, 1))
    assert (second.units, second.alone, second.versions) == (2, 1, (1, 2))
    assert found(kb) == {unit(n)["id"] for n in (0, 1, 2)}
    assert contributions(kb) == {run_name(fever): (2, 1), run_name(nq): (2, 1)}
    assert {row["id"]: row["example_ids"] for row in rows_in(kb / "writeback")}[unit(1)["id"]] == ["a", "b"]
    assert contribute(fever, kb).versions == (2, 2)  # nothing to do
    assert current(kb / "writeback").base == named(current(kb / "base"))
    went, came = move(kb, run_name(nq), nq, other)
    assert (went.units, came.units) == (0, 2)
    assert (found(kb), found(other)) == ({unit(n)["id"] for n in (1, 2)}, {unit(n)["id"] for n in (0, 1)})
    assert {row["id"]: row["example_ids"] for row in rows_in(kb / "writeback")}[unit(1)["id"]] == ["b"]
    for wrong, told in ((other, "is there already"), (fever, "is the folder of a run")):
        with pytest.raises(StoreError, match=told):
            move(other, run_name(nq), nq, wrong)
    assert (found(other), len(rows_in(fever / "writeback"))) == ({unit(n)["id"] for n in (0, 1)}, 2)
    with pytest.raises(StoreError, match=r"no run 'nq-naive-micro_small-.*' brought units; there are fever"):
        withdraw(kb, run_name(nq))


def test_the_commands_bring_move_and_withdraw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nq, kb, other = run_of(tmp_path / "nq", [unit(0), unit(1)]), tmp_path / "kb", tmp_path / "other"
    name = run_name(nq)
    assert main(["contribute", str(kb), str(nq)]) == 0
    assert main(["move", str(kb), name, str(nq), str(other)]) == 0
    assert main(["withdraw", str(other), name]) == 0
    assert (found(kb), found(other)) == (set(), set())
    assert f"{name}: 2 units" in capsys.readouterr().out


def test_what_was_rejected_there_stays_away_whoever_brings_it(tmp_path: Path) -> None:
    kb, nq = tmp_path / "kb", run_of(tmp_path / "nq", [unit(0), unit(1)])
    contribute(nq, kb)
    reject(kb / "writeback", unit(1)["id"], "wrong")
    contribute(run_of(tmp_path / "fever", [unit(1, "b"), unit(2)]), kb)
    contribute(nq, kb)
    assert found(kb) == {unit(n)["id"] for n in (0, 2)}


def test_units_of_other_documents_stay_out_and_those_of_changed_ones_go(tmp_path: Path) -> None:
    kb, nq = tmp_path / "kb", run_of(tmp_path / "nq", [unit(0), unit(1)])
    contribute(nq, kb)
    assert contribute(run_of(tmp_path / "else", [unit(2)], text="other"), kb).elsewhere == 1
    assert contribute(run_of(tmp_path / "more", [unit(3), unit(7)], count=8), kb).elsewhere == 1
    delete(kb / "base", ["p1"], {"made_by": "test"})  # as an update of the first run would
    assert found(kb) == {unit(n)["id"] for n in (0, 1, 3)}  # until units come that name the new base
    contribute(tmp_path / "more", kb)
    assert found(kb) == {unit(n)["id"] for n in (0, 3)}


def test_units_are_labelled_as_their_sources_are_there_whatever_their_run_knows(tmp_path: Path) -> None:
    kb, labels = tmp_path / "kb", [[["hr"]], EVERYBODY, [["hr"]], NOBODY]
    contribute(run_of(tmp_path / "first", [], 4, seen_by=labels), kb)
    contribute(run_of(tmp_path / "other", [unit(0), unit(1), unit(3)], 4), kb)  # a run without labels
    contribute(run_of(tmp_path / "open", [unit(2)], 4, seen_by=[EVERYBODY] * 4), kb)  # labels of another day
    assert found(kb, []) == {unit(1)["id"]}
    assert found(kb, ["hr"]) == {unit(n)["id"] for n in (0, 1, 2)}
    changed = passages(4).filter(pa.array([False, True, False, False]))
    changed = changed.set_column(2, "text", pa.array(["text 1"])).append_column(
        SEEN_BY, pa.array([[["hr"]]], SEEN_BY.type)
    )
    delete(kb / "base", ["p1"], {})
    publish(kb / "base", unit_vectors(1), changed, "hashing", ENCODER)
    contribute(tmp_path / "open", kb)
    assert found(kb, []) == set()
    assert found(kb, ["hr"]) == {unit(n)["id"] for n in (0, 1, 2)}
    pq.write_table(passages(4), corpus := tmp_path / "corpus.parquet")  # with which nobody would see anything
    for run, shared in (("first", ""), ("other", str(kb))):
        with pytest.raises(ConfigError, match="base has labels of who may see what"):
            check_labels(TrainConfig(kb=shared), tmp_path / run, corpus)


def test_only_finished_runs_of_the_same_encoder_come_in(tmp_path: Path) -> None:
    kb, nq, unfinished = tmp_path / "kb", run_of(tmp_path / "nq", []), run_of(tmp_path / "half", [unit(0)])
    assert contribute(nq, kb).versions == (0, 0)  # without units there is the base
    assert contributions(kb) == {}
    (unfinished / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"half: holds no trained knowledge base \(no metrics.json\)"):
        contribute(unfinished, kb)
    publish(tmp_path / "another" / "base", unit_vectors(2), passages(2), "another", ENCODER)
    with pytest.raises(StoreError, match=r"another: encoder is 'another', that of .*nq 'hashing'"):
        contribute(nq, tmp_path / "another")
