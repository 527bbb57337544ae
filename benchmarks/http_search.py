"""Search over HTTP beside the search itself: `wbrag serve` in a process of its own, asked by clients that wait for each
answer.

    python benchmarks/http_search.py [--rows 1000000] [--dimension 384] [--clients 4] [--seconds 60] [--rounds 3]

The vectors are drawn, the questions are encoded by the hashing encoder, on both sides. Rounds in turns, one client and
all of them; medians. Exit code 1 when a bar is missed: p50 <= 1.3 x the search itself, no error, memory flat.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from synthetic import blocks, median, passages

from wbrag.config import Encoder
from wbrag.retrieval.encoding import open_encoder
from wbrag.serve.hits import Served
from wbrag.store.changes import publish, write_piece
from wbrag.store.place import place_of
from wbrag.store.rows import schema_in, with_vectors
from wbrag.store.vectors import spec_of
from wbrag.store.versions import encoder_note

ROOT = Path(__file__).resolve().parents[1]
K, FRAGMENT, RATIO, GROWTH = 5, 1_000_000, 1.3, 1.05


def made(folder: Path, rows: int, dimension: int) -> Path:
    """A flat store of drawn vectors that says that the hashing encoder made them."""
    told = Encoder(name="hashing", kind="hashing", model="hashing", dimension=dimension)
    place, spec, first, pieces, some = place_of(folder), spec_of("flat_fp16", dimension), 0, [], list[np.ndarray]()
    for block in blocks(rows, dimension):
        some.append(block.astype(np.float16))
        first += len(block)
        if first == rows or sum(map(len, some)) >= FRAGMENT:
            vectors = np.concatenate(some)
            table = passages(first - len(vectors), first)
            pieces.append(
                write_piece(place, with_vectors(table, vectors, schema_in(place, None, table.schema, dimension)), spec)
            )
            some = []
    publish(folder, pieces, spec, open_encoder(told).fingerprint, encoder_note(told))
    return folder


@contextmanager
def serving(store: Path) -> Iterator[tuple[int, int]]:
    """The server's port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = [sys.executable, str(ROOT / "jobs" / "serve.py"), str(store), "--port", str(port)]
    server = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/health")
                break
            except OSError:
                time.sleep(0.1)
        yield port, server.pid
    finally:
        server.terminate()
        server.wait(20)


def asked(clients: int, seconds: float, client: Callable[[], Callable[[str], None]]) -> tuple[list[float], list[str]]:
    """Seconds of each answer of clients that ask for so long, and what went wrong."""
    taken, wrong, end = list[float](), list[str](), time.perf_counter() + seconds

    def ask(number: int) -> None:
        search, asked = client(), 0
        while (begin := time.perf_counter()) < end:
            asked += 1
            try:
                search(f"What do you know of passage p{number * 7919 + asked * 104_729 % 99_991}?")
                taken.append(time.perf_counter() - begin)
            except (OSError, ValueError, http.client.HTTPException) as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return taken, wrong


def over_http(port: int) -> Callable[[str], None]:
    """A client with a connection of its own, as applications keep one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def search(question: str) -> None:
        body = json.dumps({"question": question, "k": K})
        connection.request("POST", "/search", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        if answer.status != 200 or len(told["results"][0]["hits"]) != K:
            raise ValueError(f"{answer.status}: {told}")

    return search


def itself(served: Served) -> Callable[[str], None]:
    """The search itself, in this process: the question encoded, the store searched."""
    served.kb.search([""], 1)

    def search(question: str) -> None:
        if len(served.kb.search([question], K)[0]) != K:
            raise ValueError("too few hits")

    return search


def memory(pid: int) -> int:
    """Bytes of a process that no file backs."""
    told = Path(f"/proc/{pid}/status").read_text().split("RssAnon:")[1].split()[0]
    return int(told) * 1024


def watched(pid: int, stop: threading.Event, into: list[int]) -> None:
    """Measure every half second."""
    while not stop.wait(0.5):
        into.append(memory(pid))


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60, help="of HTTP with all clients, over all rounds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    each, failed = args.seconds / args.rounds, False
    with tempfile.TemporaryDirectory() as folder:
        store = made(Path(folder, "store"), args.rows, args.dimension)
        served = Served(store)
        with serving(store) as (port, pid):
            ways = {"itself": lambda: itself(served), "http": lambda: over_http(port)}
            for way in ways.values():
                asked(args.clients, 2, way)  # warm
            sizes, stop = list[int](), threading.Event()
            watcher = threading.Thread(target=watched, args=(pid, stop, sizes))
            watcher.start()
            for clients in (1, args.clients):
                medians: dict[str, list[float]] = {name: [] for name in ways}
                count, wrong = dict.fromkeys(ways, 0), list[str]()
                for _ in range(args.rounds):
                    for name, way in ways.items():
                        taken, errors = asked(clients, each if clients > 1 and name == "http" else each / 4, way)
                        medians[name].append(median(taken))
                        count[name] += len(taken)
                        wrong += errors
                itself_p50, http_p50 = (1000 * median(medians[name]) for name in ways)
                ratio = http_p50 / itself_p50
                failed |= ratio > RATIO or bool(wrong)
                told = f"itself p50 {itself_p50:.1f} ms, over HTTP {http_p50:.1f} ms: {ratio:.3f} (bar {RATIO})"
                print(f"{clients} clients: {told}; {count['http']:,} answers, {len(wrong)} errors {wrong[:1] or ''}")
            stop.set()
            watcher.join()
    early, late = (max(some) for some in (sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]))
    failed |= late > GROWTH * early
    print(
        f"{args.rows:,} x {args.dimension} flat, {os.cpu_count()} cores; the server's own memory: "
        f"{early / 2**20:.0f} MB in the first half, {late / 2**20:.0f} MB in the second (bar x {GROWTH})"
    )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
