"""FlashRAG's release by name: fetched from a server of the hub's protocol, gone on with, checked, read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).resolve().parents[1]
RELEASE = "datasets/RUC-NLPIR/FlashRAG_datasets"
COMMIT = "c" * 40
#: What a new process does, as HF_ENDPOINT is read when the client is imported: the files that are named, or why not.
FETCH = """
import json, sys
from pathlib import Path
from huggingface_hub import constants
from wbrag.data.benchmarks import write_corpus
from wbrag.data.flashrag import InputError
from wbrag.data.hub import fetched
from wbrag.store.files import sha256_file
constants.DOWNLOAD_CHUNK_SIZE = 1000
told = []
for url in json.loads(sys.argv[1]):
    try:
        found = fetched(url, sha256_file)
        passages = write_corpus(found, Path(sys.argv[2])).passages if url.endswith(".zip") else 0
        told.append(passages or found.read_text())
    except InputError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as packed:
        rows = [{"id": str(i), "contents": f'"Town {i}"\nText {os.urandom(200).hex()}.'} for i in range(50)]
        packed.writestr("wiki18_100w.jsonl", "\n".join(map(json.dumps, rows)))
    return held.getvalue()


class Hub(BaseHTTPRequestHandler):
    """Files of one data set: HEAD tells what they are, GET gives them, or the part that is asked for."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []
    #: What goes wrong with the bytes of a file: cut short once, or changed.
    short: ClassVar[set[str]] = set()
    spoilt: ClassVar[set[str]] = set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        repo, _, name = self.path.strip("/").partition("/resolve/main/")
        data = self.files.get(name) if repo == RELEASE else None
        if data is None:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound" if repo == RELEASE else "RepoNotFound"})
            return
        large = name.endswith(".zip")
        etag = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)
        told = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag.hexdigest()}"', "Accept-Ranges": "bytes"}
        told |= {"X-Linked-ETag": told["ETag"], "X-Linked-Size": str(len(data))} if large else {}
        if not body:
            self.reply(200, data, told, body=False)
            return
        start = self.headers.get("Range", "")
        self.asked.append((name, start))
        data = bytes(len(data)) if name in self.spoilt else data
        first = int(start.removeprefix("bytes=").rstrip("-")) if start else 0
        more = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if start else {}
        self.reply(206 if start else 200, data[first:], told | more, cut=name in self.short)
        self.short.discard(name)

    def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool = True, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2 if cut else len(data)] if body else b"")
        self.close_connection = cut


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    Hub.files = {"nq/test.jsonl": b'{"id": "1"}\n', "retrieval-corpus/wiki18_100w.zip": zipped(), "bad.zip": zipped()}
    Hub.short, Hub.spoilt = {"retrieval-corpus/wiki18_100w.zip"}, {"bad.zip"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(hub: str, home: Path, *paths: str) -> list[str | int]:
    foreign = re.compile(r"HF_|HUGGING_FACE_|.*_proxy$", re.IGNORECASE)
    given = {key: value for key, value in os.environ.items() if not foreign.match(key)}
    given |= {"HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", FETCH, json.dumps([f"hf://{path}" for path in paths]), str(home / "o.parquet")]
    ended = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    told: list[str | int] = json.loads(ended.stdout)
    return told


def test_the_release_is_fetched_once_goes_on_where_it_was_cut_and_is_read_from_its_zip(
    hub: str, tmp_path: Path
) -> None:
    wanted = [f"{RELEASE}/nq/test.jsonl", f"{RELEASE}/retrieval-corpus/wiki18_100w.zip"]
    assert fetch(hub, tmp_path, *wanted) == ['{"id": "1"}\n', 50]
    parts = [start for name, start in Hub.asked if name.endswith("100w.zip")]
    assert (parts[0], len(parts)) == ("", 2)
    assert re.fullmatch(r"bytes=[1-9]\d*-", parts[1])
    before = len(Hub.asked)
    assert fetch(hub, tmp_path, *wanted) == ['{"id": "1"}\n', 50]
    assert len(Hub.asked) == before


def test_what_cannot_be_had_or_came_damaged_is_told_with_what_to_do(hub: str, tmp_path: Path) -> None:
    other = "datasets/no/such/nq/test.jsonl"
    damaged, absent, no_set, no_url = fetch(
        hub, tmp_path, f"{RELEASE}/bad.zip", f"{RELEASE}/x.jsonl", other, "datasets/x"
    )
    assert str(damaged).startswith(f"hf://{RELEASE}/bad.zip: what came is damaged: its hash is ")
    assert absent == f"hf://{RELEASE}/x.jsonl there is no such file in its data set ({hub}, HF_TOKEN is not set)"
    told = "its data set is not there, or is private: check the name, or set HF_TOKEN"
    assert no_set == f"hf://{other} {told} ({hub}, HF_TOKEN is not set)"
    assert str(no_url).startswith("hf://datasets/x: a file of a hub is hf://datasets/OWNER/NAME/PATH")
    assert not list((tmp_path / "hub").rglob("blobs/*"))  # a damaged file is not kept
