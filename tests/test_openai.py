"""The client of OpenAI-compatible endpoints against a server in this process that fails in every way it can."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from canaries import KEY, SECRETS, leaks
from test_pipeline import settings, world

from wbrag.algorithm import train_example
from wbrag.command.check import check
from wbrag.config import Backbone, ConfigError, Gates, Method, TrainConfig, api_key
from wbrag.data.benchmarks import OverErrorBudget
from wbrag.llm import Reply, Token
from wbrag.llm.openai import BadReply, Endpoint, EndpointError, reply_of
from wbrag.llm.scripted import read
from wbrag.methods import Answer, Tools, check_method, open_method
from wbrag.metrics import acc
from wbrag.prompts import Prompts
from wbrag.run.inputs import check_backbone, check_secrets
from wbrag.run.job import Session
from wbrag.run.pipeline import train
from wbrag.schema import Document, Example

Json = dict[str, Any]


def completion(text: str, logprobs: list[tuple[str, float]] | None = None) -> Json:
    entries = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in logprobs or []]
    choice: Json = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if logprobs is not None:
        choice["logprobs"] = {"content": entries}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


class Server(ThreadingHTTPServer):
    """Plays `faults` one a request, then answers with `respond(body)`; keeps every request's body and headers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.requests: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.refuses: dict[str, str] = {}  # a key of a request -> what is said of it, with status 400
        self.retry_after = "0"
        self.respond: Callable[[Json], Json] = lambda body: completion(read(body["messages"][0]["content"]))
        self.flying, self.most, self.lock = 0, 0, threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken pipe is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            fault = self.server.faults.pop(0) if self.server.faults else ""
            self.server.requests.append(body)
            self.server.times.append(time.monotonic())
            self.server.paths.append(self.path)
            if not fault and (refused := [told for key, told in self.server.refuses.items() if key in body]):
                fault = f"400 {refused[0]}"
            self.server.headers.append({key.lower(): value for key, value in self.headers.items()})
            self.server.flying += 1
            self.server.most = max(self.server.most, self.server.flying)
        try:
            self.play(fault, body)
        finally:
            with self.server.lock:
                self.server.flying -= 1

    def play(self, fault: str, body: Json) -> None:
        status, _, more = fault.partition(" ")
        if fault == "reset":  # RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "hang":
            time.sleep(1.5)
        elif fault == "trickle":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        elif status.isdigit():
            self.reply(
                int(status), b'{"error": {"message": "%s"}}' % more.encode(), {"Retry-After": self.server.retry_after}
            )
        elif fault == "junk":
            self.reply(200, b'{"choices": [{"mess')
        elif fault == "other":
            self.reply(200, b'{"object": "list", "data": []}')
        elif fault == "slow":
            time.sleep(0.05)
            self.reply(200, json.dumps(self.server.respond(body)).encode())
        else:
            self.reply(200, json.dumps(self.server.respond(body)).encode())

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def backbone(server: Server, **changes: Any) -> Backbone:  # noqa: ANN401
    settings = {"name": "remote", "kind": "openai", "model": "m", "base_url": server.url, "retries": 3, "timeout_s": 30}
    return Backbone(**(settings | changes))


def patience(fault: str) -> float:
    """A timeout that a stalled server outlasts, and a slow machine does not need."""
    return 0.5 if fault in ("hang", "trickle") else 30.0


def chats(server: Server, contents: list[str], settings: Backbone | None = None, **options: Any) -> list[Any]:  # noqa: ANN401
    """What becomes of these chats, asked at once: a Reply or an exception each."""

    async def work() -> list[Any]:
        made = Endpoint(settings or backbone(server))
        async with made.client:
            return await asyncio.gather(*[made.chat(c, 8, **options) for c in contents], return_exceptions=True)

    return asyncio.run(work())


