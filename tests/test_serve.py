"""A knowledge base over HTTP: what it finds, whom it refuses, what it counts, and that a new version loses no query."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from served_run import ATTACK, UNITS, served_run, unit

from wbrag import schema
from wbrag.command import program
from wbrag.config import ConfigError
from wbrag.life.review import accept, edit, reject, restore
from wbrag.run.decided import decisions_of
from wbrag.run.folder import WAITING, tables_of, write_rows
from wbrag.serve import key_of, main
from wbrag.serve.app import app_of
from wbrag.serve.doubts import KINDS, contradicting, doubts_of, repeated
from wbrag.serve.guard import Guard
from wbrag.serve.hits import Remote, Served, Together, hits_of
from wbrag.serve.on_ray import Settings, replica
from wbrag.serve.run_pages import changed, runs_near
from wbrag.store.changes import delete
from wbrag.store.search import KnowledgeBase
from wbrag.store.versions import current

ROOT = Path(__file__).parents[1]
KEY = "k-5f1e"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
HERE = "http://127.0.0.1:8000"
COLUMNS = "the columns of the base: id (string), title (string), text (string), year (int64)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs" / "run"))


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    """The server of a run, with a key that each request brings."""
    with TestClient(app_of(Served(run), key=KEY), base_url=HERE, headers=WITH_KEY) as client:
        yield client


@pytest.fixture(scope="module")
def reading(made: Path) -> Iterator[TestClient]:
    """The same for tests that change nothing, on this machine alone and without a key."""
    with TestClient(app_of(Served(made), local=True), base_url=HERE) as client:
        yield client


def found(client: TestClient, question: str = "Where does Tarnholm lie?", **more: object) -> list[dict[str, Any]]:
    answer = client.post("/search", json={"question": question, **more})
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["results"][0]["hits"]
    return hits


def test_what_is_found_is_what_a_search_finds_with_what_to_cite(made: Path, reading: TestClient) -> None:
    questions = ["Where does Tarnholm lie?", "Who was Almira Trevane?"]
    told = reading.post("/search", json={"questions": questions, "k": 4}).json()["results"]
    with KnowledgeBase.open(made) as kb:
        for one, question in zip(told, questions, strict=True):
            assert one["question"] == question
            by_itself = kb.search_one(question, 4)
            assert [(hit["id"], hit["text"], hit["version"]) for hit in one["hits"]] == [
                (document.id, document.text, document.version) for document in by_itself
            ]
    sources = {one["id"]: one["source_ids"] for one in UNITS.values()}
    for hit in [hit for one in told for hit in one["hits"]]:
        assert hit["sources"] == (sources[hit["id"]] if hit["source"] == "writeback" else [hit["id"]])
        assert list(hit["columns"]) == (["year"] if hit["source"] == "base" else [])
    assert {hit["source"] for hit in told[0]["hits"]} == {"base", "writeback"}
    asked = {"question": questions[0], "k": 4, "writeback": False}
    assert {hit["source"] for hit in reading.get("/search", params=asked).json()["results"][0]["hits"]} == {"base"}
    assert [hit["id"] for hit in found(reading, where="id = 'p-1290'")] == ["p-1290"]
    assert {hit["id"] for hit in found(reading, where="year > 1990")} == {"p-0077", "p-1290"}  # units have no year


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"question": " "}, 422, "question: String should have at least 1 character"),
        ({"question": "x", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"question": "x", "limit": 3}, 422, "limit: Extra inputs are not permitted"),
        ({}, 422, "question or questions: one of the two is needed"),
        ({"question": "x", "questions": ["y"]}, 422, "question or questions: one of the two is needed"),
        ({"question": "x", "where": "year >"}, 400, "where: 'year >' is no SQL (Expected: an expression, found: EOF)"),
        ({"question": "x", "where": "size > 3"}, 400, f"where: 'size > 3' does not fit {COLUMNS}"),
        ({"question": "x", "where": "form = 'x'"}, 400, f"where: \"form = 'x'\" does not fit {COLUMNS}; form is the"),
        ({"question": "x", "groups": ["staff"]}, 403, "groups: are believed only with a key"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    made: Path, reading: TestClient, body: dict[str, Any], status: int, told: str
) -> None:
    answer = reading.post("/search", json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert answer.json()["detail"].startswith(told)
    assert "\n" not in answer.json()["detail"]
    assert str(made) not in answer.text
    assert reading.post("/search", content="{", headers={"Content-Type": "application/json"}).status_code == 422


def test_no_filter_ends_the_process(reading: TestClient) -> None:
    chain = {"question": "x", "where": "year" + "+1" * 990 + " > 1"}
    assert reading.post("/search", json=chain).status_code == 200
    assert reading.post("/search", json={"question": "x", "where": " " * 4001}).status_code == 422


def test_a_key_opens_all_but_what_machines_watch(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/health", "/metrics", "/docs", "/openapi.json", "/review", "/static/review.js"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200, path
    closed = ["/search?question=x", "/review/api/units", "/review/api/session", "/mcp", "/nothing", "/static/../mcp"]
    for path in closed:
        for sent in ("", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \u00fc"):
            answer = client.get(path, headers={"Authorization": sent.encode("utf-8")})
            assert answer.status_code == 401, (path, sent)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in answer.text + caplog.text
    assert client.get("/search?question=x").status_code == 200
    assert client.get("/search?question=x", headers={"Authorization": f"bearer {KEY} "}).status_code == 200


def test_a_page_of_another_server_may_not_ask(client: TestClient, reading: TestClient) -> None:
    body = {"question": "x"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "http://["):
        assert client.post("/search", json=body, headers={"Origin": origin}).status_code == 403
    assert client.post("/search", json=body, headers={"Origin": HERE}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example:8000", "", "["):
        assert reading.get("/search?question=x", headers={"Host": host}).status_code == 421
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert reading.get("/search?question=x", headers={"Host": host}).status_code == 200
    long = {"Content-Length": str(1 << 30), "Content-Type": "application/json"}
    assert client.post("/search", content="{}", headers=long).status_code == 413
    assert client.post("/search", content=iter([b"{}"]), headers={"Content-Type": "text/json"}).status_code == 411
    policy = client.get("/review").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@given(st.text(), st.text())
def test_no_other_key_is_known(key: str, given_key: str) -> None:
    guard = Guard(lambda *_: None, key.strip() or "k", False, print)  # type: ignore[arg-type, return-value]
    from starlette.datastructures import Headers

    told = Headers(raw=[(b"host", b"h"), (b"authorization", b"Bearer " + given_key.encode("utf-8", "replace"))])
    same = told["authorization"][7:].strip().encode() == guard.key
    assert (guard.refused("GET", "/search", told) is None) == same


def test_groups_are_passed_on_and_nobody_is_everybody(
    client: TestClient, reading: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    search = KnowledgeBase.search

    def spying(self: KnowledgeBase, queries: Any, k: int, **how: Any) -> Any:  # noqa: ANN401 - as search
        asked.append(how.pop("groups"))
        return search(self, queries, k, **how)

    monkeypatch.setattr(KnowledgeBase, "search", spying)
    found(client, groups=["staff", " board"])
    found(client)
    found(reading)
    assert asked == [["staff", " board"], [], []]


def test_counts_and_versions_are_told(client: TestClient, run: Path) -> None:
    found(client)
    client.post("/search", json={"questions": ["a", "b"]})
    client.post("/search", json={})
    told = client.get("/metrics").text
    assert 'wbrag_requests_total{route="/search",status="200"} 2.0' in told
    assert 'wbrag_requests_total{route="/search",status="422"} 1.0' in told
    assert "wbrag_questions_total 3.0" in told
    assert "wbrag_search_seconds_count 2.0" in told
    assert "wbrag_writeback_version 1.0" in told
    assert client.get("/health").json() == {
        "status": "ok",
        "versions": {"base": 1, "writeback": 1},
        "passages": 3,
        "units": len(UNITS),
    }


def test_a_new_version_loses_no_query(run: Path) -> None:
    served = Served(run, follow=0.02)
    key, answers = UNITS["harmful"]["id"], list[tuple[int, bool]]()
    with TestClient(app_of(served), base_url=HERE) as client:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answer = client.post("/search", json={"question": "Where does Tarnholm lie?", "k": 3})
                answers.append((answer.status_code, key in answer.text))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for one in askers:
            one.start()
        for _ in range(6):
            reject(run / "writeback", key, "to and fro")
            restore(run / "writeback", key)
        stop.set()
        for one in askers:
            one.join()
        assert len(answers) > 20
        assert {status for status, _ in answers} == {200}
        assert {there for _, there in answers} == {True, False}
        assert served.kb.writeback is not None
        served.kb.refresh()
        assert served.kb.writeback.version == current(run / "writeback").version == 13


def test_questions_that_wait_are_encoded_together_and_nobody_pays_for_another(made: Path) -> None:
    encoder, sizes, busy = Served(made).encoder, list[int](), threading.Event()
    plain = encoder.encode_queries

    def slow(texts: list[str]) -> Any:  # noqa: ANN401 - vectors
        sizes.append(len(texts))
        busy.wait(5)
        if "bad" in texts:
            raise ValueError("no direction")
        return plain(texts)

    encoder.encode_queries = slow  # type: ignore[method-assign]
    together, asked = Together(encoder), [["a"], ["b", "c"], ["bad"], ["d"], ["e"]]
    with ThreadPoolExecutor(len(asked)) as pool:
        waiting = [pool.submit(together, asked[0])]
        while not sizes:
            time.sleep(0.001)
        waiting += [pool.submit(together, one) for one in asked[1:]]
        while len(together._waiting) < 4:
            time.sleep(0.001)
        busy.set()
    for one, texts in zip(waiting, asked, strict=True):
        if texts == ["bad"]:
            assert isinstance(one.exception(), ValueError)
        else:
            assert (one.result() == plain(texts)).all()
    assert sizes[:2] == [1, 5]


# Doubts.


def kinds_of(name: str, told: dict[str, Any]) -> set[str]:
    return {one.kind for one in told[UNITS[name]["id"]]}


def test_each_kind_of_doubt_is_found_where_it_is() -> None:
    sources = {one: {"title": "t", "text": x["text"]} for x in UNITS.values() for one in x["source_ids"]}
    sources["p-0412"] = {"title": "Almira Trevane", "text": "Almira Trevane was a glass painter."}
    told = doubts_of(list(UNITS.values()), sources, {UNITS["good"]["id"]: (1, 1, 0), UNITS["harmful"]["id"]: (1, 0, 1)})
    assert kinds_of("good", told) == set()
    assert kinds_of("unfaithful", told) == {"unfaithful", "contradicting", "never read"}
    assert kinds_of("harmful", told) == {"harmful", "near-duplicate"}
    for some in told.values():
        assert [one.kind for one in some] == [kind for kind in KINDS if kind in {one.kind for one in some}]


WORDS = st.lists(st.sampled_from("oak elm ash 1609 1610 river lies".split()), min_size=1, max_size=5).map(" ".join)


@given(st.lists(st.tuples(st.sampled_from(["A", "B"]), WORDS), max_size=6))
def test_doubts_between_two_units_are_about_both(said: list[tuple[str, str]]) -> None:
    units = list({one["id"]: one for one in (unit(title, f"{text}.", ["s"]) for title, text in said)}.values())
    for pairs in (list(contradicting(units)), list(repeated(units))):
        there = {(one, other) for one, _, other in pairs}
        assert there == {(other, one) for one, other in there}
        assert all(one != other for one, other in there)
    texts = {one["id"]: (one["title"], re.sub(r"\d+", "#", one["text"])) for one in units}
    assert all(texts[one] == texts[other] for one, _, other in contradicting(units))


# The review of units.


def review_of(client: TestClient) -> tuple[dict[str, str], Any]:
    token = client.get("/review/api/session").json()["token"]

    def decide(name: str, what: str, **said: str) -> Any:  # noqa: ANN401 - a response
        return client.post(f"/review/api/units/{name}/{what}", json=said, headers={"X-CSRF-Token": token})

    return {name: one["id"] for name, one in UNITS.items()}, decide


def test_a_rejected_unit_is_not_found_and_an_undone_one_is(client: TestClient, run: Path) -> None:
    ids, decide = review_of(client)
    key = ids["harmful"]
    assert key in [hit["id"] for hit in found(client)]
    assert decide(key, "reject", why="it misleads").json() == {"version": 2, "id": key}
    assert key not in [hit["id"] for hit in found(client)]
    assert client.get("/review/api/units", params={"state": "rejected"}).json()["units"][0]["id"] == key
    near = client.get(f"/review/api/units/{ids['near-duplicate']}").json()
    assert "near-duplicate" in [one["kind"] for one in near["doubts"]]
    assert decide(key, "restore").json() == {"version": 3, "id": key}
    assert key in [hit["id"] for hit in found(client)]
    assert decisions_of(run / "writeback") == {}


def test_an_edited_unit_has_another_text_until_it_is_undone(
    client: TestClient, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, decide = review_of(client)
    text = "Tarnholm lies far inland."
    answer = decide(ids["harmful"], "edit", title="Tarnholm", text=text, why="clearer").json()
    assert text in [hit["text"] for hit in found(client)]
    told = client.get(f"/review/api/units/{answer['id']}").json()
    assert (told["state"], told["decision"]["why"], told["sources"][0]["id"]) == ("edited", "clearer", "p-0077")
    same = decide(answer["id"], "edit", title="Tarnholm", text="Tarnholm lies inland.", why="as it was")
    assert same.json()["detail"].endswith(f"what unit {ids['harmful']!r} said before it was edited; restore it")
    again = decide(answer["id"], "edit", title="Tarnholm", text="Tarnholm is inland.", why="shorter").json()
    assert decide(again["id"], "restore").json()["id"] == ids["harmful"]
    assert "Tarnholm lies inland." in [hit["text"] for hit in found(client)]
    assert decide(ids["good"], "accept").status_code == 200
    assert program.main(["kb", "log", str(run / "writeback")]) == 0
    second, _, fourth, last = capsys.readouterr().out.splitlines()[2:]
    assert second.endswith(f"edited {ids['harmful']} into {answer['id']}: clearer")
    assert fourth.endswith(f"restored {ids['harmful']}")
    assert last.endswith(f"accepted {ids['good']} (current)")


def test_an_accepted_unit_leaves_the_queue(client: TestClient) -> None:
    ids, decide = review_of(client)
    queue = client.get("/review/api/units").json()
    assert [one["id"] for one in queue["units"]][-1] != ids["good"]
    assert ids["good"] not in [one["id"] for one in queue["units"]]
    first = queue["units"][0]
    assert first["doubts"][0]["kind"] == "unfaithful"
    assert decide(first["id"], "accept").status_code == 200
    assert first["id"] not in [one["id"] for one in client.get("/review/api/units").json()["units"]]
    assert client.get(f"/review/api/units/{first['id']}").json()["state"] == "accepted"


def test_a_unit_that_is_not_live_is_shown_with_what_became_of_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> str:
        assert program.main(list(words)) == 0
        return capsys.readouterr().out

    ids, store = {name: one["id"] for name, one in UNITS.items()}, run / "writeback"
    reject(store, ids["good"], "it says too little")
    new = edit(store, run / "base", ids["harmful"], "Tarnholm", "Tarnholm is inland.", "shorter")
    delete(store, [ids["attack"]], {"made_by": "somebody"})
    by_trace = told("trace", str(run), ids["good"])
    assert by_trace == told("units", "show", str(run), ids["good"])
    assert "Almira Trevane was a glass painter." in by_trace
    assert re.search(r"not live\n\nrejected 20.*: it says too little\n", by_trace)
    after = next(one.unit["id"] for one in decisions_of(store).values() if one.state == "edited")
    since = f"not live since version {new.version}: {after} stands in its place"
    assert since in told("units", "show", str(run), ids["harmful"])
    assert "not live since version 4, made by somebody: training does not" in told("trace", str(run), ids["attack"])
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, told("units", "show", str(run), ids["harmful"]).splitlines())) <= 40
    waits = unit("Tarn", "Tarn is wet.", ["p-0077"])
    write_rows(run / WAITING, schema.UNIT, tables_of([waits], schema.UNIT))
    assert "waits for a person" in " ".join(told("units", "show", str(run), waits["id"]).split())
    assert program.main(["trace", str(run), "wb-0"]) == 2
    assert "no version that is kept has unit 'wb-0'" in capsys.readouterr().err


def test_a_unit_that_waits_alone_begins_the_store_once_it_is_accepted(run: Path) -> None:
    shutil.rmtree(run / "writeback")
    waits = unit("Tarnholm", "Tarnholm lies inland.", ["p-0077"])
    write_rows(run / WAITING, schema.UNIT, tables_of([waits], schema.UNIT))
    assert program.main(["units", "list", str(run)]) == 0
    assert program.main(["units", "accept", str(run), "wb-0"]) == 2
    assert program.main(["units", "accept", str(run), waits["id"], "--why", "read it"]) == 0
    with KnowledgeBase.open(run) as kb:
        assert waits["id"] in [one.id for one in kb.search_one("Where does Tarnholm lie?", 3)]
    assert decisions_of(run / "writeback")[waits["id"]].why == "read it"


def test_a_decision_takes_a_reason_a_unit_and_the_token(client: TestClient, run: Path) -> None:
    ids, decide = review_of(client)
    good = ids["good"]
    assert decide(good, "reject").json()["detail"].startswith("why: to reject a unit takes a reason")
    assert decide(good, "edit", why="x", title="t").status_code == 422
    assert decide(good, "burn", why="x").status_code == 422
    assert decide("wb-0", "accept").json() == {"detail": "version 1 has no unit 'wb-0'"}
    assert decide(good, "restore").status_code == 409
    for token in ("", "0" * 64, "\u00fc"):
        answer = client.post(
            f"/review/api/units/{good}/accept", json={}, headers={"X-CSRF-Token": token.encode("utf-8")}
        )
        assert answer.status_code == 403
    assert client.get("/review/api/units/wb-0").status_code == 404
    assert current(run / "writeback").version == 1


def test_lists_are_filtered_sorted_and_cut(reading: TestClient) -> None:
    def listed(**given: object) -> list[str]:
        told = reading.get("/review/api/units", params={"state": "live", **given})  # type: ignore[arg-type]
        return [one["id"] for one in told.json()["units"]]

    ids = {name: one["id"] for name, one in UNITS.items()}
    assert set(listed()) == set(ids.values())
    assert listed(kind="harmful") == [ids["harmful"]]
    assert listed(find="glass TREVANE") == [ids["good"]]
    assert listed(sort="id") == sorted(ids.values())
    assert listed(sort="worse")[0] == ids["harmful"]
    assert listed(sort="id", offset=2, limit=2) == sorted(ids.values())[2:4]


def test_sources_are_those_of_the_pair_that_is_served(client: TestClient, run: Path) -> None:
    delete(run / "base", ["p-0412"], {})  # as an update does that is not ended
    told = client.get(f"/review/api/units/{UNITS['good']['id']}").json()
    assert told["sources"][0]["title"] == "Almira Trevane"


def test_a_unit_is_shown_with_all_that_bears_on_it(reading: TestClient) -> None:
    told = reading.get(f"/review/api/units/{UNITS['good']['id']}").json()
    assert told["sources"][0]["sentences"] == [
        {"text": "Almira Trevane was a glass painter.", "marked": True},
        {"text": "She kept a shop by the river.", "marked": False},
    ]
    (example,) = told["examples"]
    assert (example["id"], example["s_nr"], example["s_rag"], example["kept_ranks"]) == ("train-17", 0.0, 1.0, [2])
    (question,) = told["questions"]
    assert (question["score_base"], question["score_writeback"], question["units"][0]["rank"]) == (0.0, 1.0, 1)
    assert reading.get(f"/review/api/units/{UNITS['attack']['id']}").json()["text"] == ATTACK


def test_runs_lie_side_by_side(run: Path, reading: TestClient) -> None:
    other = shutil.copytree(run, run.parent / "other")
    shutil.copytree(run, run / "evaluations" / "later")
    runs = runs_near(run)
    assert list(runs) == ["other", "run", "run/evaluations/later"]
    assert runs["run"].told["all"]["n"] == 3
    told = changed(runs, "run", "", "worse", "", 0, 10)
    assert (told["counts"], [one["id"] for one in told["questions"]]) == ({"better": 2, "worse": 1}, ["test-2"])
    assert changed(runs, "run", "other", "all", "", 0, 2)["counts"] == {"same": 3}
    assert len(changed(runs, "run", "other", "all", "", 2, 2)["questions"]) == 1
    shutil.rmtree(other)
    (run / "evaluations" / "later" / "config.yaml").write_text("k: 3")
    assert list(runs_near(run)) == ["run"]
    answer = reading.get("/review/api/questions", params={"a": "../../etc"})
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("there is no run '../../etc'; there are run")


# The command line, a store alone, a cluster.


def test_what_cannot_be_served_is_refused(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*words: str) -> str:
        assert main([*words]) == 2
        return capsys.readouterr().err

    assert "no such folder" in refused(str(tmp_path / "nothing"))
    assert "'0.0.0.0' is reached from other machines" in refused(str(made), "--host", "0.0.0.0")
    assert "'WBRAG_NO_KEY' is not set" in refused(str(made), "--api-key-env", "WBRAG_NO_KEY")
    assert "is no run's folder with units" in refused(str(made / "base"), "--review")
    monkeypatch.setenv("KB_KEY", "se\u00e7ret key")
    told = refused(str(made), "--api-key-env", "KB_KEY")
    assert "cannot stand in a header" in told
    assert "ret" not in told.replace("characters", "")
    monkeypatch.setenv("KB_KEY", f" {KEY}\n")
    assert key_of("KB_KEY") == KEY


def test_the_command_serves_until_it_is_stopped(made: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(ROOT / "jobs" / "serve.py"), str(made), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        assert "3 passages (version 1), 6 units (version 1)" in server.stdout.readline()
        asked, deadline = Remote(f"http://127.0.0.1:{port}"), time.monotonic() + 20
        while True:
            try:
                assert len(asked.hits(["Where does Tarnholm lie?"], 2)[0]) == 2
                break
            except OSError:  # it says where it will be before it is there
                assert time.monotonic() < deadline
                time.sleep(0.05)
        second = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=30)
        assert (second.returncode, "address already in use" in second.stderr.lower()) == (1, True)
        assert second.stderr.endswith(f"error: cannot listen at 127.0.0.1:{port}; give another --port\n")
        server.send_signal(signal.SIGINT)
        assert (server.communicate(timeout=20)[1], server.returncode) == ("", 130)
    finally:
        server.kill()


def test_a_store_alone_has_no_review(made: Path) -> None:
    with TestClient(app_of(Served(made / "base")), base_url=HERE) as client:
        assert {hit["source"] for hit in found(client)} == {"base"}
        assert client.get("/review").status_code == 404
        assert client.get("/health").json()["versions"] == {"base": 1}
    with pytest.raises(ConfigError, match="nothing to judge"):
        app_of(Served(made / "base"), review=True)


def test_a_cluster_is_given_the_same_application(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve itself is not started: what it calls on each replica is."""
    told = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())["applications"][0]
    assert told["import_path"] == "wbrag.serve.on_ray:application"
    settings = Settings(**told["args"] | {"kb": str(made)})
    monkeypatch.setenv(settings.api_key_env, KEY)
    with TestClient(replica(settings)(), base_url="http://cluster") as client:
        assert client.get("/search?question=x").status_code == 401
        assert client.get("/search?question=x", headers=WITH_KEY).status_code == 200


def test_editing_by_another_process_is_seen(client: TestClient, run: Path) -> None:
    accept(run / "writeback", UNITS["attack"]["id"], "")
    made = edit(run / "writeback", run / "base", UNITS["harmful"]["id"], "Tarnholm", "It lies inland.", "why")
    told = client.get("/review/api/units", params={"state": "edited"}).json()
    assert (told["version"], [one["text"] for one in told["units"]]) == (made.version, ["It lies inland."])


def test_the_address_alone_leads_to_a_page(made: Path, client: TestClient) -> None:
    assert client.get("/", headers={"Authorization": ""}).url.path == "/review"
    with TestClient(app_of(Served(made / "base")), base_url=HERE) as other:
        assert other.get("/").url.path == "/docs"


def test_where_no_server_answers_the_url_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(
        ConnectionError, match=rf"{url}/search: no answer \(.*refused\); is `wbrag serve` running there"
    ):
        Remote(url).hits(["x"], 1)


def test_a_url_is_a_server_and_anything_else_a_folder(made: Path) -> None:
    assert isinstance(hits_of("https://kb.example"), Remote)
    assert isinstance(hits_of(made), Served)
    assert json.dumps(vars(hits_of("http://kb.example/", KEY)))  # plain values, so that it pickles
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
