"""How Ray is started: what is said meanwhile, who handles SIGTERM afterwards; and what a session keeps."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from wbrag.config import Cluster, Encoder
from wbrag.run.job import LEVEL_IS_SET, Session, _starting, file_rows

HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=64)


def test_one_line_of_what_is_said_while_ray_starts_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        with _starting():
            os.write(2, b"[2026-11-30 10:00:00,000 I 21 21] logging.cc:303: " + LEVEL_IS_SET + b" X to 3\n")
            os.write(2, "no such node: grün\n".encode())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "no such node: grün\nafterwards\n"


def test_a_handler_of_sigterm_outlives_the_start_of_ray() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with _starting():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as ray.init sets its own
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_encoders_stay_where_a_setting_changes_that_does_not_say_what_runs_where(ray_session: None) -> None:
    cluster = Cluster(encoders=2)
    with Session() as session:
        first = session.lend(HASHING, cluster)
        assert session.lend(HASHING, replace(cluster, block_rows=8, examples_in_flight=32)) is first
        assert session.lend(replace(HASHING, batch_size=3), cluster) is not first
        second = session.lend(HASHING, cluster)
        assert session.lend(HASHING, replace(cluster, encoders=3)) is not second


@pytest.mark.parametrize(
    ("goal", "block_rows", "rows"),
    [
        (1200, 64, None),
        (6400, 64, None),
        (6500, 64, 65),
        (100_000, 64, 1000),
        (1_000_000, 64, 2048),
        (50_000, 512, None),
    ],
)
def test_small_tables_have_a_file_for_each_block_and_large_ones_some_hundred_files(
    goal: int, block_rows: int, rows: int | None
) -> None:
    assert file_rows(goal, block_rows) == rows
