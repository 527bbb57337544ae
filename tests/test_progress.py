"""What a running job shows: one line that fits, in words, from the first second; plain lines where nobody watches."""

from __future__ import annotations

import logging
import os
import pty
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.run import progress
from wbrag.run.progress import Counts, fitted, in_words, status, watched, working

COUNTS = st.builds(
    Counts,
    st.fixed_dictionaries(
        {name: st.integers(0, 10**9) for name in ("begun", "done", "kept", "failed", "calls", "prompt_tokens")}
    ),
)


@given(COUNTS, st.integers(0, 10**8), st.floats(0.01, 10**7), st.integers(1, 200))
def test_a_line_is_one_line_at_any_width_and_keeps_what_matters_longest(
    counts: Counts, goal: int, seconds: float, columns: int
) -> None:
    parts = progress.status("train", 0, goal, counts, seconds, "loading the model")
    line = fitted(parts, columns)
    assert len(line) <= columns
    assert "\n" not in line
    assert line.startswith(parts[0][:columns])
    whole = ", ".join(parts)
    assert (line == whole) == (len(whole) <= columns)
    if len(f"{parts[0]}, {parts[-1]}") <= columns:
        assert line.endswith(parts[-1])


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "a few seconds"),
        (32, "about 30 seconds"),
        (100, "about 2 minutes"),
        (5399, "about 90 minutes"),
        (7000, "about 2 hours"),
        (129_599, "about 36 hours"),
        (10**6, "about 12 days"),
    ],
)
def test_what_is_left_is_told_in_words(seconds: float, told: str) -> None:
    assert in_words(seconds) == told


def test_calls_are_told_before_the_first_example_ends() -> None:
    begun = Counts(begun=64)
    assert ", ".join(status("train", 0, 500, begun, 3.0)) == (
        "train: 0 of 500, 64 under way, waiting for the first answer, 3 s"
    )
    called = begun + Counts(calls=120, prompt_tokens=3000)
    assert ", ".join(status("train", 0, 500, called, 10.0)) == (
        "train: 0 of 500, 12.0 calls/s, 300 tokens/s, 120 calls for 64 under way"
    )
    assert ", ".join(status("train", 0, 500, called + Counts(done=50), 10.0)).endswith("tokens/s, about 2 minutes left")
    assert ", ".join(status("train", 490, 500, called + Counts(done=10), 10.0)).endswith("tokens/s, writing them")


def test_items_are_given_on_and_the_innermost_stage_is_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_POLLS", 0.01)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with caplog.at_level(logging.INFO), working("index"):
        time.sleep(0.05)
        before = len(caplog.messages)
        for _ in watched("encode", ["ab", "c"], 3, len):
            time.sleep(0.1)
        inside = caplog.messages[before + 1 :]
    assert caplog.messages[0] == "index"
    assert set(caplog.messages[:before]) == {"index"}
    assert any(line.startswith("encode: 2 of 3, ") and line.endswith(" left") for line in inside)
    assert [line for line in inside if line.startswith("index")] in ([], ["index"])
    assert progress._stages == []


def test_a_terminal_of_forty_columns_gets_one_live_line_above_which_the_log_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a terminal of its own, as `script` makes one: what is written there is all that is seen."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_POLLS", 0.01)
    monkeypatch.setattr(progress, "_columns", lambda _: 39)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(follower, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        console = logging.StreamHandler(stderr)
        logging.getLogger().addHandler(console)
        try:
            with working("a stage whose name is much too long for so narrow a terminal"):
                time.sleep(0.05)
                logging.getLogger("other").warning("look")
                time.sleep(0.05)
        finally:
            logging.getLogger().removeHandler(console)
        drawn, until = "", time.monotonic() + 10
        while not drawn.endswith(progress.CLEAR) or drawn.count("look") < 1:  # a terminal gives what it has so far
            assert time.monotonic() < until, drawn
            with suppress(BlockingIOError):
                drawn += os.read(leader, 65536).decode()
    os.close(leader)
    states = drawn.split(progress.CLEAR)
    assert "look\r\n" in states
    assert {state for state in states if state not in ("", "look\r\n")} == {"a stage whose name is much too long for"}
    assert states[-1] == ""


def test_a_dumb_terminal_has_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert progress._terminal() is None
