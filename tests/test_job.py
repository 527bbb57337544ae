"""How Ray is started: what is said meanwhile, who handles SIGTERM afterwards; and what a session keeps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from wbrag.config import Cluster, ConfigError, Encoder
from wbrag.run import job
from wbrag.run.job import (
    LEVEL_IS_SET,
    LONGEST_TMPDIR,
    Session,
    _starting,
    check_address,
    file_rows,
    sockets_folder,
    tell_unwhole,
)
from wbrag.run.progress import Counts

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


def test_what_ray_forks_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("lance")
    with _starting():
        subprocess.run(["true"], preexec_fn=os.getpid, check=True)
    assert not [one for one in recwarn if "fork" in str(one.message)]


def test_where_ray_takes_long_to_start_what_is_said_is_shown_meanwhile(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SLOW_SECONDS", 0.2)
    with _starting():
        os.write(2, LEVEL_IS_SET + b" X to 3\nstarting Ray, 10 s\n")
        seen, until = capfd.readouterr().err, time.monotonic() + 10
        assert not seen
        while "10 s" not in seen and time.monotonic() < until:
            time.sleep(0.05)
            seen += capfd.readouterr().err
        os.write(2, b"starting Ray, 20 s\n" + LEVEL_IS_SET + b" X to 3\n")
    assert seen + capfd.readouterr().err == "starting Ray, 10 s\nstarting Ray, 20 s\n"


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
        (1_000_000, 64, 1024),
        (50_000, 512, None),
    ],
)
def test_small_tables_have_a_file_for_each_block_and_large_ones_some_hundred_files(
    goal: int, block_rows: int, rows: int | None
) -> None:
    assert file_rows(goal, block_rows) == rows


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:8265", "is the address of jobs"),
        ("127.0.0.1:1", "no Ray cluster answers there: .*refused"),
        ("no-such-host.invalid:6379", "no Ray cluster answers there"),
        ("127.0.0.1:port", "no Ray cluster answers there"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
    ],
)
def test_an_address_where_no_cluster_is_is_told_at_once(address: str, told: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address}: {told}"):
        check_address(address)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["auto", "local", "ray://127.0.0.1:10001"])
def test_what_names_no_host_is_rays_to_find(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(("answer", "is_ray"), [(b"HTTP/1.1 400 Bad Request", False), (b"\0\0\0\x04\0\0\0\0\0", True)])
def test_what_answers_has_to_speak_as_a_head_node_does(answer: bytes, is_ray: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with nullcontext() if is_ray else pytest.raises(ConfigError, match=f"{address}: what answers there is no head"):
            check_address(address)
        thread.join()


def test_the_address_of_a_running_cluster_is_taken(ray_session: None) -> None:
    import ray

    check_address(ray.get_runtime_context().gcs_address)


def test_a_long_temporary_folder_gives_ray_another_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert sockets_folder() is None
    monkeypatch.setenv("TMPDIR", f"/tmp/{'x' * LONGEST_TMPDIR}")
    chosen = sockets_folder()
    assert chosen
    assert len(chosen) < LONGEST_TMPDIR
    assert os.access(chosen, os.W_OK)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        ConfigError, match=r"TMPDIR=/tmp/x+: too long for Ray's sockets, .*; set RAY_TMPDIR to a shorter"
    ):
        sockets_folder()


def test_replies_that_were_cut_and_empty_ones_are_told_at_the_end_of_a_stage(caplog: pytest.LogCaptureFixture) -> None:
    tell_unwhole("train", Counts(calls=9))
    assert caplog.messages == []
    tell_unwhole("train", Counts(calls=9, cut=2, empty=1))
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "train: 2 of 9 replies were cut by the token limit",
        "train: 1 of 9 replies are empty and score as such",
    ]
