"""Vectors of an OpenAI-compatible endpoint, against a server that counts, fails and quotes what it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from wbrag.config import ConfigError, Encoder, TrainConfig
from wbrag.retrieval.encoding import open_encoder
from wbrag.run.inputs import check_secrets

KEY = "sk-embed-0123"


class Server(ThreadingHTTPServer):
    """Embeds a text as its length and first letters, in the wrong order; plays `faults` first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[int] = []
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
            found = {"error": {"message": f"no: {self.headers['Authorization']}"}}
        data = json.dumps(found).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Retry-After", "0"),
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


def test_a_key_among_the_settings_is_refused_and_not_repeated(server: Server) -> None:
    for more in ({"api_key_env": KEY}, {"base_url": f"https://me:{KEY}@example.org/v1"}):
        with pytest.raises(ConfigError, match=r"encoder\.(api_key_env|base_url)") as told:
            check_secrets(TrainConfig(encoder=settings(server, **more)))
        assert KEY not in str(told.value)
