"""What a running stage shows: one live line on a terminal, and every ten seconds a line in the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_POLLS = 1.0

#: What engines have done since their process started (`actors.Generator.progress`). The difference of two readings is
#: never negative, as a restarted process counts from 0 again.
Counts = Counter[str]


def status_line(stage: str, before: int, goal: int, counts: Counts, seconds: float) -> str:
    """One line: `before` of `goal` rows were written by an earlier run, `counts` happened in these `seconds`."""
    done = min(goal, before + counts["done"])
    if not counts["begun"]:
        return f"{stage}: {done} of {goal}, waiting for the engine, {seconds:.0f} s"
    more = "".join(f", {counts[key]} {key}" for key in ("kept", "failed") if counts[key])
    tokens = (counts["prompt_tokens"] + counts["completion_tokens"]) / seconds
    speed = f"{counts['calls'] / seconds:.1f} calls/s, {tokens:,.0f} tokens/s"
    left = f"{(goal - done) * seconds / counts['done']:.0f} s" if counts["done"] else "?"
    return f"{stage}: {done} of {goal}{more}, {speed}, {left} left"


@contextmanager
def shown(stage: str, before: int, goal: int, poll: Callable[[], Counts | None]) -> Iterator[None]:
    """Show the stage's progress while the block runs; `poll` gives the counts, None where no engine answers."""
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(stage, before, goal, poll, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(stage: str, before: int, goal: int, poll: Callable[[], Counts | None], ended: threading.Event) -> None:
    live = sys.stderr.isatty()
    level = logging.DEBUG if live else logging.INFO  # what the live line shows is not shown again
    logged = since = time.monotonic()
    first, now = poll() or Counts(), Counts()
    while not ended.wait(SECONDS_BETWEEN_POLLS):
        waiting = not now["begun"]
        # A process that was restarted counts anew: what it said before stays until it has begun as many again.
        now = max((poll() or first) - first, now, key=lambda counts: counts["begun"])
        if waiting and now["begun"]:  # loading a model does not count
            since = time.monotonic() - SECONDS_BETWEEN_POLLS
        line = status_line(stage, before, goal, now, time.monotonic() - since)
        if live:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)  # noqa: T201
        if time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            log.log(level, line)
    if live:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)  # noqa: T201