def test_a_request_is_greedy_and_carries_key_and_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-canary")
    settings = backbone(server, api_key_env="THE_KEY", max_tokens_key="max_completion_tokens")
    assert chats(server, ["hello"], settings) == [Reply("unknown", 7, 3)]
    message = [{"role": "user", "content": "hello"}]
    expected = {"model": "m", "messages": message, "temperature": 0, "max_completion_tokens": 8}
    assert server.requests == [expected]
    assert server.headers[0]["authorization"] == "Bearer sk-canary"


@pytest.mark.parametrize("fault", ["429 slow down", "500 oops", "503 x", "reset", "hang", "trickle", "junk", "other"])
def test_what_passes_is_tried_again_which_is_told_once(
    server: Server, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults = [fault, fault]
    caplog.set_level("INFO")
    assert chats(server, ["hello"], backbone(server, timeout_s=patience(fault))) == [Reply("unknown", 7, 3)]
    assert len(server.requests) == 3
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith(("openai", "wbrag"))]
    assert told.startswith(f"{server.url}/chat/completions: ")
    assert told.endswith("; what is not answered is asked again")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("429 slow down", "status 429: .*slow down"),
        ("500 oops", "status 500: .*oops"),
        ("reset", "(?:ReadError|RemoteProtocolError)"),
        ("hang", r"ReadTimeout: no whole reply within 0\.5 s"),
        ("junk", "JSONDecodeError: .*status 200"),
        ("other", "BadReply: not a chat completion"),
    ],
)
def test_what_does_not_pass_fails_with_attempts_and_reason(server: Server, fault: str, told: str) -> None:
    server.faults = [fault] * 4
    (error,) = chats(server, ["hello"], backbone(server, timeout_s=patience(fault)))
    assert isinstance(error, EndpointError)
    assert str(error).startswith(f"{server.url}/chat/completions: no answer in 4 attempts; the last: ")
    assert error.args
    with pytest.raises(EndpointError, match=told):
        raise error
    assert str(error).endswith("backbone.retries and timeout_s give them longer (model m)")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("401 bad key", "the key (backbone.api_key_env names its variable) and backbone.base_url"),
        ("400 too long", "backbone.model, max_model_len, answer_tokens and max_tokens_key"),
        ("404 no such model", "backbone.model and base_url"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server: Server, fault: str, check: str) -> None:
    server.faults = [fault]
    (error,) = chats(server, ["hello"])
    assert f"refuses: status {fault.partition(' ')[0]}" in str(error)
    assert fault.partition(" ")[2] in str(error)
    assert str(error).endswith(f"; check {check} (model m)")
    assert len(server.requests) == 1


def test_no_more_requests_fly_than_are_allowed(server: Server) -> None:
    server.faults = ["slow"] * 20
    replies = chats(server, [f"hello {i}" for i in range(20)], backbone(server, max_num_seqs=3))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert 1 <= server.most <= 3


def test_one_call_in_ten_failing_loses_nothing(server: Server) -> None:
    server.faults = (["500 oops"] + [""] * 9) * 6
    assert chats(server, [f"hello {i}" for i in range(50)]) == [Reply("unknown", 7, 3)] * 50
    assert len(server.requests) == 56


def test_an_outage_fails_one_example_with_its_reason_and_not_the_next(server: Server) -> None:
    document = Document("d1", "Alder bridge", "The Alder bridge is in Norvale.")
    examples = [Example(f"q{i}", "Where is the Alder bridge?", ("Norvale",)) for i in range(2)]

    async def work() -> list[Json]:
        llm = Endpoint(backbone(server, retries=1))
        tools = Tools(llm, Prompts(), "factoid", 16)
        rows = []
        async with llm.client:
            for example in examples:
                rows.append(await train_example(example, [document], tools, Gates(), acc))
        return rows

    server.faults = ["500 oops"] * 2
    lost, kept = asyncio.run(work())
    assert lost["status"] == "failed"
    assert lost["reason"].startswith(f"EndpointError: {server.url}/chat/completions: no answer in 2 attempts")
    assert (kept["status"], kept["unit_title"]) == ("kept", "The Alder bridge")


