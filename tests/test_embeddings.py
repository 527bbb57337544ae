"""Vectors of an OpenAI-compatible endpoint, against a server that counts, fails and quotes what it is sent."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from wbrag.config import ConfigError, Encoder, TrainConfig
from wbrag.retrieval.embeddings import pause_asked
from wbrag.retrieval.encoding import open_encoder
from wbrag.run.inputs import check_secrets

KEY = "sk-embed-0123"


class Server(ThreadingHTTPServer):
    """Embeds a text as its length and first letters, in the wrong order; plays `faults` first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[int] = []
        self.retry_after, self.code = "0", "none"
        self.requests: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        status = self.server.faults.pop(0) if self.server.faults else 200
        size = body.get("dimensions", 4)
        rows = [[float(len(t)), *map(float, t.encode().ljust(size, b"x")[1:size])] for t in body["input"]]
        told = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)][::-1]
        found: dict[str, Any] = {"object": "list", "data": told, "model": body["model"], "usage": {}}
        if status != 200:
            found = {"error": {"message": f"no: {self.headers['Authorization']}", "code": self.server.code}}
        data = json.dumps(found).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Retry-After", self.server.retry_after),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("EMBED_KEY", f" {KEY}\n")
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def settings(server: Server, **more: object) -> Encoder:
    own: dict[str, Any] = {"query_prefix": "q: ", "batch_size": 2, "base_url": server.url, "api_key_env": "EMBED_KEY"}
    return Encoder(**{"name": "e", "kind": "openai", "model": "embed-1", **own, **more})


def test_texts_go_in_batches_and_come_back_in_order(server: Server) -> None:
    encoder = open_encoder(settings(server, max_length=2))
    assert encoder.dimension == 4
    texts = ["one", "", "three and more than two tokens", "äöü" * 3, "five"]
    vectors = encoder.encode_passages(texts)
    sent = [one for body in server.requests[1:] for one in body["input"]]
    assert [len(body["input"]) for body in server.requests[1:]] == [2, 2, 1]
    assert sent == ["one", "-", "three ", "äöü", "five"]  # an empty text, and one too long, would cost their batch
    assert vectors.dtype == np.float16
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=1e-3)
    assert np.array_equal(vectors, np.concatenate([encoder.encode_passages([text]) for text in texts]))
    encoder.encode_queries(["why"])
    assert server.requests[-1]["input"] == ["q: why"]
    assert encoder.encode_queries([]).shape == (0, 4)


def test_vectors_are_told_apart_by_the_model_alone(server: Server) -> None:
    one = open_encoder(settings(server)).fingerprint
    assert one == open_encoder(settings(server, name="f", batch_size=9, base_url=f"{server.url}/")).fingerprint
    for more in ({"model": "embed-2"}, {"dimension": 8}, {"passage_prefix": "p: "}):
        assert open_encoder(settings(server, **more)).fingerprint != one
    assert open_encoder(settings(server, dimension=8)).dimension == 8


def test_what_passes_is_tried_again_and_what_does_not_is_told_without_the_key(server: Server) -> None:
    encoder = open_encoder(settings(server))
    server.faults = [429, 503]
    assert encoder.encode_queries(["a"]).shape == (1, 4)
    server.faults = [401]
    with pytest.raises(ConfigError, match=r"encoder\.model embed-1\): no embeddings: .*401") as told:
        encoder.encode_queries(["a"])
    assert KEY not in str(told.value)
    assert len(server.requests) == 5
    with pytest.raises(ConfigError, match=r"encoder\.api_key_env='NOT_SET'"):
        open_encoder(settings(server, api_key_env="NOT_SET"))
    with pytest.raises(ConfigError, match=r"encoder\.base_url='127.0.0.1' is no URL"):
        open_encoder(settings(server, base_url="127.0.0.1"))


@pytest.mark.parametrize(
    ("after", "pause"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("0", 0),
        ("-3", 0),
        ("", 0),
        ("soon", 0),
        ("nan", 0),
        ("\xb2", 0),
        ("1e999", float("inf")),
    ],
)
def test_a_pause_is_what_the_endpoint_asks_for_where_that_can_be_read(after: str, pause: float) -> None:
    assert pause_asked(after) == pause


def test_a_pause_may_be_a_date(server: Server) -> None:
    assert 1.0 <= pause_asked(formatdate(time.time() + 3, usegmt=True)) <= 3.0
    assert pause_asked(formatdate(time.time() - 3, usegmt=True)) == 0
    assert pause_asked("Mon, 99 Foo 2026 00:00:00 GMT") == 0
    encoder = open_encoder(settings(server))
    server.faults, server.retry_after = [503], formatdate(time.time() + 2, usegmt=True)
    begin = time.monotonic()
    encoder.encode_queries(["a"])
    assert 0.9 <= time.monotonic() - begin < 4.0


def test_what_no_pause_mends_is_told_at_once(server: Server) -> None:
    encoder = open_encoder(settings(server))
    server.faults, server.retry_after = [429] * 9, "3600"
    with pytest.raises(
        ConfigError, match=r"^http\S+ \(encoder\.model embed-1\): no embeddings: status 429: .* \(Retry-After: 3600 s\)"
    ):
        encoder.encode_queries(["a"])
    server.retry_after, server.code = "30", "insufficient_quota"
    with pytest.raises(ConfigError, match="insufficient_quota"):
        encoder.encode_queries(["a"])
    assert len(server.faults) == 7


@pytest.mark.parametrize("proxy", ["socks5://u:sek-ret@127.0.0.1:1", "http://u:sek-ret#x@127.0.0.1:1"])
def test_a_proxy_that_no_client_can_have_does_no_harm_where_none_is_needed(
    server: Server, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="ALL_PROXY, NO_PROXY and SSL_CERT_FILE as set") as refused:
        open_encoder(settings(server))
    assert "sek-ret" not in "".join(traceback.format_exception(refused.value))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1/128")
    assert open_encoder(settings(server)).dimension == 4


def test_a_key_among_the_settings_is_refused_and_not_repeated(server: Server) -> None:
    for more in ({"api_key_env": KEY}, {"base_url": f"https://me:{KEY}@example.org/v1"}):
        with pytest.raises(ConfigError, match=r"encoder\.(api_key_env|base_url)") as told:
            check_secrets(TrainConfig(encoder=settings(server, **more)))
        assert KEY not in str(told.value)
