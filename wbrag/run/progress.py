"""What a running job shows, from its first second: one live line on a terminal; elsewhere plain lines in the log, the
longer a stage takes the fewer.

A stage may go on within another: the innermost one is shown.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TextIO, TypeVar

log = logging.getLogger(__name__)

#: Between two lines of the log: so many seconds, or this share of what the stage has taken so far.
SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES = 10.0, 0.05
SECONDS_BETWEEN_POLLS = 1.0
#: What a line of the log may take to be written.
SECONDS_TO_LOG = 0.05
#: To the start of a terminal's line, which is then empty. There are no colours, so NO_COLOR has nothing to take away.
CLEAR = "\r\x1b[2K"

#: What engines have done since their process started (`actors.Generator.progress`). The difference of two readings is
#: never negative, as a restarted process counts from 0 again.
Counts = Counter[str]
Item = TypeVar("Item")

_stages: list[threading.Event] = []  # those that go on; the last is shown


def status(
    stage: str, before: int, goal: int, counts: Counts, seconds: float, waiting: str = "waiting for the engine"
) -> list[str]:
    """The parts of a line: `before` of `goal` rows were written by an earlier run, `counts` happened in these
    `seconds`; `waiting`: for what, as long as nothing happens. Calls are told as they come, however long the first
    example takes.
    """
    done = min(goal, before + counts["done"])
    told = [f"{stage}: {done:,} of {goal:,}"]
    if not counts["begun"]:
        return [*told, f"{waiting}, {seconds:.0f} s"]
    if not counts["calls"] and not counts["done"]:
        return [*told, f"{counts['begun']:,} under way, waiting for the first answer, {seconds:.0f} s"]
    told += [f"{counts[key]:,} {key}" for key in ("kept", "failed") if counts[key]]
    told += [f"{counts['calls'] / seconds:,.1f} calls/s"] * bool(counts["calls"])
    if tokens := counts["prompt_tokens"] + counts["completion_tokens"]:
        told += [f"{tokens / seconds:,.0f} tokens/s"]
    if not counts["done"]:
        return [*told, f"{counts['calls']:,} calls for {counts['begun']:,} under way"]
    if done == goal:
        return [*told, "writing them"]
    return [*told, f"{in_words((goal - done) * seconds / counts['done'])} left"]


def in_words(seconds: float) -> str:
    """A time that is to come, no more exact than anyone knows it."""
    if seconds < 10:
        return "a few seconds"
    for unit, size, most in (("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, 129_600)):
        if seconds < most:
            return f"about {round(seconds / size, -1 if size == 1 else 0):.0f} {unit}"
    return f"about {seconds / 86_400:.0f} days"


def fitted(parts: Sequence[str], columns: int) -> str:
    """The parts as one line of at most so many columns: of those in the middle the last go first, then the end."""
    kept = list(parts)
    while len(kept) > 1 and len(", ".join(kept)) > columns:
        del kept[-2 if len(kept) > 2 else -1]
    return ", ".join(kept)[:columns]


@contextmanager
def shown(
    stage: str, before: int, goal: int, poll: Callable[[], Counts | None], waiting: str = "waiting for the engine"
) -> Iterator[None]:
    """Show what engines do while the block runs; `poll` gives the counts, None where no engine answers."""
    since, first, now = time.monotonic(), poll() or Counts(), Counts()

    def parts(_: float) -> list[str]:
        nonlocal since, now
        idle = not now["begun"]
        # A process that was restarted counts anew: what it said before stays until it has begun as many again.
        now = max((poll() or first) - first, now, key=lambda counts: counts["begun"])
        if idle and now["begun"]:  # loading a model does not count
            since = time.monotonic() - SECONDS_BETWEEN_POLLS
        return status(stage, before, goal, now, max(time.monotonic() - since, 1e-9), waiting)

    with _shown(parts):
        yield


@contextmanager
def working(stage: str) -> Iterator[None]:
    """Show that a stage goes on, and for how long it has."""
    with _shown(lambda seconds: [stage, *([f"{seconds:.0f} s"] if seconds >= 1 else [])]):
        yield


def watched(stage: str, items: Iterable[Item], goal: int, size: Callable[[Item], int]) -> Iterator[Item]:
    """The items as they come, each of which brings so much of the `goal` nearer, which is shown meanwhile."""
    done, taken, started = 0, 0.0, time.monotonic()

    def parts(seconds: float) -> list[str]:
        told = [f"{stage}: {min(done, goal):,} of {goal:,}"]
        if not done:
            return [*told, f"{seconds:.0f} s"]
        rate = done / taken  # when the last one came: between two of them nobody knows more
        return [*told, f"{rate:,.0f} a second", f"{in_words(max(0.0, goal / rate - seconds))} left"]

    with _shown(parts):
        for item in items:
            done, taken = done + size(item), max(time.monotonic() - started, 1e-9)
            yield item


@contextmanager
def _shown(parts: Callable[[float], Sequence[str]]) -> Iterator[None]:
    """Show the parts of a line, which are asked for with the seconds since the start, while the block runs."""
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(parts, ended), daemon=True)
    _stages.append(ended)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _stages.remove(ended)


def _show(parts: Callable[[float], Sequence[str]], ended: threading.Event) -> None:
    terminal = _terminal()
    level = logging.DEBUG if terminal else logging.INFO  # what the live line shows is not shown again
    started, due = time.monotonic(), 0.0 if _stages[0] is ended else SECONDS_BETWEEN_POLLS
    with _drawing(terminal) if terminal else nullcontext(lambda line: None) as draw:
        while True:
            seconds = time.monotonic() - started
            if _stages[-1] is ended:
                told = parts(max(seconds, 1e-9))
                draw(fitted(told, _columns(terminal)) if terminal else "")
                if seconds >= due:
                    due = seconds + max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * seconds)
                    log.log(level, ", ".join(told))
            if ended.wait(SECONDS_BETWEEN_POLLS):
                return


@contextmanager
def _drawing(terminal: TextIO) -> Iterator[Callable[[str], None]]:
    """What draws the live line. What is logged to stderr in the block stands on lines of its own, not behind it: the
    line goes before, and is not drawn for a moment. At last it goes for good.
    """
    pen, logged = threading.Lock(), 0.0

    def draw(line: str) -> None:
        with pen:
            if time.monotonic() - logged >= SECONDS_TO_LOG:
                print(end=f"{CLEAR}{line}", file=terminal, flush=True)

    def clear(_: logging.LogRecord) -> bool:
        nonlocal logged
        with pen:
            print(end=CLEAR, file=terminal, flush=True)
            logged = time.monotonic()
        return True

    streams = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is sys.stderr]
    for one in streams:
        one.addFilter(clear)
    try:
        yield draw
    finally:
        for one in streams:
            one.removeFilter(clear)
        print(end=CLEAR, file=terminal, flush=True)
        if terminal is not sys.stderr:
            terminal.close()


def _terminal() -> TextIO | None:
    """The terminal behind stderr, wherever stderr is sent meanwhile (`job._starting`); None where there is none."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w")
    except (OSError, ValueError):  # an object of Python's alone
        return sys.stderr


def _columns(terminal: TextIO) -> int:
    """The columns that a line may have without the terminal breaking it."""
    try:
        return max(1, (os.get_terminal_size(terminal.fileno()).columns or 80) - 1)
    except (OSError, ValueError):
        return 79