def test_a_whole_run_over_a_flaky_endpoint_loses_nothing_and_tells_no_secret(
    server: Server, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY, SECRETS[KEY])
    server.faults = ["", *["500 oops", "", "", "", "reset", "", "", "", "429 wait", "junk"] * 8]
    data, remote = world(tmp_path / "world", train_rows=20, test_rows=8), backbone(server, retries=8, api_key_env=KEY)
    metrics = train(settings(data, tmp_path / "run", backbone=remote), session)
    assert {told["authorization"] for told in server.headers} == {f"Bearer {SECRETS[KEY]}"}
    assert leaks(tmp_path, *capfd.readouterr()) == []
    assert metrics["questions"] == {"n": 8, "failed": 0}
    construction, cost = metrics["construction"], metrics["cost"]
    assert (construction["examples"], construction["failed"]) == (20, 0)
    assert construction["kept"] > 0
    spent = 81 - len(server.faults)
    failed = sum(bool(fault) for fault in ["", *["500", "", "", "", "reset", "", "", "", "429", "junk"] * 8][:spent])
    answered = cost["training"]["calls"] + cost["evaluation"]["calls"] + 1  # the one at the start
    assert len(server.requests) == answered + failed  # no call that succeeded was made again


def test_what_an_outage_failed_is_asked_again_by_the_same_call_and_nothing_else_is(
    server: Server, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server that fails quotes the key that it was sent; no file and no line does."""
    data = world(tmp_path / "world", train_rows=12, test_rows=4)
    monkeypatch.setenv(KEY, SECRETS[KEY])

    def cfg(name: str) -> TrainConfig:
        remote = backbone(server, retries=0, api_key_env=KEY)
        return settings(data, tmp_path / name, backbone=remote, cache_dir=str(tmp_path / f"cache-{name}"))

    results = train(cfg("straight"), session)["results"]
    straight = len(server.requests)
    # The first request of all asks whether the endpoint works.
    server.faults = ["", *[f"500 down, no more for Bearer {SECRETS[KEY]}"] * 5]
    with pytest.raises(OverErrorBudget, match=r"5 of 12 rows failed .*; the same command asks for them again") as told:
        train(cfg("outage"), session)
    assert not (tmp_path / "outage" / "units.parquet").exists()
    assert "no more for Bearer (the key)" in str(told.value)
    assert leaks(tmp_path, *capfd.readouterr(), "".join(traceback.format_exception(told.value))) == []
    metrics = train(cfg("outage"), session)
    assert metrics["results"] == results
    assert metrics["construction"]["failed"] == 0
    assert len(server.requests) == 2 * straight + 5 + 1  # what failed, and the one at the start
    made = [(tmp_path / name / "units.parquet").read_bytes() for name in ("straight", "outage")]
    assert made[0] == made[1]


def test_token_log_probabilities_come_back_as_pieces_of_the_text(server: Server) -> None:
    server.respond = lambda body: completion("Nor vale", [("Nor", -0.1), (" vale", -0.5), ("<|end|>", -0.01)])
    ((first, second),) = [reply.tokens for reply in chats(server, ["hello"], logprobs=True)]
    assert (first.text, first.logprob, second.text, second.logprob) == ("Nor", -0.1, " vale", -0.5)
    assert server.requests[0]["logprobs"] is True


def test_an_answer_can_be_continued(server: Server) -> None:
    chats(server, ["hello"], prefix="It is")
    (body,) = server.requests
    assert body["messages"][-1] == {"role": "assistant", "content": "It is"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_a_character_of_several_tokens_is_one_piece() -> None:
    euro = "€".encode()
    entries = [{"token": "?", "bytes": list(part), "logprob": p} for part, p in ((euro[:1], -0.2), (euro[1:], -0.4))]
    body = completion("€5")
    body["choices"][0]["logprobs"] = {"content": [*entries, {"token": "5", "logprob": -0.1}]}
    assert [(t.text, t.logprob) for t in reply_of(body, logprobs=True).tokens] == [("€", -0.4), ("5", -0.1)]


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": 5}}]}, {"error": "x"}],
)
def test_any_other_json_is_no_reply(body: object) -> None:
    with pytest.raises(BadReply, match="not a chat completion"):
        reply_of(body, logprobs=False)


def test_log_probabilities_that_are_not_given_are_missed() -> None:
    with pytest.raises(BadReply, match="of 0 tokens do not cover the reply 'hello'"):
        reply_of(completion("hello"), logprobs=True)
    bare = {"choices": [{"message": {"content": "5"}, "logprobs": {"content": [{"token": "5", "logprob": -0.1}]}}]}
    assert reply_of(bare, logprobs=True).tokens == (Token("5", -0.1),)


def test_tokens_are_those_of_the_answer() -> None:
    pieces = [("<think>", -0.1), ("Rome?", -0.2), ("</think>", -0.3), ("Par", -0.4), ("is", -0.5)]
    reply = reply_of(completion("".join(text for text, _ in pieces), pieces), logprobs=True)
    assert (reply.text, reply.tokens) == ("Paris", (Token("Par", -0.4), Token("is", -0.5)))


def test_the_pause_is_what_the_endpoint_asks_for(server: Server) -> None:
    server.faults, server.retry_after = ["429 slow down"], "1"
    assert chats(server, ["hello"]) == [Reply("unknown", 7, 3)]
    first, second = server.times
    assert 1.0 <= second - first < 3.0


def test_an_attempt_ends_in_time_however_long_bytes_trickle(server: Server) -> None:
    server.faults = ["trickle"]
    (error,) = chats(server, ["hello"], backbone(server, timeout_s=0.5, retries=0))
    assert "no answer in 1 attempt; the last: ReadTimeout: no whole reply within 0.5 s" in str(error)


def message(content: object, finish: str = "stop", **more: object) -> Json:
    made = completion("")
    made["choices"][0] |= {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}
    return made


NO_ANSWERS = [
    (
        message(None, "length", reasoning_content="The user asks"),
        "no text but reasoning in the reply, finish_reason=len",
    ),
    (
        message("", "length", reasoning="The user asks"),
        "no text but reasoning in the reply, finish_reason=length; raise",
    ),
    (message(None, reasoning_content="It is Rome"), "no text but reasoning in the reply, finish_reason=stop"),
    (message("<think>The user asks", "length"), "the reply ends inside its reasoning, '<think>The user asks'; raise"),
    (message("<think>Rome?</think>\n", "length"), "no text but reasoning in the reply, finish_reason=length"),
    (message(None, "length"), "no text in the reply, finish_reason=length; raise backbone.thinking_tokens"),
    (message(" \n"), "no text in the reply, finish_reason=stop; check backbone.model"),
    (message([]), "no text in the reply, finish_reason=stop; check backbone.model"),
    (
        message([{"type": "thinking", "thinking": "Rome?"}], "length"),
        "no text but reasoning in the reply, finish_reason=len",
    ),
    (message([{"type": "reasoning", "text": "Rome?"}]), "no text but reasoning in the reply, finish_reason=stop"),
    (message([{"type": "refusal", "refusal": "No."}]), "the model declines to answer: 'No.'"),
    (message("The town of", "abort"), "the reply was withheld, finish_reason=abort"),
    (message("The town of", "insufficient_system_resource"), "the reply was withheld, finish_reason=insufficient"),
    (message("The town of", "content_filter"), "the reply was withheld, finish_reason=content_filter"),
    (message(None, "SAFETY"), "the reply was withheld, finish_reason=SAFETY"),
    (message(None, refusal="I cannot help with that."), "the model declines to answer: 'I cannot help with that.'"),
    (message(None, "tool_calls", tool_calls=[{}]), "no text in the reply, finish_reason=tool_calls"),
]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "text", "text": "Paris"},
        [{"type": "text", "text": {"value": "Paris", "annotations": []}}],
        [None, {"type": "reasoning", "text": "Rome?"}, {"type": "output_text", "text": "Paris"}],
    ],
)
def test_text_is_found_in_every_form_of_content(content: object) -> None:
    for finish, cut in {"stop": False, "model_length": True, "MAX_TOKENS": True, "max_output_tokens": True}.items():
        body = message(content, finish) | {"usage": {"prompt_tokens": "12", "completion_tokens": "n/a"}}
        reply = reply_of(body, False)
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cut) == ("Paris", 12, 0, cut)


@pytest.mark.parametrize(("body", "told"), NO_ANSWERS)
def test_a_reply_without_an_answer_is_no_answer_and_says_why(server: Server, body: Json, told: str) -> None:
    server.respond = lambda _: body
    (error,) = chats(server, ["hello"])
    assert isinstance(error, EndpointError)
    assert str(error).startswith(f"{server.url}/chat/completions: {told}")
    assert len(server.requests) == 1  # asked again it would say the same
    with pytest.raises(ConfigError, match=r"does not work as configured: .*chat/completions: "):
        check_method(Method(name="naive"), backbone(server))


@pytest.mark.parametrize(
    ("body", "text", "cut"),
    [
        (message("<think>Is it Rome?</think>\n\nParis"), "Paris", False),
        (message("Paris", reasoning_content="Is it Rome?"), "Paris", False),
        (message("Is it Rome?</think>Paris"), "Paris", False),
        (message([{"type": "text", "text": "Par"}, {"type": "text", "text": "is"}]), "Paris", False),
        (
            message([{"type": "thinking", "thinking": [{"text": "Rome?"}]}, {"type": "text", "text": "Paris"}]),
            "Paris",
            False,
        ),
        (message(["Paris"]), "Paris", False),
        (message("Paris is the", "length"), "Paris is the", True),
        (message("Paris is the", "max_tokens"), "Paris is the", True),
        (message("Paris", "eos", refusal=None), "Paris", False),
    ],
)
def test_the_answer_is_the_text_without_reasoning_and_a_cut_one_is_told(body: Json, text: str, cut: bool) -> None:
    reply = reply_of(body, logprobs=False)
    assert (reply, reply.cut) == (Reply(text, 7, 3), cut)


def test_a_thinking_model_has_more_tokens_for_each_reply_and_less_for_its_prompt(server: Server) -> None:
    settings = backbone(server, thinking_tokens=500, max_model_len=2_000)
    chats(server, ["hello"], settings)
    assert server.requests[0]["max_tokens"] == 508
    assert Endpoint(settings).max_model_len == 1_500
    with pytest.raises(ConfigError, match=r"thinking_tokens=2000: backbone\.max_model_len=2000 leaves no room"):
        check_backbone(replace(settings, thinking_tokens=2_000))


def test_a_continuation_may_be_nothing(server: Server) -> None:
    server.respond = lambda _: message("")
    assert chats(server, ["hello"], prefix="It is Paris.") == [Reply("", 7, 3)]


def test_once_a_reply_shows_that_prompts_open_the_reasoning_one_cut_inside_it_is_none(server: Server) -> None:
    replies = iter([message("Okay.</think>Paris"), message("Okay, is it", "length")])
    server.respond = lambda _: next(replies)
    first, second = chats(server, ["hello", "again"], backbone(server, max_num_seqs=1))
    assert first.text == "Paris"
    assert "the reply ends inside its reasoning, 'Okay, is it'" in str(second)


def test_a_model_that_thinks_longer_than_an_answer_may_be_is_found_at_the_start(server: Server) -> None:
    def respond(body: Json) -> Json:
        short = body["max_tokens"] < 100
        return message("Okay, one word", "length") if short else message("Okay, one word.</think>Yes")

    server.respond = respond
    with pytest.raises(
        ConfigError, match=r"ends inside its reasoning, 'Okay, one word'; raise backbone\.thinking_tokens"
    ):
        check_method(Method(name="naive"), backbone(server))
    server.respond = lambda _: message("Yes, and then some", "length")  # it rambles, and thinks nothing
    check_method(Method(name="naive"), backbone(server))


REFUSALS = {
    "temperature": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is.",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
    "max_completion_tokens": "max_completion_tokens: Extra inputs are not permitted",
}


@pytest.mark.parametrize(
    ("refused", "limit", "sent"),
    [
        (["temperature"], "max_tokens", {"max_tokens": 8}),
        (["max_tokens"], "max_tokens", {"max_completion_tokens": 8, "temperature": 0}),
        (["temperature", "max_tokens"], "max_tokens", {"max_completion_tokens": 8}),
        (["max_completion_tokens"], "max_completion_tokens", {"max_tokens": 8, "temperature": 0}),
    ],
)
def test_keys_that_a_model_refuses_are_left_out_or_renamed_and_told_once(
    server: Server, refused: list[str], limit: str, sent: Json, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses = {key: REFUSALS[key] for key in refused}
    settings = backbone(server, max_tokens_key=limit, max_num_seqs=1)
    assert chats(server, ["hello", "again"], settings) == [Reply("unknown", 7, 3)] * 2
    assert len(server.requests) == 2 + len(refused)  # it has learnt for the second
    asked = {key: value for key, value in server.requests[-1].items() if key not in ("model", "messages")}
    assert asked == sent
    check_method(Method(name="naive"), settings)
    told = " ".join(caplog.messages)
    assert told.count("refuses temperature 0") == ("temperature" in refused)
    assert told.count(f"in place of max_tokens_key={limit}") == (limit in refused)


def test_a_limit_that_is_refused_by_either_name_and_one_that_is_too_low_are_refusals(server: Server) -> None:
    server.refuses = {key: REFUSALS[key] for key in ("max_tokens", "max_completion_tokens")}
    (error,) = chats(server, ["hello"])
    assert "refuses: status 400" in str(error)
    assert len(server.requests) == 2
    server.refuses = {
        "max_tokens": "Could not finish the message because max_tokens was reached. Please try a higher one."
    }
    (error,) = chats(server, ["hello"])
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "tail", ["", "/", "//", "/chat/completions", "/chat/completions/", "?api-version=1", "/?api-version=1"]
)
def test_a_base_url_is_taken_as_people_write_it(server: Server, tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-canary")
    settings = backbone(server, base_url=f" {server.url}{tail} ", api_key_env="THE_KEY")
    assert chats(server, ["hello"], settings) == [Reply("unknown", 7, 3)]
    versioned = "api-version" in tail
    assert server.paths == ["/v1/chat/completions" + "?api-version=1" * versioned]
    assert server.headers[0].get("api-key") == ("sk-canary" if versioned else None)  # Azure's


@pytest.mark.parametrize(
    "query",
    ["key=sk-canary", "api-version=1&api_key=sk-canary", "Ocp-Apim-Subscription-Key=sk-canary", "sig=sk-canary"],
)
def test_a_key_in_the_url_is_refused_and_not_repeated(query: str) -> None:
    remote = Backbone(name="o", kind="openai", model="m", base_url=f"https://host.example/v1?{query}")
    with pytest.raises(ConfigError, match=r"^backbone\.base_url: a URL with a key among its parameters") as refused:
        check_secrets(TrainConfig(backbone=remote))
    assert "sk-canary" not in str(refused.value)
    check_secrets(
        TrainConfig(backbone=replace(remote, base_url="https://host.example/v1?api-version=2&deployment=key"))
    )


def test_more_keys_are_sent_with_every_request(server: Server) -> None:
    more = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": 0.6}
    chats(server, ["hello"], backbone(server, extra_body=more))
    assert server.requests[0] == server.requests[0] | more


def test_a_quota_that_is_used_up_is_not_waited_for(server: Server) -> None:
    server.faults, server.retry_after = ['429 x", "code": "insufficient_quota'], "60"
    (error,) = chats(server, ["hello"])
    assert "refuses: status 429" in str(error)
    assert "the quota" in str(error)


def test_the_start_waits_no_longer_than_a_check_may_take(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wbrag.llm.openai.CHECK_SECONDS", 0.5)
    server.faults, server.retry_after = ["429 the day is over"] * 7, "30"
    with pytest.raises(ConfigError, match=r"no answer in 0\.5 s; the last: status 429: .*the day is over"):
        check_method(Method(name="naive"), backbone(server, timeout_s=0.4))


@pytest.mark.parametrize("after", ["3600", "1e400", formatdate(4e9, usegmt=True)])
def test_a_pause_that_is_too_long_is_not_waited_for_and_told(server: Server, after: str) -> None:
    server.faults, server.retry_after = ["503 closed"] * 7, after
    (error,) = chats(server, ["hello"])
    assert "no answer in 1 attempt; the last: status 503: " in str(error)
    assert f'closed"}}}} (Retry-After: {after}); check' in str(error)


def test_a_pause_may_be_a_date(server: Server) -> None:
    server.faults = ["429 slow down"]
    server.retry_after = formatdate(time.time() + 2, usegmt=True)
    assert chats(server, ["hello"]) == [Reply("unknown", 7, 3)]
    first, second = server.times
    assert 0.5 < second - first < 4.0


def test_the_key_is_read_without_its_newline_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = backbone(server, api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", "sk-canary\n")
    server.faults = ["401 Incorrect API key provided: Bearer sk-canary", "401 " + "x" * 160 + "sk-canary"]
    for _ in range(2):
        (error,) = chats(server, ["hello"], settings)
        assert "refuses: status 401" in str(error)
        assert "sk-" not in "".join(traceback.format_exception(error))
    assert [told["authorization"] for told in server.headers] == ["Bearer sk-canary"] * 2
    for written in ('"sk-canary"', " Bearer sk-canary\r\n", "'sk-canary' "):
        monkeypatch.setenv("THE_KEY", written)
        assert api_key("backbone", settings.api_key_env) == "sk-canary"
    for bad in ("sk-\ncanary", "sk-canary…", " \n", "sk- canary", "\ufeffsk-canary", "sk-can\x07ary", '""'):
        monkeypatch.setenv("THE_KEY", bad)
        with pytest.raises(ConfigError, match="api_key_env='THE_KEY'") as refused:
            api_key("backbone", settings.api_key_env)
        assert "sk-" not in str(refused.value)


def test_no_key_is_sent_where_none_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert chats(server, ["hello"]) == [Reply("unknown", 7, 3)]
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize("named", ["localhost,127.0.0.1,::1/128", " ,127.0.0.1, ,[::1]:80,", "*"])
def test_proxy_settings_that_this_address_needs_not_do_no_harm(
    server: Server, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("NO_PROXY", named)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")  # its package is not installed
    check_method(Method(name="naive"), backbone(server))


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ("nonsense://u:sek-ret@127.0.0.1:1080", "nonsense"),
        ("socks5://u:sek-ret@127.0.0.1:1080", "socks"),
        ("http://u:sek-ret#x@127.0.0.1:1080", "one of them is no URL"),
    ],
)
def test_proxy_settings_that_no_client_can_have_are_named_without_their_password(
    server: Server, monkeypatch: pytest.MonkeyPatch, proxy: str, told: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match=rf"ALL_PROXY, NO_PROXY and SSL_CERT_FILE as set: .*{told}") as refused:
        check_method(Method(name="naive"), backbone(server))
    assert "sek-ret" not in "".join(traceback.format_exception(refused.value))


def test_a_check_asks_the_endpoint_and_tells_of_each_file_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = world(tmp_path / "world", train_rows=9)
    cfg = settings(data, tmp_path / "run", backbone=backbone(server))
    cfg = replace(cfg, benchmark=replace(cfg.benchmark, test=""))
    with caplog.at_level("INFO"), Session() as session:
        check(cfg, session)
        assert len(server.requests) == 1
        server.faults = ["401"]
        with pytest.raises(ConfigError, match="2 problems"):
            check(replace(cfg, k=0), session)
    assert len(server.requests) == 2
    assert "k=0: at least 1 is needed" in capsys.readouterr().out
    told = [record.getMessage() for record in caplog.records if f"{data}/" in record.getMessage()]
    assert len(told) == 2 * len(set(told)) == 4  # of each file once in each of the two


def test_methods_are_refused_where_the_endpoint_cannot_serve_them(server: Server) -> None:
    able = {"token_logprobs": True, "continues": True}
    server.respond = lambda body: completion("yes", [("yes", -0.1)])
    check_method(Method(name="naive"), backbone(server))
    check_method(Method(name="flare"), backbone(server, **able))
    assert server.requests[-1]["max_tokens"] == 32  # as a run asks: for one token some models refuse to speak
    for name in ("selfrag", "replug"):
        with pytest.raises(ConfigError, match=rf"method\.name={name} works with whole distributions .*kind=openai"):
            check_method(Method(name=name), backbone(server, **able))
    for key in able:
        with pytest.raises(ConfigError, match=rf"backbone\.{key}=false"):
            check_method(Method(name="flare"), backbone(server, **(able | {key: False})))


RUNS, REFUSED = "runs", "whole distributions"
CELLS = [(name, "vllm", RUNS) for name in ("naive", "replug", "selfrag", "flare")]
CELLS += [("naive", "openai", RUNS), ("flare", "openai", RUNS)]
CELLS += [("replug", "openai", REFUSED), ("selfrag", "openai", REFUSED)]


@pytest.mark.parametrize(("name", "kind", "ends"), CELLS)
def test_each_method_on_each_kind_of_generator_runs_or_is_refused(
    server: Server, name: str, kind: str, ends: str
) -> None:
    """What the vLLM cells answer is test_vllm's matter; an endpoint's answer comes over the wire here."""
    method = Method(name=name)
    if kind == "vllm":
        check_method(method, Backbone(name="micro_small", model="microworld/models/micro_small"))
        return
    settings = backbone(server, token_logprobs=True, continues=True)
    server.respond = doubtful_reader
    if ends == REFUSED:
        with pytest.raises(ConfigError, match=rf"method\.name={name} works with {REFUSED}"):
            check_method(method, settings)
        return
    check_method(method, settings)
    answer = asyncio.run(over_the_wire(settings, method))
    assert (answer.text, answer.retrievals) == (("Osterby", 0) if name == "naive" else ("Norvale.", 1))


def doubtful_reader(body: Json) -> Json:
    """Reads Norvale where it stands in the documents, else guesses a town that it is not sure of."""
    known = "Norvale" in body["messages"][0]["content"]
    text, logprob = ("Norvale.", -0.01) if known else ("Osterby", -2.0)
    return completion(text, [(text, logprob)] if body.get("logprobs") else None)


async def over_the_wire(settings: Backbone, method: Method) -> Answer:
    """An answer over a document that does not help; a search finds one that does."""

    async def search(query: str, k: int) -> list[Document]:
        return [Document("d2", "Alder bridge", "The Alder bridge is in Norvale.")]

    llm = Endpoint(settings)
    async with llm.client:
        tools = Tools(llm, Prompts(), "factoid", 16, method=method, search=search)
        unhelpful = [Document("d1", "Mills", "The mill is old.")]
        return await open_method(method)("Where is the Alder bridge?", unhelpful, tools)


def test_what_the_configuration_promises_is_asked_for_at_the_start(server: Server) -> None:
    promised = backbone(server, retries=0, token_logprobs=True, continues=True)
    with pytest.raises(ConfigError, match=r"does not work as configured: .*do not cover the reply"):
        check_method(Method(name="flare"), promised)
    server.faults = ["401 bad key"]
    with pytest.raises(ConfigError, match=r"refuses: status 401: .*bad key"):
        check_method(Method(name="naive"), backbone(server))
    for url in ("http://[::1/v1", "http://host:port/v1", "http://host:99999/v1", "http://", "http://h/\x01v1"):
        with pytest.raises(ConfigError, match=r"backbone\.base_url=.* is no URL"):
            check_method(Method(name="naive"), Backbone(name="b", kind="openai", model="m", base_url=url))
    with pytest.raises(ConfigError, match=r"backbone\.base_url='host' is no URL"):
        check_method(Method(name="naive"), backbone(server, base_url="host"))
    with pytest.raises(ConfigError, match="api_key_env='NO_SUCH_KEY'"):
        check_method(Method(name="naive"), backbone(server, api_key_env="NO_SUCH_KEY"))
