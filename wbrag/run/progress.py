"""What a running stage shows: one live line on a terminal, and every ten seconds a line in the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_POLLS = 1.0


@dataclass(slots=True)
class Counts:
    """What one engine has done since its process started; sums over engines are made with `total`."""

    begun: int = 0
    done: int = 0
    kept: int = 0
    failed: int = 0
    calls: int = 0
    calls_saved: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __sub__(self, other: Counts) -> Counts:
        """What happened between two readings; never negative, as a restarted process counts from 0 again."""
        return Counts(*(max(0, getattr(self, f.name) - getattr(other, f.name)) for f in fields(self)))


def total(counts: list[Counts]) -> Counts:
    """The sum, field by field."""
    return Counts(*(sum(getattr(c, f.name) for c in counts) for f in fields(Counts)))


def status_line(stage: str, before: int, goal: int, counts: Counts, seconds: float) -> str:
    """One line: `before` of `goal` rows were written by an earlier run, `counts` happened in these `seconds`."""
    done = min(goal, before + counts.done)
    if not counts.begun:
        return f"{stage}: {done} of {goal}, waiting for the engine, {seconds:.0f} s"
    rate = counts.done / seconds if seconds else 0.0
    eta = f"{(goal - done) / rate:.0f} s" if rate else "?"
    tokens = (counts.prompt_tokens + counts.completion_tokens) / seconds if seconds else 0.0
    kept = f", {counts.kept} kept" if counts.kept else ""
    failed = f", {counts.failed} failed" if counts.failed else ""
    speed = f"{counts.calls / seconds if seconds else 0.0:.1f} calls/s, {tokens:,.0f} tokens/s"
    return f"{stage}: {done} of {goal}{kept}{failed}, {speed}, {eta} left"


@contextmanager
def shown(stage: str, before: int, goal: int, poll: Callable[[], Counts | None]) -> Iterator[None]:
    """Show the stage's progress while the block runs; `poll` gives the counts, None where no engine answers.

    The clock of the rates starts with the first example begun, so that loading a model does not count.
    """
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
        waiting = not now.begun
        now = max(now, (poll() or first) - first, key=lambda counts: counts.begun)
        if waiting and now.begun:
            since = time.monotonic() - SECONDS_BETWEEN_POLLS
        line = status_line(stage, before, goal, now, time.monotonic() - since)
        if live:
            sys.stderr.write(f"\r\x1b[2K{line}")
            sys.stderr.flush()
        if time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            log.log(level, line)
    if live:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
